"""Networks trained end to end inside the training folds, judged like probes: same cells, metrics, intervals and tables."""

import numpy as np
import pandas as pd
from scipy.special import expit

from neurorad.endpoints import Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.classifier import CONSTANT_LOGIT, youden_threshold
from neurorad.evaluation.conformal import class_p_values
from neurorad.evaluation.folds import TRAINED_ONLY, Cell, cells
from neurorad.evaluation.probe import (
    CLASSIFICATION,
    PREDICTION_COLUMNS,
    averaged,
    not_estimable,
    predictions_of,
    same_site_row,
    score_rows,
    stack,
)
from neurorad.evaluation.tidy import join_notes, warning
from neurorad.problems import InputError
from neurorad.seeds import generator

NEEDED = ("endpoint", "protocol", "site", "repeat", "fold", "cohort", "patient", "scan", "part", "label", "logit")


def judge(
    scores: pd.DataFrame, folds: pd.DataFrame, known: dict[str, Endpoint], encoder: str, seed: int, replicates: int
) -> tuple[list[dict[str, object]], pd.DataFrame]:
    """Tidy rows and predictions of the cells that `neurorad finetune` trained for.

    Args:
        scores: its table, columns `NEEDED`. A cell's repeats may be fewer than those of the folds.

    Raises:
        InputError: scores of other folds than these: a tested patient without a score.
    """
    rows: list[dict[str, object]] = []
    predictions = []
    repeats = set(scores["repeat"])
    for whole in cells(folds):
        wanted = (whole.endpoint, whole.protocol, whole.site)
        if whole.endpoint not in known or not (scores[["endpoint", "protocol"]] == wanted[:2]).all(axis=1).any():
            continue
        cell = Cell(*wanted, whole.table[whole.table["repeat"].isin(repeats)])
        endpoint = known[cell.endpoint]
        tested = cell.tested
        truth = binary(tested["label"], endpoint).to_numpy()
        where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
        counted = {**where, "n": len(tested), "n_positive": int(truth.sum())}
        reason = not_estimable(cell, endpoint)
        if reason:
            rows += [{**counted, "metric": name, "value": np.nan, "note": reason} for name in CLASSIFICATION]
            continue
        mine = scores[(scores[["endpoint", "protocol", "site"]] == wanted).all(axis=1)]
        found = out_of_fold(cell, mine, encoder)
        mean = averaged(found)
        counts = metrics.bootstrap_counts(len(tested), replicates, generator(seed, "bootstrap", *where.values()))
        made = score_rows(truth, mean, tested["label"].to_numpy(float), counts)
        if tested["cohort"].nunique() > 1:
            made.append(same_site_row(truth, mean["score"], tested["cohort"].to_numpy(str), counts))
        caveat = warning(int(truth.sum()), len(truth))
        rows += [{**counted, **row, "note": join_notes(caveat, str(row["note"]))} for row in made]
        predictions.append(predictions_of(encoder, where, tested, truth, mean, found["score"]))
    return rows, stack(predictions, PREDICTION_COLUMNS)


def out_of_fold(cell: Cell, scores: pd.DataFrame, encoder: str) -> dict[str, np.ndarray]:
    """`[repeats, tested]` as the probe's `cross_validate`, threshold and scale from the patients held out in training.

    Raises:
        InputError: a tested patient has no score, or more than one.
    """
    patients = cell.patients
    key = ["cohort", "patient", "scan"]
    assignments = cell.assignments()
    found: dict[str, np.ndarray] = {}
    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
            mine = scores[(scores["repeat"] == repeat) & (scores["fold"] == fold)]
            inner, test = mine[mine["part"] == "inner"], mine[mine["part"] == "test"]
            wanted = patients.loc[fold_of == fold, key]
            joined = wanted.merge(test, on=key, how="left")
            if len(joined) != len(wanted) or len(test) != len(wanted) or joined["logit"].isna().any():
                raise InputError(
                    f"--scores: {cell.endpoint} {cell.protocol} {cell.site}, repeat {repeat}, fold {fold}: "
                    f"the scores of {encoder} are not those of these folds; make them again with `neurorad finetune`"
                )
            logit, seen = joined["logit"].to_numpy(float), inner["logit"].to_numpy(float)
            y = inner["label"].to_numpy(float)
            spread = float(seen.std())
            scale = spread if spread > CONSTANT_LOGIT else np.inf
            trained = binary(patients.loc[fold_of != fold, "label"], _cut(cell)).to_numpy()
            values = {
                "score": logit / scale,
                "margin": (logit - youden_threshold(y, seen)) / scale,
                "probability": expit(logit + np.log(trained.sum() / (1 - trained).sum())),
            }
            values |= dict(zip(("p_negative", "p_positive"), class_p_values(seen, y, logit), strict=True))
            for name, value in values.items():
                found.setdefault(name, np.full(assignments.shape, np.nan))[repeat, fold_of == fold] = value
    tested = assignments[0] != TRAINED_ONLY
    return {name: values[:, tested] for name, values in found.items()}


def _cut(cell: Cell) -> Endpoint:
    """The endpoint as its folds were drawn."""
    cutoff = float(cell.table["cutoff"].iloc[0])
    return Endpoint(cell.endpoint, "", "binary", None if np.isnan(cutoff) else cutoff)
