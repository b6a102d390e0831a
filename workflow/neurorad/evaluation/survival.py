"""Survival and progression: out-of-fold risk from an embedding, how good a prognosis it is, and Kaplan-Meier curves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter

from neurorad.endpoints import TIMES, Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import KEY, POOLED, SURVIVAL_STEPS, TRAINED_ONLY, Cell, cells, survival_exclusion
from neurorad.evaluation.layers import Layer, layer_table
from neurorad.evaluation.permutation import prognosis_test
from neurorad.evaluation.prognosis import METRICS, group_rows, horizon, prognosis_rows, row, time_grid
from neurorad.evaluation.risk import OutOfFold, cross_validate, fit_risk
from neurorad.evaluation.tidy import NEEDED, WARNED, join_notes
from neurorad.evaluation.time_varying import CHANGES, time_varying_rows
from neurorad.problems import InputError
from neurorad.seeds import generator

PERMUTATION = "prognosis_permutation"
"""The primary test of whether the image knows anything of survival: exact, in contrast to the intervals."""
OBSERVED = "observed"
"""Protocol of a row that involves no model (a marker as tested in the laboratory)."""
INCLUSION = "inclusion"
"""Protocol of a row that counts who is in the survival set, and who is not and why."""


def outcomes(cell: Cell, patients: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Days and event (0/1) of the cell's patients, in their order.

    Raises:
        InputError: a patient of the folds has no time or another event in patients.tsv than in the folds.
    """
    days, event = TIMES[cell.endpoint]
    rows = cell.patients.merge(patients[[*KEY, days, event]], on=KEY, how="left", validate="one_to_one")
    wrong = rows[days].isna() | (rows[event] != rows["label"])
    if wrong.any():
        raise InputError(
            f"--patients: {int(wrong.sum())} patients of {cell.site} have no {days}, or another {event} than in --folds; "
            f"make the folds again from these patients"
        )
    return rows[days].to_numpy(float), rows[event].to_numpy(float)


def not_estimable(cell: Cell) -> str:
    """Why a cell says nothing about survival, or empty."""
    event = cell.patients["label"].to_numpy()
    tested = (cell.patients["fold"] != TRAINED_ONLY).to_numpy()
    for rows, where in ((tested, ""), (~tested, " in training")):
        deaths = int(event[rows].sum())
        if (rows.any() or not where) and deaths < NEEDED:
            return f"not estimable: {deaths} events of {int(rows.sum())}{where} (needs {NEEDED})"
    if cell.fewest_taught(event) < 2:
        return "not estimable: a training fold has fewer than 2 events"
    return ""


def warning(events: int) -> str:
    """`warning: ...` if there are so few events that intervals are wide, else empty."""
    return f"warning: only {events} events" if events < WARNED else ""


def kaplan_meier(days: np.ndarray, event: np.ndarray) -> pd.DataFrame:
    """Columns time (days), survival, ci_low, ci_high (log-log Greenwood, 95 %), at_risk; the first row is time 0."""
    fit = KaplanMeierFitter().fit(days, event)
    band = fit.confidence_interval_survival_function_
    return pd.DataFrame(
        {
            "time": fit.survival_function_.index.to_numpy(float),
            "survival": fit.survival_function_.iloc[:, 0].to_numpy(),
            "ci_low": band.iloc[:, 0].to_numpy(),
            "ci_high": band.iloc[:, 1].to_numpy(),
            "at_risk": fit.event_table["at_risk"].to_numpy(np.int64),
        }
    )


def inclusion_rows(everybody: pd.DataFrame, patients: pd.DataFrame, endpoint: str = "os") -> list[dict[str, Any]]:
    """How the patients with an embedding become the survival set: at each site they add up to n.

    Args:
        everybody: cohort, patient of all that are evaluated. patients: of `folds.check_labels`.
    """
    status = everybody[KEY].merge(patients, on=KEY, how="left", validate="one_to_one")
    reason = survival_exclusion(status, endpoint)
    rows = []
    for site in sorted(status["cohort"].unique()):
        mine = reason[status["cohort"] == site]
        where = {"endpoint": endpoint, "protocol": INCLUSION, "site": site, "n": len(mine)}
        for name, label in (("included", ""), *((f"excluded_{step}", step) for step in SURVIVAL_STEPS)):
            rows.append({**where, "metric": name, "value": float((mine == label).sum()), "note": ""})
    return rows


def survival(
    embeddings: Embeddings,
    folds: pd.DataFrame,
    patients: pd.DataFrame,
    known: dict[str, Endpoint],
    seed: int = 0,
    replicates: int = 500,
    changes: Sequence[str] = (),
) -> tuple[list[dict[str, object]], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Every protocol and site of `TIMES`, and the uncommon truth: curves of overall survival by marker.

    Args:
        patients: of `folds.check_labels`. changes: of `time_varying.CHANGES`: what may happen to a patient on the way,
            as a time-varying covariate beside the risk.

    Returns:
        Tidy rows (with `at` where a metric has several); predictions (one row a tested patient and cell: encoder
        endpoint protocol site cohort patient scan risk group log_risk dead_12m days event, and risk_r0 ...); curves
        (encoder endpoint protocol site stratum time survival ci_low ci_high at_risk, of `within_site` risk groups and of
        markers); coefficients (of `layer_table`, all sites pooled: the model of each fold, whose output is the risk, and
        the model of everybody, repeat and fold -1, whose output is the log risk).
    """
    everybody = folds[(folds["endpoint"] == "site") & (folds["repeat"] == 0)]
    rows: list[dict[str, object]] = []
    drawn = folds[folds["endpoint"].isin(TIMES)]
    for endpoint in TIMES:
        if endpoint == "os" or (drawn["endpoint"] == endpoint).any():
            rows += inclusion_rows(everybody, patients, endpoint)
    predictions: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    coefficients: list[pd.DataFrame] = []
    for whole in cells(drawn):
        cell, x, left_out = embeddings.cover(whole)
        days, event = outcomes(cell, patients)
        reason = not_estimable(cell)
        layers: list[Layer] = []
        rows += _cell_rows(cell, x, days, event, reason, left_out, seed, replicates, predictions, layers)
        if not reason and changes:
            rows += _time_varying(cell, predictions[-1], patients, changes)
        if not reason and cell.protocol == "combined" and cell.site == POOLED:
            layers.append(_everybodys(cell, x, days, event, seed))
            coefficients.append(layer_table(cell.endpoint, cell.site, layers, embeddings.columns))
        if cell.protocol == "within_site":
            if not reason:
                group = predictions[-1]["group"].to_numpy()
                strata_of = {f"risk {name}": group == name for name in ("high", "low")}
                curves += _curves(strata_of, days, event, cell)
            if cell.endpoint == "os":
                found, by_marker = _observed(cell, patients, known, days, event)
                rows += found
                curves += by_marker
    tables = []
    for parts, columns in (
        (predictions, PREDICTION_COLUMNS[1:]),
        (curves, CURVE_COLUMNS[1:]),
        (coefficients, ["endpoint", "site", "intercept"]),
    ):
        tables.append(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns))
    tables[0].insert(0, "encoder", embeddings.encoder)
    tables[1].insert(0, "encoder", embeddings.encoder)
    return rows, tables[0], tables[1][CURVE_COLUMNS], tables[2]


def _cell_rows(
    cell: Cell,
    x: np.ndarray,
    all_days: np.ndarray,
    all_event: np.ndarray,
    reason: str,
    left_out: str,
    seed: int,
    replicates: int,
    predictions: list[pd.DataFrame],
    layers: list[Layer],
) -> list[dict[str, object]]:
    """The rows of one cell; what was predicted for its patients is appended to `predictions`, its models to `layers`."""
    where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
    tested = (cell.patients["fold"] != TRAINED_ONLY).to_numpy()
    days, event, who = all_days[tested], all_event[tested], cell.tested
    counted = {**where, "n": len(who), "n_events": int(event.sum())}
    if reason:
        note = join_notes(reason, left_out)
        return [{**counted, "metric": name, "value": np.nan, "note": note} for name in (*METRICS, PERMUTATION)]
    tau = horizon(cell, all_days)
    found = cross_validate(cell, x, all_days, all_event, seed, time_grid(tau))
    counts = metrics.bootstrap_counts(len(who), replicates, generator(seed, "bootstrap", *where.values()))
    predictions.append(_predictions(where, who, found, days, event))
    layers += found.layers
    caveat = join_notes(warning(int(event.sum())), left_out)
    rows = []
    for made in prognosis_rows(found, days, event, who["cohort"].to_numpy(str), counts, tau):
        rows.append({**counted, **made, "note": join_notes(caveat, made["note"])})
    random = generator(seed, "permutation", *where.values())
    fold_of, sites = cell.assignments()[0], cell.patients["cohort"].to_numpy(str)
    value, p = prognosis_test(x, all_days, all_event, fold_of, sites, replicates, random)
    note = f"closed-form ridge probe of the martingale residual, permuted within site {replicates} times"
    rows.append({**counted, **row(PERMUTATION, value, note=join_notes(caveat, note)), "p": p})
    if cell.protocol == "combined" and who["cohort"].nunique() > 1:
        harmonised = cross_validate(cell, x, all_days, all_event, seed, time_grid(tau), combat=True)
        rows.append({**counted, **_combat_row(harmonised, days, event, who["cohort"].to_numpy(str), counts, caveat)})
    rows.append({**counted, "metric": "elastic_net_share", "value": found.nets, "note": "of the models of all folds"})
    return rows


def _combat_row(
    found: OutOfFold, days: np.ndarray, event: np.ndarray, strata: np.ndarray, counts: np.ndarray, caveat: str
) -> dict[str, object]:
    """Harrell's c after ComBat of the training folds: what harmonising after pretraining does, at no cost of training."""
    pairs, risk = metrics.comparable(days, event, strata), found.risk.mean(axis=0)
    e = metrics.bootstrapped(lambda weights=None: metrics.harrell_c(pairs, risk, weights), counts=counts)
    note = "ComBat in the training folds" if np.isfinite(e.value) else "not estimable: no comparable pair"
    first = {"metric": "c_index_after_combat", "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high}
    return {**first, "note": join_notes(caveat, note)}


def _predictions(
    where: dict[str, str], who: pd.DataFrame, found: OutOfFold, days: np.ndarray, event: np.ndarray
) -> pd.DataFrame:
    risk = found.risk.mean(axis=0)
    told = {"risk": risk, "group": np.where(risk > 0, "high", "low"), "log_risk": found.log_risk}
    told |= {"dead_12m": 1 - found.alive[:, 0], "days": days, "event": event}
    each = {f"risk_r{repeat}": values for repeat, values in enumerate(found.risk)}
    return pd.DataFrame({**where, **who[["cohort", "patient", "scan"]], **told, **each})


def _time_varying(
    cell: Cell, predicted: pd.DataFrame, patients: pd.DataFrame, changes: Sequence[str]
) -> list[dict[str, object]]:
    told = predicted.merge(patients, on=KEY, how="left", validate="one_to_one", suffixes=("", "_patient"))
    # What ends the endpoint is no covariate of it.
    days_of = {name: CHANGES[name](told) for name in changes if (cell.endpoint, name) != ("pfs", "progression")}
    days, event, risk = (told[name].to_numpy(float) for name in ("days", "event", "risk"))
    where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
    counted = {**where, "n": len(told), "n_events": int(event.sum())}
    return [{**counted, **made} for made in time_varying_rows(risk, days, event, told["cohort"].to_numpy(str), days_of)]


def _observed(
    cell: Cell, patients: pd.DataFrame, known: dict[str, Endpoint], days: np.ndarray, event: np.ndarray
) -> tuple[list[dict[str, object]], list[pd.DataFrame]]:
    """Rows and curves of each marker's carriers against the others at one site, as tested in the laboratory."""
    rows, curves = [], []
    status = cell.patients.merge(patients, on=KEY, how="left", suffixes=("", "_patient"))
    for name, carrier, mine in _markers(status, known):
        strata_of = {f"{name} positive": mine & carrier, f"{name} negative": mine & ~carrier}
        curves += _curves(strata_of, days, event, replace(cell, protocol=OBSERVED))
        counted = {"endpoint": name, "protocol": OBSERVED, "site": cell.site, "n": int(mine.sum())}
        counted |= {"n_positive": int(carrier[mine].sum()), "n_events": int(event[mine].sum())}
        same = np.zeros(int(mine.sum()))
        for made in group_rows(carrier[mine], days[mine], event[mine], same, "hr_positive_negative"):
            rows.append({**counted, **made, "note": made["note"] or warning(int(event[mine].sum()))})
    return rows, curves


PREDICTION_COLUMNS = [
    *("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan"),
    *("risk", "group", "log_risk", "dead_12m", "days", "event", "risk_r0"),
]
CURVE_COLUMNS = [
    *("encoder", "endpoint", "protocol", "site", "stratum"),
    *("time", "survival", "ci_low", "ci_high", "at_risk", "n", "n_events"),
]


def _markers(status: pd.DataFrame, known: dict[str, Endpoint]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, carrier and known (boolean `[n]`) of each marker that is neither constant nor rarer than 5 in an arm."""
    for name, endpoint in known.items():
        label = binary(status[name], endpoint).to_numpy()
        mine, carrier = np.isfinite(label), label == 1
        if min(carrier[mine].sum(), (~carrier)[mine].sum()) >= NEEDED:
            yield name, carrier, mine


def _curves(strata: dict[str, np.ndarray], days: np.ndarray, event: np.ndarray, cell: Cell) -> list[pd.DataFrame]:
    parts = []
    for stratum, mine in strata.items():
        if mine.any():
            first = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site, "stratum": stratum}
            counts = {"n": int(mine.sum()), "n_events": int(event[mine].sum())}
            parts.append(kaplan_meier(days[mine], event[mine]).assign(**first, **counts))
    return parts


def _everybodys(cell: Cell, x: np.ndarray, days: np.ndarray, event: np.ndarray, seed: int) -> Layer:
    sites = cell.patients["cohort"].to_numpy(str)
    model = fit_risk(x, days, event, sites, generator(seed, "survival", cell.endpoint, "final"))
    return Layer(model.weights, model.intercept)
