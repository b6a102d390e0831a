"""The out-of-fold scores again, counted on the patients of whom it is proven that no encoder was pretrained on them.

A test patient is `clean` or `unproven` (the leakage audit's `test_patients.tsv`). The models are those of `probe` and
`survival`, fitted on all patients of their folds; only the patients that are scored are fewer.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neurorad.evaluation import metrics
from neurorad.evaluation.folds import KEY
from neurorad.evaluation.tidy import NEEDED, WARNED, join_notes, shortage, warning
from neurorad.problems import InputError
from neurorad.seeds import generator

CELL = ["encoder", "endpoint", "protocol", "site"]
EVERYBODY, CLEAN = "all", "clean"
NOTHING = metrics.Estimate(np.nan, np.nan, np.nan)
Call = tuple[str, metrics.Estimate, str]
"""Metric, estimate and note."""


def clean_rows(
    predictions: Iterable[pd.DataFrame], test_patients: pd.DataFrame, seed: int = 0, replicates: int = 500
) -> Iterator[dict[str, Any]]:
    """Two tidy rows a number, `patients` saying of whom: `all`, as in the tables of probe and survival, and `clean`.

    Markers have `auc` and `balanced_accuracy` (threshold of the inner folds), survival has `c_index`.

    Args:
        predictions: of `probe` (`label score margin`) and `survival` (`risk days event`), one table or several.
        test_patients: `cohort patient status`.
        seed, replicates: of the patient bootstrap (`balanced_accuracy`, `c_index`); the AUC has a DeLong interval.

    Raises:
        InputError: a status that is neither clean nor unproven; a patient twice or not at all in `test_patients`, or
            twice in one cell of the predictions.
    """
    proven = _proven(test_patients)
    for table in predictions:
        if table.empty:
            continue
        keys = list(zip(table["cohort"], table["patient"], strict=True))
        unknown = sorted({key for key in keys if key not in proven})
        if unknown:
            raise InputError(
                f"--test-patients: {len(unknown)} evaluated patients have no row, first one of {unknown[0][0]}; "
                "give the test_patients.tsv of the audit of this study"
            )
        table = table.assign(clean=[proven[key] for key in keys])
        for where, part in table.groupby(CELL, sort=False):
            cell = dict(zip(CELL, where, strict=True))
            if part.duplicated(KEY).any():
                raise InputError(f"--predictions: {' '.join(where)}: a patient is scored twice; give each file once")
            yield from _rows(cell, part, EVERYBODY, seed, replicates)
            yield from _rows(cell, part, CLEAN, seed, replicates)


def _proven(test_patients: pd.DataFrame) -> dict[tuple[str, str], bool]:
    wrong = sorted(set(test_patients["status"]) - {"clean", "unproven"})
    if wrong:
        raise InputError(f"--test-patients: status {wrong[0]!r} is neither clean nor unproven")
    if test_patients.duplicated(KEY).any():
        raise InputError("--test-patients: a patient has two rows; give the test_patients.tsv of one audit")
    keys = zip(test_patients["cohort"], test_patients["patient"].astype(str), strict=True)
    return dict(zip(keys, test_patients["status"] == "clean", strict=True))


def _rows(
    cell: dict[str, str], part: pd.DataFrame, patients: str, seed: int, replicates: int
) -> Iterator[dict[str, Any]]:
    """The metrics of one cell, of all its tested patients or of the clean ones among them."""
    scored = part if patients == EVERYBODY else part[part["clean"]]
    # Without the encoder's name: every encoder is scored on the same samples.
    random = generator(seed, "clean", patients, *(cell[name] for name in CELL[1:]))
    counts = metrics.bootstrap_counts(len(scored), replicates, random) if len(scored) else np.empty((replicates, 0))
    risk = "risk" in part
    outcome = scored["event" if risk else "label"].to_numpy(float)
    total = int(outcome.sum())
    counted = {"patients": patients, "n": len(scored), "n_events" if risk else "n_positive": total}
    caveat = ""
    if patients == CLEAN and len(scored) == len(part):
        caveat = "every tested patient is clean"
    for metric, estimate, note in _survival(scored, counts) if risk else _marker(scored, counts):
        found = {"metric": metric, "value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}
        yield {**cell, **counted, **found, "note": join_notes(note, caveat)}


def _marker(scored: pd.DataFrame, counts: np.ndarray) -> list[Call]:
    truth, score, margin = (scored[name].to_numpy(float) for name in ("label", "score", "margin"))
    lacking = shortage(int(truth.sum()), len(truth))
    if lacking:
        return [(name, NOTHING, lacking) for name in ("auc", "balanced_accuracy")]
    area = metrics.auc_delong(truth, score)
    accuracy = metrics.bootstrapped(metrics.balanced_accuracy, truth, margin >= 0, counts=counts)
    few = warning(int(truth.sum()), len(truth))
    perfect = "interval not estimable: the scores separate the classes perfectly or are constant"
    return [
        ("auc", area, join_notes(few, perfect if np.isnan(area.ci_low) else "")),
        ("balanced_accuracy", accuracy, few),
    ]


def _survival(scored: pd.DataFrame, counts: np.ndarray) -> list[Call]:
    events = int(scored["event"].sum())
    if events < NEEDED:
        return [("c_index", NOTHING, f"not estimable: {events} events of {len(scored)} (needs {NEEDED})")]
    days, event, risk = (scored[name].to_numpy(float) for name in ("days", "event", "risk"))
    pairs = metrics.comparable(days, event, scored["cohort"].to_numpy(str))
    if not pairs.any():
        return [("c_index", NOTHING, "not estimable: no comparable pair")]
    c = metrics.bootstrapped(
        lambda values, weights=None: metrics.harrell_c(pairs, values, weights), risk, counts=counts
    )
    return [("c_index", c, f"warning: only {events} events" if events < WARNED else "")]
