"""The models to explain: for each patient those that had not seen it, as one linear layer on the raw embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurorad.problems import InputError

SURVIVAL = "os"
"""Overall survival, whose score is the risk of the Cox model."""
PROTOCOL, SITE = "combined", "all"
"""Whose out-of-fold scores choose the patients and are explained: the models of all sites pooled."""
KEY = ["cohort", "patient"]
TOLERANCE = 1e-3
"""Scores within this of each other are one; embeddings are stored as float32."""


@dataclass(frozen=True)
class Probe:
    """One endpoint on one encoder.

    Attributes:
        patients: cohort, patient, scan, label (0/1; of survival, whether the patient died), status (the label as a page
            writes it), score (out of fold), and for survival days. One row a patient, n in all.
        weights: `[n, d]` float32: the mean over repeats of the models whose training had left the patient out. With their
            intercepts their output is `score`.
    """

    endpoint: str
    patients: pd.DataFrame
    weights: np.ndarray


def read_probe(
    endpoint: str,
    encoder: str,
    dimension: int,
    predictions: Sequence[pd.DataFrame],
    coefficients: Sequence[pd.DataFrame],
    folds: pd.DataFrame,
    embeddings: pd.DataFrame,
) -> Probe | None:
    """The probe of an endpoint, proven by its own predictions; None if evaluation could not fit one.

    Args:
        dimension: d of the encoder. predictions, coefficients: of the probes, of survival, or both. folds: of all
            endpoints. embeddings: cohort, scan, e0 ... of this encoder.

    Raises:
        InputError: tables that do not belong together: another encoder's predictions, weights of another length, folds
            of another draw, weights that do not give the predicted scores on these embeddings.
    """
    patients = _patients(endpoint, encoder, predictions)
    models = held_out(endpoint, dimension, patients, coefficients, folds)
    if models is None:
        return None
    said = _scores(patients, models, dimension, embeddings)
    if not np.allclose(said, patients["score"], atol=TOLERANCE, rtol=TOLERANCE):
        worst = float(np.abs(said - patients["score"]).max())
        raise InputError(
            f"--coefficients: on --embeddings they do not give the scores of --predictions for {endpoint} (off by "
            f"{worst:.3g}); give coefficients, predictions and embeddings of one run of one encoder"
        )
    return Probe(endpoint, patients, mean_weights(models, dimension))


def _patients(endpoint: str, encoder: str, predictions: Sequence[pd.DataFrame]) -> pd.DataFrame:
    column = "risk" if endpoint == SURVIVAL else "score"
    kept = [*KEY, "scan", "label", "status", "score"]
    for table in predictions:
        mine = table[(table["endpoint"] == endpoint) & (table["protocol"] == PROTOCOL) & (table["site"] == SITE)]
        if mine.empty or column not in mine:
            continue
        if others := set(mine["encoder"]) - {encoder}:
            raise InputError(f"--predictions: {endpoint} of {', '.join(sorted(others))}, not of {encoder}")
        mine = mine.assign(score=mine[column]).reset_index(drop=True)
        if endpoint != SURVIVAL:
            return mine.assign(status=np.where(mine["label"] == 1, "positive", "negative"))[kept]
        ends = np.where(mine["event"] == 1, "died", "alive")
        said = [f"{end} at {days:.0f} d" for end, days in zip(ends, mine["days"], strict=True)]
        return mine.assign(label=mine["event"], status=said)[[*kept, "days"]]
    return pd.DataFrame(columns=kept)


def held_out(
    endpoint: str, dimension: int, patients: pd.DataFrame, coefficients: Sequence[pd.DataFrame], folds: pd.DataFrame
) -> pd.DataFrame | None:
    """For each of `patients` (cohort, patient, ...) and each repeat the model whose training had left the patient out.

    Returns:
        row (place in `patients`), repeat, fold, intercept, lowest, highest, e0 ...; None without patients or models.

    Raises:
        InputError: weights of another length or not finite; a patient without a fold, or a fold without a model.
    """
    tables = [table[(table["endpoint"] == endpoint) & (table["site"] == SITE)] for table in coefficients]
    layers = next((table for table in tables if len(table)), None)
    if layers is None or patients.empty:
        return None
    names = [f"e{i}" for i in range(dimension)]
    given = sum(column[:1] == "e" and column[1:].isdigit() for column in layers)
    if given != dimension or not set(names) <= set(layers):
        raise InputError(
            f"--coefficients: {given} weights for {endpoint}, but the encoder makes {dimension} features; give both of "
            f"one encoder"
        )
    if not np.isfinite(layers[names].to_numpy(float)).all():
        raise InputError(f"--coefficients: weights of {endpoint} are not finite; run the evaluation again")
    drawn = folds[(folds["endpoint"] == endpoint) & (folds["protocol"] == PROTOCOL) & (folds["site"] == SITE)]
    rows = patients[KEY].reset_index(drop=True).reset_index(names="row")
    rows = rows.merge(drawn[[*KEY, "repeat", "fold"]], on=KEY, how="left").merge(
        layers.drop(columns=["endpoint", "site"]), on=["repeat", "fold"], how="left"
    )
    if (lost := rows["intercept"].isna()).any():
        raise InputError(
            f"--folds: {rows['row'][lost].nunique()} patients with a score for {endpoint} have no fold, or their fold has "
            f"no model in --coefficients; give the folds that the evaluation used"
        )
    return rows.sort_values(["row", "repeat"], ignore_index=True)


def mean_weights(models: pd.DataFrame, dimension: int) -> np.ndarray:
    """`[n, d]` float32: of `held_out`'s rows the mean over repeats."""
    names = [f"e{i}" for i in range(dimension)]
    return models.groupby("row", sort=True)[names].mean().to_numpy(np.float32)


def _scores(patients: pd.DataFrame, models: pd.DataFrame, dimension: int, embeddings: pd.DataFrame) -> np.ndarray:
    """`[n]`: what the models say of their patients, clipped as evaluation clips it, mean over repeats."""
    names = [f"e{i}" for i in range(dimension)]
    if missing := [name for name in ("cohort", "scan", *names) if name not in embeddings]:
        raise InputError(f"--embeddings: lack the columns {', '.join(missing[:3])}; give those of this encoder")
    x = patients[["cohort", "scan"]].merge(embeddings[["cohort", "scan", *names]], how="left", validate="one_to_one")
    if lost := int(x[names[0]].isna().sum()):
        raise InputError(f"--embeddings: {lost} scans with a score have no embedding; give those of every test cohort")
    mine = x[names].to_numpy(float)[models["row"].to_numpy(int)]
    output = (mine * models[names].to_numpy(float)).sum(axis=1) + models["intercept"]
    return output.clip(models["lowest"], models["highest"]).groupby(models["row"]).mean().to_numpy()


def shuffled(probe: Probe, embeddings: pd.DataFrame, random: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Weights `[d]` of one simple linear model on the true outcome and on a shuffled one: Adebayo's second test.

    Ridge regression on standardised features. The target is the label with classes of equal weight; for survival the
    martingale residual of the model without covariates, event - Nelson-Aalen hazard at the site (Therneau et al. 1990).
    Both see every patient: here maps are compared, not patients scored. Empty if all have one label.
    """
    rows = probe.patients.merge(embeddings, on=["cohort", "scan"], suffixes=("", "_embedded"), validate="one_to_one")
    x = rows[[f"e{i}" for i in range(probe.weights.shape[1])]].to_numpy(float)
    label = rows["label"].to_numpy(float)
    if probe.endpoint == SURVIVAL:
        target, weight = np.zeros(len(rows)), np.ones(len(rows))
        for site in rows["cohort"].unique():
            mine = (rows["cohort"] == site).to_numpy()
            target[mine] = label[mine] - nelson_aalen(rows.loc[mine, "days"].to_numpy(float), label[mine])
    else:
        share = label.mean()
        target, weight = label - 0.5, np.where(label == 1, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))
    if np.ptp(target) == 0:
        return {}
    sd = x.std(axis=0)
    sd = np.where(sd > 0, sd, np.inf)
    z = x / sd
    found = {}
    for name, order in (("simple_probe", np.arange(len(rows))), ("permuted_labels", random.permutation(len(rows)))):
        w, y = weight[order], target[order]
        centred = z - np.average(z, axis=0, weights=w)
        # As strong a penalty as there are features: the squared length of a patient's standardised features.
        normal = (centred * w[:, None]).T @ centred + z.shape[1] * np.eye(z.shape[1])
        coefficients = np.linalg.solve(normal, (centred * w[:, None]).T @ (y - np.average(y, weights=w)))
        found[name] = (coefficients / sd).astype(np.float32)
    return found


def nelson_aalen(days: np.ndarray, event: np.ndarray) -> np.ndarray:
    """`[n]`: cumulative hazard at each patient's own time, sum over deaths until then of deaths / number at risk."""
    times = np.unique(days[event == 1])
    steps = np.array([((days == t) & (event == 1)).sum() / (days >= t).sum() for t in times])
    return np.concatenate([[0.0], np.cumsum(steps)])[np.searchsorted(times, days, side="right")]
