"""May a prediction be acted on, and for whom: decision curves, calibration curves, conformal sets, reject option, subgroups.

Everything is read off the out-of-fold predictions of the probes; nothing is fitted here.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neurorad.evaluation import metrics
from neurorad.evaluation.calibration import THRESHOLDS, calibration_curve, net_benefit
from neurorad.evaluation.tidy import join_notes, shortage, warning
from neurorad.seeds import generator

ALPHAS = (0.1, 0.2)
RETAINED = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
SMALLEST = 10
"""Strata with fewer patients are suppressed: no number, no count."""
AGE_BANDS = ((0, 50, "below 50"), (50, 65.0001, "50 to 65"), (65.0001, np.inf, "above 65"))
EXTRA = {"at": np.nan, "variable": "", "stratum": ""}
"""Columns beside the tidy ones: the threshold, level or share a row is read at, and the patients it is about."""


def reliability(
    predictions: Iterable[pd.DataFrame], patients: pd.DataFrame, seed: int = 0, replicates: int = 500
) -> list[dict[str, Any]]:
    """Rows of every encoder and cell of the predictions, with the columns of `EXTRA`.

    Metrics: `net_benefit` and `net_benefit_all` (acting on everybody) at each threshold; `observed_share` at each bin's
    mean probability; `coverage`, `set_size` and `certain_share` (sets of one class) of the conformal sets at each level,
    by class and by site; `balanced_accuracy_retained` at each share of patients kept, the least certain left out first;
    and by subgroup `auc`, `sensitivity`, `specificity`, `calibration_gap` (mean probability minus share of positives),
    with `sensitivity_gap` and `specificity_gap` (largest minus smallest stratum).

    Args:
        predictions: of the probes. patients: patients.tsv of the test cohorts (sex, age, grade, vendor, field_strength).
    """
    rows: list[dict[str, Any]] = []
    keys = ["encoder", "endpoint", "protocol", "site"]
    strata = strata_of(patients)
    for table in predictions:
        for where, cell in table.groupby(keys, sort=False):
            first = {**dict(zip(keys, where, strict=True)), "n": len(cell), "n_positive": int(cell["label"].sum())}
            random = generator(seed, "reliability", *where[1:])
            counts = metrics.bootstrap_counts(len(cell), replicates, random)
            cell = cell.merge(strata, on=["cohort", "patient"], how="left", validate="many_to_one")
            parts = (decision_rows, curve_rows, conformal_rows, retained_rows, subgroup_rows)
            rows += [{**first, **EXTRA, **row} for part in parts for row in part(cell, counts)]
    return rows


def strata_of(patients: pd.DataFrame) -> pd.DataFrame:
    """Columns cohort, patient, sex, age band, grade, vendor, acquisition (protocol), field strength as text; None where unknown."""
    found = patients[["cohort", "patient"]].copy()
    for name, source in (("sex", "sex"), ("vendor", "vendor"), ("acquisition", "protocol")):
        values = patients[source] if source in patients else pd.Series(None, index=patients.index, dtype=object)
        found[name] = values.astype(object).where(values.notna(), None)
    age, grade, strength = (
        pd.to_numeric(patients[name], errors="coerce").astype(float)
        if name in patients
        else pd.Series(np.nan, index=patients.index)
        for name in ("age", "grade", "field_strength")
    )
    found["age band"] = None
    for low, high, name in AGE_BANDS:
        found.loc[(age >= low) & (age < high), "age band"] = name
    found["WHO grade"] = np.select([grade >= 4, grade.notna()], ["4", "below 4"], "")
    found["field strength"] = [f"{value:g} T" if np.isfinite(value) else None for value in strength]
    found["WHO grade"] = found["WHO grade"].where(grade.notna(), None)
    return found


def _row(metric: str, e: metrics.Estimate, note: str = "", **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": note, **more}


def _share(metric: str, hits: np.ndarray, **more: Any) -> dict[str, Any]:
    """A proportion with Wilson's interval."""
    n, k = len(hits), int(hits.sum())
    return _row(metric, metrics.Estimate(k / n if n else np.nan, *metrics.wilson(k, n)), n=n, **more)


def decision_rows(cell: pd.DataFrame, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Net benefit of the model and of calling everybody positive, at each of `THRESHOLDS`."""
    truth, probability = cell["label"].to_numpy(), cell["probability"].to_numpy()
    for at in THRESHOLDS:
        for name, p in (("net_benefit", probability), ("net_benefit_all", np.ones(len(truth)))):
            yield _row(name, metrics.bootstrapped(net_benefit, truth, p, float(at), counts=counts), at=float(at))


def curve_rows(cell: pd.DataFrame, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Share of positives, with Wilson's interval, in 2 to 10 bins of rising probability."""
    bins = int(np.clip(len(cell) // 15, 2, 10))
    for mean, share, n, positives in calibration_curve(cell["label"].to_numpy(), cell["probability"].to_numpy(), bins):
        e = metrics.Estimate(share, *metrics.wilson(positives, n))
        yield _row("observed_share", e, at=mean, n=n, n_positive=positives)


def conformal_rows(cell: pd.DataFrame, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Coverage by class, promised for patients like those of the training folds; by site, where it may fail."""
    truth = cell["label"].to_numpy()
    sites = sorted(cell["cohort"].unique())
    for alpha in ALPHAS:
        inside = cell[["p_negative", "p_positive"]].to_numpy() > alpha
        held, size, at = inside[np.arange(len(truth)), truth.astype(int)], inside.sum(axis=1), 1 - alpha
        level: dict[str, Any] = {"at": at, "variable": "conformal set", "stratum": "all"}
        yield _row("set_size", metrics.bootstrapped(metrics.mean, size.astype(float), counts=counts), **level)
        yield _share("certain_share", size == 1, **level)
        for site in ["all", *sites] if len(sites) > 1 else ["all"]:
            for label, name in ((1, "positive"), (0, "negative")):
                mine = (truth == label) & ((cell["cohort"] == site).to_numpy() | (site == "all"))
                stratum = {"at": at, "variable": "class" if site == "all" else "site and class"}
                stratum["stratum"] = name if site == "all" else f"{site}, {name}"
                if mine.sum() < SMALLEST:
                    yield _suppressed("coverage", stratum)
                else:
                    yield _share("coverage", held[mine], **stratum)


def retained_rows(cell: pd.DataFrame, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Balanced accuracy of the patients that the model is surest of, at each share retained."""
    truth, margin = cell["label"].to_numpy(), cell["margin"].to_numpy()
    order = np.argsort(-np.abs(margin), kind="stable")
    for share in RETAINED:
        kept = order[: max(1, round(share * len(order)))]
        positives = int(truth[kept].sum())
        reason = shortage(positives, len(kept), " retained")
        e = metrics.Estimate(np.nan, np.nan, np.nan)
        if not reason:
            called = margin[kept] >= 0
            e = metrics.bootstrapped(metrics.balanced_accuracy, truth[kept], called, counts=counts[:, kept])
        yield _row("balanced_accuracy_retained", e, reason, at=share, n=len(kept), n_positive=positives)


def _suppressed(metric: str, stratum: dict[str, Any]) -> dict[str, Any]:
    nobody = {"n": pd.NA, "n_positive": pd.NA}
    note = f"suppressed: fewer than {SMALLEST} patients"
    return _row(metric, metrics.Estimate(np.nan, np.nan, np.nan), note, **stratum, **nobody)


def subgroup_rows(cell: pd.DataFrame, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Metrics by sex, age, grade, scanner and site, and the largest gap between strata; small strata are suppressed."""
    variables = {"sex": "sex", "age band": "age band", "WHO grade": "WHO grade", "vendor": "vendor"}
    variables |= {"field strength": "field strength", "protocol": "acquisition", "site": "cohort"}
    for variable, column in variables.items():
        values = cell[column]
        names = sorted(values.dropna().unique())
        if len(names) < 2:
            continue
        for name in names:
            mine = (values == name).to_numpy()
            yield from _stratum_rows(cell[mine], counts[:, mine], {"variable": variable, "stratum": str(name)})
        yield from _gap_rows(cell, values, counts, variable)


def _stratum_rows(part: pd.DataFrame, counts: np.ndarray, stratum: dict[str, str]) -> Iterator[dict[str, Any]]:
    names = ("auc", "sensitivity", "specificity", "calibration_gap")
    if len(part) < SMALLEST:
        yield from (_suppressed(name, stratum) for name in names)
        return
    truth, called = part["label"].to_numpy(), part["margin"].to_numpy() >= 0
    positives = int(truth.sum())
    counted: dict[str, Any] = {**stratum, "n": len(part), "n_positive": positives}
    reason = shortage(positives, len(part))
    unknown = metrics.Estimate(np.nan, np.nan, np.nan)
    area = unknown if reason else metrics.auc_delong(truth, part["score"].to_numpy())
    yield _row("auc", area, reason or warning(positives, len(part)), **counted)
    for name, label in (("sensitivity", 1), ("specificity", 0)):
        mine = truth == label
        if mine.sum() < SMALLEST:
            yield _row(name, unknown, f"suppressed: fewer than {SMALLEST} patients of the class", **counted)
        else:
            hits = called[mine] == (label == 1)
            yield _share(name, hits, **stratum, n_positive=positives)
    e = metrics.bootstrapped(_calibration_gap, truth, part["probability"].to_numpy(), counts=counts)
    yield _row("calibration_gap", e, **counted)


def _calibration_gap(truth: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return metrics.mean(probability - truth, weights)


def _gap_rows(cell: pd.DataFrame, values: pd.Series, counts: np.ndarray, variable: str) -> Iterator[dict[str, Any]]:
    """Largest minus smallest sensitivity (and specificity) of the strata with enough patients of the class."""
    truth, called = cell["label"].to_numpy(), cell["margin"].to_numpy() >= 0
    for metric, label in (("sensitivity_gap", 1), ("specificity_gap", 0)):
        stratum = {"variable": variable, "stratum": "largest minus smallest"}
        of_class = truth == label
        kept = [name for name, n in values[of_class].value_counts(sort=False).items() if n >= SMALLEST]
        if len(kept) < 2:
            note = f"not estimable: fewer than 2 strata with {SMALLEST} patients of the class"
            yield _row(metric, metrics.Estimate(np.nan, np.nan, np.nan), note, **stratum)
            continue
        right = called[of_class] == (label == 1)
        e = metrics.bootstrapped(_spread, right, values[of_class].to_numpy(), sorted(kept), counts=counts[:, of_class])
        note = join_notes("never below 0: chance alone makes a gap", f"{len(kept)} strata")
        yield _row(metric, e, note, n=int(of_class.sum()), **stratum)


def _spread(right: np.ndarray, values: np.ndarray, names: list, weights: np.ndarray | None = None) -> np.ndarray:
    w = metrics.weights_or_ones(len(right), weights)
    shares = [metrics.ratio(w @ (right & (values == name)), w @ (values == name).astype(float)) for name in names]
    return np.max(shares, axis=0) - np.min(shares, axis=0)
