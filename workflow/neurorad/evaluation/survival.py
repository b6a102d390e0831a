"""Overall survival: out-of-fold risk from an embedding, how well it orders deaths, and Kaplan-Meier curves."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter

from neurorad.endpoints import Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.cox import fit_cox, log_likelihood, log_rank_p, risk_sets
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import KEY, POOLED, TRAINED_ONLY, Cell, cells, deal
from neurorad.evaluation.linear import Projection, project
from neurorad.evaluation.tidy import NEEDED, WARNED, join_notes
from neurorad.problems import InputError
from neurorad.seeds import generator

ENDPOINT = "os"
EVENTS_PER_COMPONENT = 10
SIZES = (1, 2, 3, 5, 8, 13, 21, 34)
"""Candidate numbers of components, as far as the events allow."""
PENALTIES = (0.03, 0.3, 3.0)
"""Ridge penalties per training event; the components have SD 1."""
NAMED_COVARIATES = 4
"""An embedding no wider than this is a list of covariates (age, sex): all are used, without PCA."""
INNER_FOLDS = 5
OBSERVED = "observed"
"""Protocol of a row that involves no model (a marker as tested in the laboratory)."""
METRICS = ("c_index", "hr_per_sd", "hr_high_low", "log_rank_p")


def outcomes(cell: Cell, patients: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Days and event (0/1) of the cell's patients, in their order.

    Raises:
        InputError: a patient of the folds has no time or another event in patients.tsv than in the folds.
    """
    rows = cell.patients.merge(patients[[*KEY, "os_days", "event"]], on=KEY, how="left", validate="one_to_one")
    wrong = rows["os_days"].isna() | (rows["event"] != rows["label"])
    if wrong.any():
        raise InputError(
            f"--patients: {int(wrong.sum())} patients of {cell.site} have no os_days, or another event than in --folds; "
            f"make the folds again from these patients"
        )
    return rows["os_days"].to_numpy(float), rows["event"].to_numpy(float)


def fit_risk(
    x: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, random: np.random.Generator
) -> tuple[Projection, np.ndarray]:
    """Ridge Cox on whitened PCA scores, baseline hazards by stratum; size and penalty by inner cross-validation.

    The number of components is at most events / 10 (at least 1). Both are chosen by the cross-validated partial
    likelihood (Verweij and van Houwelingen 1993), summed over inner folds: l(all) - l(without the fold).

    Returns:
        The projection `d -> k` and coefficients `[k]`.
    """
    most = max(1, int(event.sum()) // EVENTS_PER_COMPONENT)
    sizes = [size for size in SIZES if size <= most] if x.shape[1] > NAMED_COVARIATES else [x.shape[1]]
    penalties = [share * event.sum() for share in PENALTIES]
    layers = np.char.add(np.where(event == 1, "dead/", "alive/"), strata.astype(str))
    inner = deal(layers, min(INNER_FOLDS, int(event.sum())), random)
    everyone = risk_sets(days, event, strata)
    gain = np.zeros((len(sizes), len(penalties)))
    for fold in range(inner.max() + 1):
        kept = inner != fold
        sets = risk_sets(days[kept], event[kept], strata[kept])
        projection = project(x[kept], sizes[-1], whiten=True)
        z = projection(x)
        for i, size in enumerate(sizes):
            for j, penalty in enumerate(penalties):
                log_risk = z[:, :size] @ fit_cox(sets, z[kept, :size], penalty).coefficients
                gain[i, j] += log_likelihood(everyone, log_risk) - log_likelihood(sets, log_risk[kept])
    i, j = np.unravel_index(np.argmax(gain), gain.shape)
    projection = project(x, sizes[-1], whiten=True)
    projection = Projection(projection.mean, projection.matrix[:, : sizes[i]])
    return projection, fit_cox(everyone, projection(x), penalties[j]).coefficients


def cross_validate(cell: Cell, x: np.ndarray, days: np.ndarray, event: np.ndarray, seed: int) -> np.ndarray:
    """Out-of-fold risk `[repeats, tested]`: (log risk - training median) / training SD, so 0 is the training median."""
    sites = cell.patients["cohort"].to_numpy(str)
    assignments = cell.assignments()
    risk = np.full(assignments.shape, np.nan)
    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
            test = fold_of == fold
            random = generator(seed, "survival", cell.protocol, cell.site, repeat, fold)
            projection, coefficients = fit_risk(x[~test], days[~test], event[~test], sites[~test], random)
            seen = projection(x[~test]) @ coefficients
            spread = seen.std() if seen.std() > 1e-9 else np.inf
            risk[repeat, test] = (projection(x[test]) @ coefficients - np.median(seen)) / spread
    risk = risk[:, assignments[0] != TRAINED_ONLY]
    if not np.isfinite(risk).all():
        raise ArithmeticError(f"{cell.protocol} {cell.site}: a tested patient has no risk")
    return risk


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


def risk_rows(
    risk: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, counts: np.ndarray
) -> list[dict[str, object]]:
    """`METRICS` of an out-of-fold risk `[n]`; pairs and baseline hazards stay within a stratum (site)."""
    pairs = metrics.comparable(days, event, strata)
    c = metrics.bootstrapped(
        lambda values, weights=None: metrics.harrell_c(pairs, values, weights), risk, counts=counts
    )
    rows = [_row("c_index", c.value, c.ci_low, c.ci_high, "" if pairs.any() else "not estimable: no comparable pair")]
    sd = risk.std()
    if sd > 0:
        rows.append(_hazard_ratio("hr_per_sd", risk / sd, days, event, strata))
    else:
        rows.append(_row("hr_per_sd", note="not estimable: every patient has the same risk"))
    return rows + group_rows(risk > 0, days, event, strata, "hr_high_low")


def group_rows(
    high: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, name: str
) -> list[dict[str, object]]:
    """Hazard ratio (called `name`) and log-rank p of two groups; refused with fewer than 5 events in one of them."""
    arms = (int(event[high].sum()), int(event[~high].sum()))
    if min(arms) < NEEDED:
        note = f"not estimable: {arms[0]} and {arms[1]} events in the two groups (needs {NEEDED} each)"
        return [_row(name, note=note), _row("log_rank_p", note=note)]
    p = log_rank_p(days, event, high, strata)
    tied = "" if np.isfinite(p) else "not estimable: no death tells the groups apart"
    return [_hazard_ratio(name, high.astype(float), days, event, strata), _row("log_rank_p", p, note=tied)]


def _hazard_ratio(name: str, x: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> dict:
    fit = fit_cox(risk_sets(days, event, strata), x[:, None])
    if not fit.converged or fit.covariance[0, 0] <= 0:
        return _row(name, note="not estimable: the hazard ratio is not finite")
    log_ratio, half = fit.coefficients[0], metrics.Z * np.sqrt(fit.covariance[0, 0])
    return _row(name, *np.exp([log_ratio, log_ratio - half, log_ratio + half]))


def _row(metric: str, value: float = np.nan, low: float = np.nan, high: float = np.nan, note: str = "") -> dict:
    return {"metric": metric, "value": float(value), "ci_low": float(low), "ci_high": float(high), "note": note}


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


def survival(
    embeddings: Embeddings,
    folds: pd.DataFrame,
    patients: pd.DataFrame,
    known: dict[str, Endpoint],
    seed: int = 0,
    replicates: int = 500,
) -> tuple[list[dict[str, object]], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Every protocol and site of the endpoint `os`, and the uncommon truth: curves by marker.

    Args:
        patients: of `folds.check_labels`.

    Returns:
        Tidy rows; predictions (one row a tested patient and cell: encoder endpoint protocol site cohort patient scan
        risk group os_days event, and risk_r0 ...); curves (encoder protocol site stratum time survival ci_low ci_high
        at_risk, of `within_site` risk groups and of markers); coefficients (endpoint site intercept e0 ...: the log
        risk of the model of all sites on the raw embedding).
    """
    rows: list[dict[str, object]] = []
    predictions, curves, coefficients = [], [], []
    for whole in cells(folds[folds["endpoint"] == ENDPOINT]):
        cell, x, left_out = embeddings.cover(whole)
        where = {"endpoint": ENDPOINT, "protocol": cell.protocol, "site": cell.site}
        all_days, all_event = outcomes(cell, patients)
        tested = (cell.patients["fold"] != TRAINED_ONLY).to_numpy()
        days, event, who = all_days[tested], all_event[tested], cell.tested
        counted = {**where, "n": len(who), "n_events": int(event.sum())}
        reason = not_estimable(cell)
        if reason:
            note = join_notes(reason, left_out)
            rows += [{**counted, "metric": name, "value": np.nan, "note": note} for name in METRICS]
        else:
            repeated = cross_validate(cell, x, all_days, all_event, seed)
            risk, strata = repeated.mean(axis=0), who["cohort"].to_numpy(str)
            random = generator(seed, "bootstrap", *where.values())
            counts = metrics.bootstrap_counts(len(who), replicates, random)
            caveat = warning(int(event.sum()))
            for row in risk_rows(risk, days, event, strata, counts):
                rows.append({**counted, **row, "note": join_notes(caveat, left_out, row["note"])})
            group = np.where(risk > 0, "high", "low")
            each = {f"risk_r{repeat}": values for repeat, values in enumerate(repeated)}
            told = {"risk": risk, "group": group, "os_days": days, "event": event, **each}
            identity = who[["cohort", "patient", "scan"]]
            predictions.append(pd.DataFrame({"encoder": embeddings.encoder, **where, **identity, **told}))
            if cell.protocol == "combined" and cell.site == POOLED:
                coefficients.append(_coefficients(cell, x, days, event, seed, embeddings.columns))
            if cell.protocol == "within_site":
                strata_of = {f"risk {name}": group == name for name in ("high", "low")}
                curves += _curves(strata_of, days, event, cell.protocol, cell.site)
        if cell.protocol == "within_site":
            status = who.merge(patients, on=KEY, how="left", suffixes=("", "_patient"))
            for name, carrier, mine in _markers(status, known):
                strata_of = {f"{name} positive": mine & carrier, f"{name} negative": mine & ~carrier}
                curves += _curves(strata_of, days, event, OBSERVED, cell.site)
                counted = {"endpoint": name, "protocol": OBSERVED, "site": cell.site, "n": int(mine.sum())}
                counted |= {"n_positive": int(carrier[mine].sum()), "n_events": int(event[mine].sum())}
                same = np.zeros(int(mine.sum()))
                for row in group_rows(carrier[mine], days[mine], event[mine], same, "hr_positive_negative"):
                    rows.append({**counted, **row, "note": row["note"] or warning(int(event[mine].sum()))})
    curve_table = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=CURVE_COLUMNS[1:])
    curve_table.insert(0, "encoder", embeddings.encoder)
    stack = [
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        for parts, columns in ((predictions, PREDICTION_COLUMNS), (coefficients, ["endpoint", "site", "intercept"]))
    ]
    return rows, stack[0], curve_table[CURVE_COLUMNS], stack[1]


PREDICTION_COLUMNS = [
    *("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan"),
    *("risk", "group", "os_days", "event", "risk_r0"),
]
CURVE_COLUMNS = [
    *("encoder", "protocol", "site", "stratum"),
    *("time", "survival", "ci_low", "ci_high", "at_risk", "n", "n_events"),
]


def _markers(status: pd.DataFrame, known: dict[str, Endpoint]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, carrier and known (boolean `[n]`) of each marker that is neither constant nor rarer than 5 in an arm."""
    for name, endpoint in known.items():
        label = binary(status[name], endpoint).to_numpy()
        mine, carrier = np.isfinite(label), label == 1
        if min(carrier[mine].sum(), (~carrier)[mine].sum()) >= NEEDED:
            yield name, carrier, mine


def _curves(
    strata: dict[str, np.ndarray], days: np.ndarray, event: np.ndarray, protocol: str, site: str
) -> list[pd.DataFrame]:
    parts = []
    for stratum, mine in strata.items():
        if mine.any():
            first = {"protocol": protocol, "site": site, "stratum": stratum}
            counts = {"n": int(mine.sum()), "n_events": int(event[mine].sum())}
            parts.append(kaplan_meier(days[mine], event[mine]).assign(**first, **counts))
    return parts


def _coefficients(
    cell: Cell, x: np.ndarray, days: np.ndarray, event: np.ndarray, seed: int, columns: list[str]
) -> pd.DataFrame:
    sites = cell.patients["cohort"].to_numpy(str)
    projection, coefficients = fit_risk(x, days, event, sites, generator(seed, "survival", "final"))
    weights, intercept = projection.fold(coefficients, 0.0)
    first = {"endpoint": ENDPOINT, "site": cell.site, "intercept": intercept}
    return pd.DataFrame([{**first, **dict(zip(columns, weights, strict=True))}])
