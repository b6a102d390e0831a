"""What is left of a probe when the volumes change: probes fitted on clean training folds, tested on shifted volumes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neurorad.endpoints import Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import POOLED, Cell, cells
from neurorad.evaluation.invariance import SITE
from neurorad.evaluation.tidy import join_notes, shortage, warning
from neurorad.problems import InputError
from neurorad.seeds import generator

EXTRA = {"shift": "", "level": ""}
"""Columns beside the tidy ones: the kind of shift, and its severity or the sequences that are left."""
METRICS = ("auc_shifted", "auc_drop", "balanced_accuracy_drop")


def by_shift(stressed: Iterable[pd.DataFrame], encoder: str) -> dict[tuple[str, str], Embeddings]:
    """The embeddings of each shift and level.

    Raises:
        InputError: what `Embeddings` refuses.
    """
    table = pd.concat(list(stressed), ignore_index=True)
    return {where: Embeddings([part], encoder) for where, part in table.groupby(["shift", "level"], sort=False)}


def fold_layers(coefficients: pd.DataFrame, endpoint: str, columns: list[str]) -> pd.DataFrame | None:
    """The rows of `layers.layer_table` of an endpoint's folds; None if it was not estimable.

    Raises:
        InputError: layers without folds, or of another encoder's width.
    """
    mine = coefficients[coefficients["endpoint"] == endpoint]
    if mine.empty:
        return None
    if "fold" not in mine or not (mine["fold"] >= 0).any() or set(columns) - set(mine):
        raise InputError(
            f"--coefficients: no layers of folds for the {len(columns)} features of --embeddings; make them again with "
            f"`neurorad probe` from the same embeddings"
        )
    return mine[mine["fold"] >= 0]


def scores(cell: Cell, x: np.ndarray, layers: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """`[n]`: out-of-fold score, mean over repeats, of the features `x` `[n, d]` (rows as `cell.patients`).

    Raises:
        InputError: a fold of the cell has no layer.
    """
    total = np.zeros(len(x))
    weights = layers.set_index(["repeat", "fold"])
    assignments = cell.assignments()
    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of):
            if (repeat, fold) not in weights.index:
                raise InputError(
                    f"--coefficients: no layer of fold {fold}, repeat {repeat}; are they of these --folds?"
                )
            layer, test = weights.loc[(repeat, fold)], fold_of == fold
            raw = x[test] @ layer[columns].to_numpy(float) + float(layer["intercept"])
            total[test] += np.clip(raw, layer["lowest"], layer["highest"])
    return total / len(assignments)


def stress_rows(
    clean: Embeddings,
    shifted: dict[tuple[str, str], Embeddings],
    coefficients: pd.DataFrame,
    folds: pd.DataFrame,
    known: dict[str, Endpoint],
    seed: int = 0,
    replicates: int = 500,
) -> Iterator[dict[str, Any]]:
    """Tidy rows with `EXTRA`: of every endpoint with all sites combined, for all tested patients and at each site.

    `auc_clean`; for each shift `auc_shifted`, `auc_drop` (clean minus shifted, on the same patients) and
    `balanced_accuracy_drop` (calls at even odds). `embedding_shift` (endpoint `site`) needs no label: how far a shift
    moves a patient, the mean distance between two patients being 1.

    Args:
        shifted: of `by_shift`. coefficients: of `probe`. replicates: of the patient bootstrap, which takes the fitted
            probes as given.

    Raises:
        InputError: a patient of the folds is missing from a shift, or the layers are of other folds or features.
    """
    for whole in cells(folds):
        if whole.protocol != "combined" or whole.endpoint not in (SITE, *known):
            continue
        cell, x, _ = clean.cover(whole)
        moved = {where: each.cover(whole)[1] for where, each in shifted.items()}
        sites = cell.patients["cohort"].to_numpy(str)
        where = {"endpoint": cell.endpoint, "protocol": "combined"}
        if cell.endpoint == SITE:
            yield from ({**where, **row} for row in _distance_rows(x, moved, sites, seed, replicates))
            continue
        layers = fold_layers(coefficients, cell.endpoint, clean.columns)
        if layers is None:
            continue
        truth = binary(cell.patients["label"], known[cell.endpoint]).to_numpy()
        before = scores(cell, x, layers, clean.columns)
        after = {name: scores(cell, each, layers, clean.columns) for name, each in moved.items()}
        for site, mine in _groups(sites):
            random = generator(seed, "stress", cell.endpoint, site)
            counts = metrics.bootstrap_counts(int(mine.sum()), replicates, random)
            counted = {**where, "site": site, "n": int(mine.sum()), "n_positive": int(truth[mine].sum())}
            rows = _score_rows(truth[mine], before[mine], {name: s[mine] for name, s in after.items()}, counts)
            yield from ({**counted, **row} for row in rows)


def _groups(sites: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield POOLED, np.ones(len(sites), dtype=bool)
    for site in np.unique(sites):
        yield site, sites == site


def _row(metric: str, e: metrics.Estimate, note: str, where: tuple[str, str] = ("", "")) -> dict[str, Any]:
    first = {"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": note}
    return {**first, **dict(zip(EXTRA, where, strict=True))}


def _score_rows(
    truth: np.ndarray, before: np.ndarray, after: dict[tuple[str, str], np.ndarray], counts: np.ndarray
) -> Iterator[dict[str, Any]]:
    positives = int(truth.sum())
    reason, nothing = shortage(positives, len(truth)), metrics.Estimate(np.nan, np.nan, np.nan)
    note = reason or warning(positives, len(truth))
    yield _row("auc_clean", nothing if reason else metrics.auc_delong(truth, before), note)
    for where, score in after.items():
        if reason:
            yield from (_row(name, nothing, note, where) for name in METRICS)
            continue
        yield _row("auc_shifted", metrics.auc_delong(truth, score), note, where)
        for name, drop in (("auc_drop", _auc_drop), ("balanced_accuracy_drop", _accuracy_drop)):
            e = metrics.bootstrapped(drop, truth, before, score, counts=counts)
            yield _row(name, e, join_notes(note, "clean minus shifted"), where)


def _auc_drop(
    truth: np.ndarray, before: np.ndarray, after: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    return metrics.auc(truth, before, weights) - metrics.auc(truth, after, weights)


def _accuracy_drop(
    truth: np.ndarray, before: np.ndarray, after: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    clean, shifted = (metrics.balanced_accuracy(truth, score >= 0, weights) for score in (before, after))
    return clean - shifted


def _distance_rows(
    x: np.ndarray, moved: dict[tuple[str, str], np.ndarray], sites: np.ndarray, seed: int, replicates: int
) -> Iterator[dict[str, Any]]:
    """Features are divided by their SD over clean patients; constant ones do not count."""
    spread = x.std(axis=0)
    kept = spread > 1e-7 * np.abs(x).mean(axis=0) + np.finfo(np.float32).tiny
    z = x[:, kept] / spread[kept]
    # Mean squared distance of two patients: twice the variance, which is 1 a feature.
    apart = np.sqrt(2 * max(int(kept.sum()), 1))
    for where, each in moved.items():
        step = np.sqrt(((each[:, kept] / spread[kept] - z) ** 2).sum(axis=1)) / apart
        for site, mine in _groups(sites):
            counts = metrics.bootstrap_counts(int(mine.sum()), replicates, generator(seed, "stress", SITE, site))
            e = metrics.bootstrapped(metrics.mean, step[mine], counts=counts)
            note = "" if kept.any() else "not estimable: the embedding is constant"
            e = e if kept.any() else metrics.Estimate(np.nan, np.nan, np.nan)
            yield {"site": site, "n": int(mine.sum()), **_row("embedding_shift", e, note, where)}
