"""How good an out-of-fold prognosis is: order, discrimination at a horizon, calibration, and use for a decision."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, StatisticalWarning
from lifelines.statistics import proportional_hazard_test

from neurorad.evaluation import metrics, time_metrics
from neurorad.evaluation.cox import fit_cox, log_rank_p, risk_sets
from neurorad.evaluation.folds import TRAINED_ONLY, Cell
from neurorad.evaluation.risk import OutOfFold
from neurorad.evaluation.tidy import NEEDED

MONTH = 365.25 / 12
HORIZONS = (12, 18, 24)
"""Months at which the time-dependent AUC is taken; calibration and decision curve are at the first."""
GRID = 40
"""Steps of the integral of the Brier score."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Risks of death by 12 months at which somebody might act."""
METRICS = (
    *("c_index", "uno_c", *(f"auc_{months}m" for months in HORIZONS)),
    *("ibs", "ibs_kaplan_meier", "ibs_gain", "calibration_slope", "calibration_in_the_large_12m"),
    *("hr_per_sd", "proportional_hazards_p", "hr_high_low", "log_rank_p"),
)
"""One row each in every cell, estimable or not."""


def horizon(cell: Cell, days: np.ndarray) -> float:
    """tau in days: the 90th percentile of follow-up, of whichever training fold (or tested set) is followed shortest.

    Beyond it few are left and censoring weights explode; it depends on no encoder.
    """
    assignments = cell.assignments()
    parts = [days[assignments[0] != TRAINED_ONLY]]
    parts += [days[fold_of != fold] for fold_of in assignments for fold in np.unique(fold_of[fold_of != TRAINED_ONLY])]
    return float(min(np.quantile(part, 0.9) for part in parts))


def time_grid(tau: float) -> np.ndarray:
    """The horizons in days, then `GRID` + 1 times from 0 to tau: where survival is predicted."""
    return np.r_[np.array(HORIZONS) * MONTH, np.linspace(0, tau, GRID + 1)]


def row(metric: str, value: float = np.nan, low: float = np.nan, high: float = np.nan, note: str = "") -> dict:
    """A metric's row with its interval; by default one that is not estimable."""
    return {"metric": metric, "value": float(value), "ci_low": float(low), "ci_high": float(high), "note": note}


def _bootstrapped(name: str, metric: Callable[..., np.ndarray], counts: np.ndarray, note: str = "") -> dict:
    e = metrics.bootstrapped(metric, counts=counts)
    note = note if np.isfinite(e.value) else "not estimable: no comparable pair"
    return row(name, e.value, e.ci_low, e.ci_high, note)


def prognosis_rows(
    found: OutOfFold, days: np.ndarray, event: np.ndarray, strata: np.ndarray, counts: np.ndarray, tau: float
) -> list[dict[str, Any]]:
    """`METRICS`, then calibration groups and decision curve (column `at`: predicted risk, threshold).

    Args:
        strata: `[n]` sites; patients are compared, and baseline hazards shared, within a site alone.
        counts: `[B, n]` of `bootstrap_counts`. tau: of `horizon`; found.grid: of `time_grid(tau)`.
    """
    risk = found.risk.mean(axis=0)
    pairs = metrics.comparable(days, event, strata)
    drawn = {
        "one": time_metrics.uncensored(days, event, strata),
        "all": time_metrics.uncensored(days, event, strata, counts),
    }

    def free(weights: np.ndarray | None) -> np.ndarray:
        return drawn["one" if weights is None else "all"]

    rows = [
        _bootstrapped("c_index", lambda weights=None: metrics.harrell_c(pairs, risk, weights), counts),
        _bootstrapped(
            "uno_c",
            lambda weights=None: time_metrics.uno_c(days, event, risk, tau, strata, free(weights), weights),
            counts,
            f"tau = {tau / MONTH:.1f} months",
        ),
    ]
    for months in HORIZONS:
        when = months * MONTH
        reason = _too_few(days, event, when)
        rows.append(
            row(f"auc_{months}m", note=reason)
            if reason
            else _bootstrapped(
                f"auc_{months}m",
                lambda weights=None, when=when: time_metrics.auc_at(
                    days, event, risk, when, strata, free(weights), weights
                ),
                counts,
            )
        )
    rows += brier_rows(found, days, event, strata, counts, free, tau)
    rows += calibration_rows(found, days, event, strata, counts)
    rows += hazard_rows(risk, days, event, strata)
    if not _too_few(days, event, HORIZONS[0] * MONTH):
        rows += calibration_groups(found, days, event, counts)
        rows += decision_rows(found, days, event, counts)
    return rows


def _too_few(days: np.ndarray, event: np.ndarray, when: float) -> str:
    dead, alive = int(((days <= when) & (event == 1)).sum()), int((days > when).sum())
    if min(dead, alive) >= NEEDED:
        return ""
    return f"not estimable: {dead} known dead and {alive} alive at {when / MONTH:.0f} months (needs {NEEDED} each)"


def brier_rows(
    found: OutOfFold,
    days: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray,
    counts: np.ndarray,
    free: Callable[[np.ndarray | None], np.ndarray],
    tau: float,
) -> list[dict[str, Any]]:
    """Integrated Brier score to tau, that of the training folds' Kaplan-Meier, and 1 - ratio (above 0: better)."""
    grid = found.grid[len(HORIZONS) :]
    if tau <= 0:
        return [row(name, note="not estimable: no follow-up") for name in ("ibs", "ibs_kaplan_meier", "ibs_gain")]

    def score(alive: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        scores = time_metrics.brier_at(days, event, alive[:, len(HORIZONS) :], grid, strata, free(weights), weights)
        return time_metrics.integrated(scores, grid)

    scores = {
        weights is None: (score(found.alive, weights), score(found.reference, weights)) for weights in (None, counts)
    }
    note = f"0 to {tau / MONTH:.1f} months"
    return [
        _bootstrapped("ibs", lambda weights=None: scores[weights is None][0], counts, note),
        _bootstrapped("ibs_kaplan_meier", lambda weights=None: scores[weights is None][1], counts, note),
        _bootstrapped(
            "ibs_gain",
            lambda weights=None: 1 - time_metrics.ratio(*scores[weights is None]),
            counts,
            f"{note}; 1 - IBS / IBS of Kaplan-Meier",
        ),
    ]


def calibration_rows(
    found: OutOfFold, days: np.ndarray, event: np.ndarray, strata: np.ndarray, counts: np.ndarray
) -> list[dict[str, Any]]:
    """Slope of a Cox model on the linear predictor (1 ideal, below: too extreme), and observed - predicted risk at 12 months."""
    when = HORIZONS[0] * MONTH
    rows = [row("calibration_slope", note="not estimable: every patient has the same risk")]
    if found.log_risk.std() > 1e-9:
        fit = fit_cox(risk_sets(days, event, strata), found.log_risk[:, None])
        finite = fit.covariance[0, 0] > 0 and np.isfinite(fit.coefficients[0]) and event.any()
        half = metrics.Z * np.sqrt(fit.covariance[0, 0]) if finite else np.nan
        slope = fit.coefficients[0] if finite else np.nan
        note = "" if finite else "not estimable: the slope is not finite"
        rows = [row("calibration_slope", slope, slope - half, slope + half, note)]
    reason = _too_few(days, event, when)
    if reason:
        return [*rows, row("calibration_in_the_large_12m", note=reason)]
    dead = 1 - found.alive[:, 0]

    def excess(weights: np.ndarray | None = None) -> np.ndarray:
        w = np.ones(len(days)) if weights is None else weights
        return 1 - time_metrics.survival_at(days, event, [when], weights)[..., 0] - (w @ dead) / w.sum(-1)

    return [*rows, _bootstrapped("calibration_in_the_large_12m", excess, counts, "observed - predicted risk of death")]


def calibration_groups(
    found: OutOfFold, days: np.ndarray, event: np.ndarray, counts: np.ndarray
) -> list[dict[str, Any]]:
    """Observed risk of death by 12 months (Kaplan-Meier) in groups of rising predicted risk, whose mean is `at`."""
    dead = 1 - found.alive[:, 0]
    groups = np.array_split(np.argsort(dead, kind="stable"), max(2, min(5, len(days) // 10)))
    rows = []
    for group in groups:

        def observed(weights: np.ndarray | None = None, group: np.ndarray = group) -> np.ndarray:
            mine = None if weights is None else weights[:, group]
            return 1 - time_metrics.survival_at(days[group], event[group], [HORIZONS[0] * MONTH], mine)[..., 0]

        shown = _bootstrapped("observed_risk_12m", observed, counts, f"{len(group)} patients")
        rows.append({**shown, "at": float(dead[group].mean())})
    return rows


def decision_rows(found: OutOfFold, days: np.ndarray, event: np.ndarray, counts: np.ndarray) -> list[dict[str, Any]]:
    """Net benefit at each of `THRESHOLDS` (`at`) of acting on the model, and on everybody; acting on nobody is 0."""
    predicted = {"net_benefit_12m": 1 - found.alive[:, 0], "net_benefit_of_all_12m": np.ones(len(days))}
    rows = []
    for name, dead in predicted.items():
        curves = {
            weights is None: time_metrics.net_benefit(days, event, dead, HORIZONS[0] * MONTH, THRESHOLDS, weights)
            for weights in (None, counts)
        }
        for i, threshold in enumerate(THRESHOLDS):

            def benefit(weights: np.ndarray | None = None, i: int = i, curves: dict = curves) -> np.ndarray:
                return curves[weights is None][..., i]

            rows.append({**_bootstrapped(name, benefit, counts), "at": threshold})
    return rows


def hazard_rows(risk: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> list[dict[str, Any]]:
    """Hazard ratio per SD of the risk, its proportionality, and the groups above and below the training median."""
    sd = risk.std()
    if sd > 0:
        ratio = hazard_ratio("hr_per_sd", risk / sd, days, event, strata)
        finite = np.isfinite(ratio["value"])
        proportional = (
            proportional_hazards(risk, days, event, strata)
            if finite
            else row("proportional_hazards_p", note=ratio["note"])
        )
        rows = [ratio, proportional]
    else:
        note = "not estimable: every patient has the same risk"
        rows = [row("hr_per_sd", note=note), row("proportional_hazards_p", note=note)]
    return rows + group_rows(risk > 0, days, event, strata, "hr_high_low")


def proportional_hazards(risk: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> dict[str, Any]:
    """p of the scaled Schoenfeld residuals against the rank of time (Grambsch and Therneau 1994), by lifelines."""
    table = pd.DataFrame({"risk": risk / risk.std(), "days": days, "event": event, "site": strata})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            fit = CoxPHFitter().fit(table, "days", "event", strata=["site"])
            p = proportional_hazard_test(fit, table, time_transform="rank").p_value.item()
    except (ConvergenceError, np.linalg.LinAlgError):
        return row("proportional_hazards_p", note="not estimable: the hazard ratio is not finite")
    return row("proportional_hazards_p", p, note="" if np.isfinite(p) else "not estimable: no residuals")


def group_rows(
    high: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, name: str
) -> list[dict[str, Any]]:
    """Hazard ratio (called `name`) and log-rank p of two groups; refused with fewer than 5 events in one of them."""
    arms = (int(event[high].sum()), int(event[~high].sum()))
    if min(arms) < NEEDED:
        note = f"not estimable: {arms[0]} and {arms[1]} events in the two groups (needs {NEEDED} each)"
        return [row(name, note=note), row("log_rank_p", note=note)]
    p = log_rank_p(days, event, high, strata)
    tied = "" if np.isfinite(p) else "not estimable: no death tells the groups apart"
    return [hazard_ratio(name, high.astype(float), days, event, strata), row("log_rank_p", p, note=tied)]


def hazard_ratio(name: str, x: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> dict[str, Any]:
    """Of one unit of `x` `[n]`, in a Cox model stratified by site; not estimable where it is not finite."""
    fit = fit_cox(risk_sets(days, event, strata), x[:, None])
    if not fit.converged or fit.covariance[0, 0] <= 0:
        return row(name, note="not estimable: the hazard ratio is not finite")
    log_ratio, half = fit.coefficients[0], metrics.Z * np.sqrt(fit.covariance[0, 0])
    return row(name, *np.exp([log_ratio, log_ratio - half, log_ratio + half]))
