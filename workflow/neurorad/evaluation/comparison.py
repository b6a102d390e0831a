"""+DRO, and every other objective, against its base: paired differences on the same patients, and what multiplicity
leaves of them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import shapiro, ttest_rel, wilcoxon

from neurorad.encoder_names import ENSEMBLE, encoder_parts
from neurorad.endpoints import TIMES, Endpoint, binary
from neurorad.evaluation import metrics, probe, survival
from neurorad.evaluation.folds import TRAINED_ONLY, Cell, cells
from neurorad.evaluation.invariance import SITE
from neurorad.evaluation.tidy import join_notes, warning
from neurorad.problems import InputError
from neurorad.seeds import generator

BASE = "base"
OVERLAP = "anti-conservative, as folds share training patients (Nadeau and Bengio 2003)"
IDENTITY = ["cohort", "patient", "scan"]
LEAVE_OUT = "leave_one_site_out"


def primary(metric: str, protocol: str) -> bool:
    """Is the p of this row, `guarded`, the one to conclude from? Its size was measured where nothing is to be found
    (benchmarks/null_calibration.md); every other p is descriptive.

    Over folds that is the corrected t. A site that was never trained on is one fold, whose spread nobody knows: there
    the two trained probes are compared as they are, by DeLong on patients whom neither has seen.
    """
    wanted = "" if protocol == LEAVE_OUT else "_corrected"
    return metric in (f"auc_difference{wanted}", f"c_index_difference{wanted}")


KNOWS = {"auc_difference": "auc_permutation", "c_index_difference": "prognosis_permutation"}
"""Difference -> the test of either encoder by itself: does it know anything of the endpoint?"""


def guarded(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The comparison with the p of its primary rows raised to what says that either encoder knows anything at all.

    "They know equally much" holds too where neither knows anything, and there the tests of a difference reject too often,
    as the models of all folds were trained on each other's patients (benchmarks/null_calibration.md). For that part of the
    null the permutation tests of the two encoders are sound: p = min(1, 2 min(p_new, p_base)), Bonferroni. Of a null that
    is a union, the larger p of its parts is a valid one (Berger 1982, intersection-union test).

    Args:
        table: encoder ("NEW minus BASE"), endpoint, protocol, site, metric, role, p, note. found: tidy rows of probe and
            survival: encoder, endpoint, protocol, site, metric, p.

    Raises:
        InputError: a test of an encoder is missing.
    """
    where = ["endpoint", "protocol", "site"]
    alone = found[found["metric"].isin(KNOWS.values())].reindex(columns=["encoder", "metric", *where, "p"])
    alone = alone.set_index(["encoder", "metric", *where])["p"]
    table = table.copy()
    judged = (table["role"] == "primary") & table["p"].notna()
    for index, row in table[judged].iterrows():
        metric = KNOWS[row["metric"].removesuffix("_corrected")]
        keys = [(encoder, metric, *row[where]) for encoder in row["encoder"].split(" minus ")]
        if missing := [key for key in keys if key not in alone.index]:
            raise InputError(
                f"--found: no {metric} of {missing[0][0]} for {' '.join(row[where])}; give the rows of probe and survival"
            )
        knows = min(1.0, 2 * min(float(alone[key]) for key in keys))
        if not knows <= row["p"]:
            note = f"p is that of either encoder knowing anything; of the difference alone {row['p']:.3f}"
            table.loc[index, ["p", "note"]] = knows, join_notes(row["note"], note)
    return table


def pairs(encoders: set[str]) -> list[tuple[str, str]]:
    """(encoder, its base) for every objective other than base; encoders without an objective are no one's rival.

    Raises:
        InputError: a base is missing, or there is nothing to compare.
    """
    found = []
    for encoder in sorted(encoders):
        method, objective, seed = encoder_parts(encoder)
        if objective in (BASE, "none"):
            continue
        against = f"{method}-{BASE}-s{seed}"
        if against not in encoders:
            raise InputError(f"--predictions: {encoder} has no rival; give the predictions of {against} as well")
        found.append((encoder, against))
    if not found:
        raise InputError("--predictions: no encoder with an objective such as dro beside its base; nothing to compare")
    return found


def paper_rule(new: np.ndarray, base: np.ndarray) -> tuple[float, str]:
    """The paper's test of paired numbers: paired t if Shapiro-Wilk on the differences gives p > 0.05, else Wilcoxon.

    Returns:
        p (NaN if it cannot be made: fewer than 3 pairs, or all differences equal) and the test's name.
    """
    # Differences of AUCs are fractions that tie; rounding noise must not rank them.
    difference = np.round(new - base, 12)
    if len(difference) < 3 or np.ptp(difference) < 1e-12:
        return float("nan"), "paper's rule"
    if shapiro(difference).pvalue > 0.05:
        return float(ttest_rel(new, base).pvalue), "paper's rule: paired t"
    return float(wilcoxon(difference).pvalue), "paper's rule: Wilcoxon"


def by_fold(cell: Cell, predictions: pd.DataFrame, column: str, metric: Callable[..., np.ndarray]) -> np.ndarray:
    """`metric(tested patients of the fold, their scores)` of each repeat and fold, flat.

    Args:
        predictions: rows as `cell.tested`, with `column`_r0, `column`_r1, ... metric: takes boolean `[tested]`.
    """
    found = []
    for repeat, fold_of in enumerate(cell.assignments()):
        fold_of = fold_of[fold_of != TRAINED_ONLY]
        score = predictions[f"{column}_r{repeat}"].to_numpy()
        found += [float(metric(fold_of == k, score[fold_of == k])) for k in np.unique(fold_of)]
    return np.array(found)


def fold_aucs(cell: Cell, truth: np.ndarray, predictions: pd.DataFrame) -> np.ndarray:
    """AUC of each repeat and fold, flat; NaN where a fold lacks a class.

    Args:
        truth: `[tested]`. predictions: rows as `cell.tested`, with score_r0, score_r1, ...
    """
    return by_fold(cell, predictions, "score", lambda mine, score: metrics.auc(truth[mine], score))


def fold_c_indices(cell: Cell, pairs: np.ndarray, predictions: pd.DataFrame) -> np.ndarray:
    """Harrell's c of each repeat and fold, flat; NaN where a fold has no comparable pair.

    Args:
        pairs: `[tested, tested]` of `metrics.comparable`. predictions: rows as `cell.tested`, with risk_r0, ...
    """
    return by_fold(cell, predictions, "risk", lambda mine, risk: metrics.harrell_c(pairs[np.ix_(mine, mine)], risk))


def _aligned(table: pd.DataFrame, cell: Cell, encoder: str) -> pd.DataFrame:
    """The encoder's predictions of a cell, in the order of `cell.tested`.

    Raises:
        InputError: they are not exactly the patients of the folds.
    """
    mine = table[
        (table["encoder"] == encoder)
        & (table["endpoint"] == cell.endpoint)
        & (table["protocol"] == cell.protocol)
        & (table["site"] == cell.site)
    ]
    tested = cell.tested
    joined = tested[IDENTITY].merge(mine, on=IDENTITY, how="left", validate="one_to_one", indicator="found")
    if len(mine) != len(tested) or (joined["found"] != "both").any():
        raise InputError(
            f"--predictions: {encoder} has {len(mine)} patients for {cell.endpoint} {cell.protocol} {cell.site}, the "
            f"folds have {len(tested)}; make the predictions from these folds"
        )
    return joined


def compare(
    predictions: list[pd.DataFrame],
    folds: pd.DataFrame,
    known: dict[str, Endpoint],
    seed: int = 0,
    replicates: int = 500,
    found: pd.DataFrame | None = None,
) -> list[dict[str, Any]]:
    """Rows with `p`, `p_holm`, `p_bh`, `test` and `role` beside the tidy columns; a positive value: +DRO is better.

    Metrics: `auc_difference` (paired DeLong), `auc_difference_bootstrap` (patients resampled),
    `auc_difference_corrected` (folds and repeats, with the variance of Nadeau and Bengio), `auc_difference_over_folds`
    and `auc_difference_over_methods` (the paper's rule, reproduced), `c_index_difference` (patients resampled) and
    `c_index_difference_corrected`. Where `role` is primary (see `primary`), `p_holm` and `p_bh` adjust over all
    endpoints, sites, methods and objectives of the protocol. The base is compared with each objective.

    Args:
        predictions: of the probe (column score) and of survival (column risk), in any order. found: tidy rows of both,
            by which the primary p is `guarded`; without them it is that of the difference alone.
    """
    scored = _concatenated(predictions, "score")
    at_risk = _concatenated(predictions, "risk")
    rows: list[dict[str, Any]] = []
    for cell in cells(folds):
        if cell.endpoint in TIMES and at_risk is not None:
            rows += _survival_rows(cell, at_risk, seed, replicates)
        elif cell.endpoint not in (SITE, *TIMES) and scored is not None:
            rows += _probe_rows(cell, scored, known[cell.endpoint], seed, replicates)
    if not rows:
        return []
    table = pd.DataFrame(rows)
    table[["p_holm", "p_bh"]] = np.nan
    chosen = [primary(metric, protocol) for metric, protocol in zip(table["metric"], table["protocol"], strict=True)]
    table["role"] = np.where(chosen, "primary", "descriptive")
    if found is not None:
        table = guarded(table, found)
    for _, part in table[chosen].groupby(["protocol", "metric"], sort=False):
        p = part["p"].to_numpy(float)
        table.loc[part.index, "p_holm"] = metrics.holm(p)
        table.loc[part.index, "p_bh"] = metrics.benjamini_hochberg(p)
    table[["n_positive", "n_events"]] = table.reindex(columns=["n_positive", "n_events"]).astype("Int64")
    return table.to_dict("records")


def _concatenated(predictions: list[pd.DataFrame], column: str) -> pd.DataFrame | None:
    parts = [table for table in predictions if column in table and len(table)]
    return pd.concat(parts, ignore_index=True) if parts else None


def _rivals(table: pd.DataFrame, cell: Cell) -> Iterator[tuple[dict[str, Any], str, str]]:
    """First columns of a row, encoder and base of every pair."""
    for encoder, against in pairs(set(table["encoder"])):
        method, objective, seed = encoder_parts(encoder)
        names = {"encoder": f"{encoder} minus {against}", "method": method, "objective": objective, "seed": seed}
        where = {"site": cell.site, "endpoint": cell.endpoint, "protocol": cell.protocol}
        yield {**names, **where, "n": len(cell.tested)}, encoder, against


def _row(metric: str, e: metrics.Estimate, test: str, note: str = "") -> dict[str, Any]:
    return {
        **{"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high},
        **{"note": note, "p": e.p, "test": test},
    }


def _probe_rows(
    cell: Cell, table: pd.DataFrame, endpoint: Endpoint, seed: int, replicates: int
) -> list[dict[str, Any]]:
    truth = binary(cell.tested["label"], endpoint).to_numpy()
    reason = probe.not_estimable(cell, endpoint)
    random = generator(seed, "bootstrap", cell.endpoint, cell.protocol, cell.site)
    counts = metrics.bootstrap_counts(len(truth), replicates, random)
    rows, means = [], []
    for first, encoder, against in _rivals(table, cell):
        first["n_positive"] = int(truth.sum())
        if reason:
            rows += _not_estimable(first, "auc_difference", "paired DeLong", reason)
            continue
        new, base = _aligned(table, cell, encoder), _aligned(table, cell, against)
        scores = new["score"].to_numpy(), base["score"].to_numpy()
        caveat = warning(int(truth.sum()), len(truth))
        rows.append({**first, **_row("auc_difference", metrics.paired_delong(truth, *scores), "paired DeLong", caveat)})
        resampled = metrics.bootstrapped(_auc_difference, truth, *scores, counts=counts)
        rows.append({**first, **_row("auc_difference_bootstrap", resampled, "patient bootstrap", caveat)})
        each = _finite(fold_aucs(cell, truth, new), fold_aucs(cell, truth, base))
        rows.append({**first, **_corrected_row("auc_difference_corrected", cell, each[0] - each[1], caveat)})
        p, test = paper_rule(*each)
        value = float((each[0] - each[1]).mean()) if each.shape[1] else np.nan
        note = f"{each.shape[1]} folds; {OVERLAP}" if np.isfinite(p) else f"p not estimable: {each.shape[1]} folds"
        e = metrics.Estimate(value, np.nan, np.nan, p)
        rows.append({**first, **_row("auc_difference_over_folds", e, test, note)})
        if first["method"] != ENSEMBLE:
            # The ensemble is made of the others: it is no further pair.
            means.append((first["objective"], *(float(metrics.auc(truth, score)) for score in scores)))
    for objective in dict.fromkeys(name for name, _, _ in means):
        new, base = np.array([(a, b) for name, a, b in means if name == objective]).T
        p, test = paper_rule(new, base)
        e = metrics.Estimate(float((new - base).mean()), np.nan, np.nan, p)
        names = {"encoder": f"{objective} minus base", "method": "all", "objective": objective, "seed": None}
        where = {"site": cell.site, "endpoint": cell.endpoint, "protocol": cell.protocol, "n": len(truth)}
        note = f"{len(new)} pairs of encoders" + ("" if np.isfinite(p) else "; p not estimable")
        row = {**names, **where, "n_positive": int(truth.sum()), **_row("auc_difference_over_methods", e, test, note)}
        rows.append(row)
    return rows


CORRECTED = "Nadeau-Bengio corrected t"


def _not_estimable(first: dict[str, Any], metric: str, test: str, reason: str) -> list[dict[str, Any]]:
    """The pooled difference and the corrected one, so that the primary row is there and says why it has no number."""
    nothing = metrics.Estimate(*[np.nan] * 3)
    return [
        {**first, **_row(name, nothing, how, reason)}
        for name, how in ((metric, test), (f"{metric}_corrected", CORRECTED))
    ]


def _finite(new: np.ndarray, base: np.ndarray) -> np.ndarray:
    """`[2, folds]`: the folds in which both have a number."""
    both = np.stack([new, base])
    return both[:, np.isfinite(both).all(axis=0)]


def _corrected_row(metric: str, cell: Cell, differences: np.ndarray, caveat: str) -> dict[str, Any]:
    """Folds of all repeats; leave-one-site-out has a single fold, whose spread nobody knows."""
    drawn = int(cell.patients["fold"].nunique())
    if len(differences) < 2:
        e = metrics.Estimate(float(differences.mean()) if len(differences) else np.nan, np.nan, np.nan)
        return _row(metric, e, CORRECTED, f"p not estimable: {len(differences)} folds")
    e = metrics.corrected_t(differences, 1 / (drawn - 1))
    note = f"{len(differences)} folds of {len(cell.assignments())} repeats"
    return _row(metric, e, CORRECTED, join_notes(caveat, note))


def _auc_difference(
    truth: np.ndarray, score: np.ndarray, against: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    return metrics.auc(truth, score, weights) - metrics.auc(truth, against, weights)


def _survival_rows(cell: Cell, table: pd.DataFrame, seed: int, replicates: int) -> list[dict[str, Any]]:
    events = int(cell.tested["label"].sum())
    reason = survival.not_estimable(cell)
    random = generator(seed, "bootstrap", cell.endpoint, cell.protocol, cell.site)
    counts = metrics.bootstrap_counts(len(cell.tested), replicates, random)
    rows = []
    for first, encoder, against in _rivals(table, cell):
        first["n_events"] = events
        if reason:
            rows += _not_estimable(first, "c_index_difference", "patient bootstrap", reason)
            continue
        new, base = _aligned(table, cell, encoder), _aligned(table, cell, against)
        comparable = metrics.comparable(new["days"].to_numpy(), new["event"].to_numpy(), new["cohort"].to_numpy(str))
        risks = [part["risk"].to_numpy() for part in (new, base)]
        value = float(metrics.harrell_c(comparable, risks[0]) - metrics.harrell_c(comparable, risks[1]))
        samples = metrics.harrell_c(comparable, risks[0], counts) - metrics.harrell_c(comparable, risks[1], counts)
        samples = samples[np.isfinite(samples)]
        low, high = np.quantile(samples, [0.025, 0.975]) if len(samples) else (np.nan, np.nan)
        tail = min((samples <= 0).sum(), (samples >= 0).sum())
        p = min(1.0, 2 * (1 + tail) / (1 + len(samples))) if len(samples) else np.nan
        e = metrics.Estimate(value, float(low), float(high), float(p))
        note = survival.warning(events) if comparable.any() else "not estimable: no comparable pair"
        rows.append({**first, **_row("c_index_difference", e, "patient bootstrap", note)})
        each = _finite(fold_c_indices(cell, comparable, new), fold_c_indices(cell, comparable, base))
        rows.append({**first, **_corrected_row("c_index_difference_corrected", cell, each[0] - each[1], note)})
    return rows
