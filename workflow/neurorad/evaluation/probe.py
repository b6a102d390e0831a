"""Linear probes: does a frozen embedding know the marker?

Everything that is learned (means, components, penalty, threshold) is learned inside the training folds.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from neurorad.endpoints import Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import POOLED, TRAINED_ONLY, Cell, cells, deal
from neurorad.evaluation.linear import Projection, balanced_weights, logistic, project, ridge
from neurorad.evaluation.tidy import join_notes, shortage, warning
from neurorad.seeds import generator

STRENGTHS = 10.0 ** np.arange(-2, 4)
"""Grid of the inverse penalty C; the scores it acts on have total variance at most 1."""
PENALTIES = 10.0 ** np.arange(-2, 4)
INNER_FOLDS = 5
CONSTANT_LOGIT = 1e-6
"""Logits that spread less than this are all alike (a collapsed encoder); every score is then 0, and the AUC 0.5."""
CLASSIFICATION = (
    "auc",
    "balanced_accuracy",
    "balanced_accuracy_at_half",
    "sensitivity",
    "specificity",
    "average_precision",
    "brier",
)
REGRESSION = ("spearman", "mae")


@dataclass(frozen=True)
class Classifier:
    """A fitted probe: `logit = projection(x) @ coefficients + intercept`, classes weighted equally.

    `threshold` (on the logit) maximises Youden's index on inner out-of-fold logits, whose SD is `scale`; `prior` is the
    log odds of the training labels, which turns the balanced logit into a probability of this population.
    """

    projection: Projection
    coefficients: np.ndarray
    intercept: float
    threshold: float
    scale: float
    prior: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.projection(x) @ self.coefficients + self.intercept


def components(n: int) -> int:
    """Principal components kept for n training patients."""
    return max(1, n // 3)


def fit_classifier(x: np.ndarray, y: np.ndarray, strata: np.ndarray, random: np.random.Generator) -> Classifier:
    """A class-weighted ridge logistic regression on PCA scores; C and threshold by inner cross-validation.

    Args:
        x: `[n, d]` training features. y: `[n]` 0/1, at least 2 of each. strata: `[n]` what the inner folds balance.
    """
    inner = deal(strata, min(INNER_FOLDS, int(min(y.sum(), (1 - y).sum()))), random)
    held_out = np.empty((len(STRENGTHS), len(y)))
    for fold in range(inner.max() + 1):
        test = inner == fold
        held_out[:, test] = _path(x[~test], y[~test], x[test])
    sign = 2 * y - 1
    deviance = (balanced_weights(y) * np.logaddexp(0, -sign * held_out)).sum(axis=1)
    best = int(np.argmin(deviance))
    spread = float(held_out[best].std())
    projection = project(x, components(len(x)))
    coefficients, intercepts = logistic(projection(x), y, balanced_weights(y), STRENGTHS[[best]])
    return Classifier(
        projection,
        coefficients[0],
        float(intercepts[0]),
        youden_threshold(y, held_out[best]),
        spread if spread > CONSTANT_LOGIT else np.inf,
        float(np.log(y.sum() / (1 - y).sum())),
    )


def _path(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Logits `[strengths, new]` of the whole path of C."""
    projection = project(x, components(len(x)))
    coefficients, intercepts = logistic(projection(x), y, balanced_weights(y), STRENGTHS)
    return coefficients @ projection(new).T + intercepts[:, None]


def youden_threshold(y: np.ndarray, score: np.ndarray) -> float:
    """The cut with the highest sensitivity + specificity; of equals, the one nearest to 0 (even odds)."""
    levels = np.unique(score)
    cuts = np.r_[levels[0], (levels[1:] + levels[:-1]) / 2, 0.0]
    called = score[None, :] >= cuts[:, None]
    youden = (called & (y == 1)).sum(1) / y.sum() - (called & (y == 0)).sum(1) / (1 - y).sum()
    best = np.flatnonzero(youden >= youden.max() - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best]))]])


def fit_regressor(
    x: np.ndarray, target: np.ndarray, strata: np.ndarray, random: np.random.Generator
) -> tuple[Projection, np.ndarray, float]:
    """Ridge regression on PCA scores; the penalty by inner cross-validation. Returns projection, coefficients, intercept."""
    inner = deal(strata, min(INNER_FOLDS, len(x)), random)
    held_out = np.empty((len(PENALTIES), len(x)))
    for fold in range(inner.max() + 1):
        test = inner == fold
        projection = project(x[~test], components(int((~test).sum())))
        coefficients, intercepts = ridge(projection(x[~test]), target[~test], PENALTIES)
        held_out[:, test] = coefficients @ projection(x[test]).T + intercepts[:, None]
    best = np.argmin(((held_out - target) ** 2).sum(axis=1))
    projection = project(x, components(len(x)))
    coefficients, intercepts = ridge(projection(x), target, PENALTIES[[best]])
    return projection, coefficients[0], float(intercepts[0])


def cross_validate(cell: Cell, x: np.ndarray, endpoint: Endpoint, seed: int) -> dict[str, np.ndarray]:
    """Out-of-fold scores of the tested patients of a cell.

    Args:
        x: `[n, d]`, rows as `cell.patients`.

    Returns:
        Arrays `[repeats, tested]`: `score` (logit / SD of the inner out-of-fold logits: on one scale over folds, and 0
        is even odds in each), `margin` (score minus the fold's Youden threshold), `probability` (at the prevalence of
        the training labels), and `predicted` (ridge) for a continuous endpoint.
    """
    patients = cell.patients
    value = patients["label"].to_numpy(float)
    y = binary(patients["label"], endpoint).to_numpy()
    strata = (y.astype(str) + "/" + patients["cohort"]).to_numpy()
    assignments = cell.assignments()
    names = ["score", "margin", "probability"] + (["predicted"] if endpoint.kind == "continuous" else [])
    found = {name: np.full(assignments.shape, np.nan) for name in names}
    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
            test = fold_of == fold
            random = generator(seed, "probe", cell.endpoint, cell.protocol, cell.site, repeat, fold)
            model = fit_classifier(x[~test], y[~test], strata[~test], random)
            logit = model(x[test])
            found["score"][repeat, test] = logit / model.scale
            found["margin"][repeat, test] = (logit - model.threshold) / model.scale
            found["probability"][repeat, test] = expit(logit + model.prior)
            if "predicted" in found:
                projection, coefficients, intercept = fit_regressor(x[~test], value[~test], strata[~test], random)
                found["predicted"][repeat, test] = projection(x[test]) @ coefficients + intercept
    tested = assignments[0] != TRAINED_ONLY
    found = {name: values[:, tested] for name, values in found.items()}
    if not all(np.isfinite(values).all() for values in found.values()):
        raise ArithmeticError(f"{cell.endpoint} {cell.protocol} {cell.site}: a tested patient has no score")
    return found


def not_estimable(cell: Cell, endpoint: Endpoint) -> str:
    """Why the cell cannot be estimated, or empty: too few of a class among the tested, or among the training patients."""
    patients = cell.patients
    y = binary(patients["label"], endpoint)
    tested = patients["fold"] != TRAINED_ONLY
    reason = shortage(int(y[tested].sum()), int(tested.sum()))
    if not reason and not tested.all():
        reason = shortage(int(y[~tested].sum()), int((~tested).sum()), " in training")
    if not reason and min(cell.fewest_taught(y.to_numpy()), cell.fewest_taught(1 - y.to_numpy())) < 2:
        reason = "not estimable: a training fold has fewer than 2 positives or negatives"
    return reason


def score_rows(
    truth: np.ndarray, found: dict[str, np.ndarray], value: np.ndarray, counts: np.ndarray
) -> list[dict[str, object]]:
    """metric, value, interval and note of every metric, from scores averaged over repeats.

    Args:
        truth: `[n]` 0/1. value: `[n]` the label as it is. counts: `[B, n]` of `bootstrap_counts`.
    """
    mean = {name: values.mean(axis=0) for name, values in found.items()}
    score, margin = mean["score"], mean["margin"]
    metrics.check_threshold(truth, score, score >= 0)
    metrics.check_threshold(truth, margin, margin >= 0)
    at = {
        "balanced_accuracy": (metrics.balanced_accuracy, truth, margin >= 0),
        "balanced_accuracy_at_half": (metrics.balanced_accuracy, truth, score >= 0),
        "sensitivity": (metrics.sensitivity, truth, margin >= 0),
        "specificity": (metrics.specificity, truth, margin >= 0),
        "average_precision": (metrics.average_precision, truth, score),
        "brier": (metrics.brier, truth, mean["probability"]),
    }
    if "predicted" in mean:
        at["spearman"] = (metrics.spearman, value, mean["predicted"])
        at["mae"] = (metrics.mean_absolute_error, value, mean["predicted"])
    estimates = {"auc": metrics.auc_delong(truth, score)}
    estimates |= {name: metrics.bootstrapped(*call, counts=counts) for name, call in at.items()}
    notes = dict.fromkeys(estimates, "")
    if np.isnan(estimates["auc"].ci_low):
        notes["auc"] = "interval not estimable: the scores separate the classes perfectly or are constant"
    if estimates["auc"].value < 2 * estimates["balanced_accuracy"].value - 1:
        notes["balanced_accuracy"] = "above (AUC + 1) / 2, as each fold has its own threshold"
    return [
        {"metric": name, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": notes[name]}
        for name, e in estimates.items()
    ]


def probe(
    embeddings: Embeddings, folds: pd.DataFrame, known: dict[str, Endpoint], seed: int = 0, replicates: int = 500
) -> tuple[list[dict[str, object]], pd.DataFrame, pd.DataFrame]:
    """Every endpoint, protocol and site of the folds.

    Returns:
        Tidy rows; predictions (one row a tested patient and cell: encoder endpoint protocol site cohort patient scan
        label score margin probability predicted, and score_r0 ... of each repeat); coefficients (endpoint site
        intercept e0 ...: the probe of all sites, trained on every patient, as one linear layer on the raw embedding
        whose output is the class-balanced logit).
    """
    rows: list[dict[str, object]] = []
    predictions, coefficients = [], []
    for whole in cells(folds):
        if whole.endpoint not in known:
            continue
        endpoint = known[whole.endpoint]
        cell, x, left_out = embeddings.cover(whole)
        tested = cell.tested
        truth = binary(tested["label"], endpoint).to_numpy()
        where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
        counted = {**where, "n": len(tested), "n_positive": int(truth.sum())}
        reason = not_estimable(cell, endpoint)
        if reason:
            names = CLASSIFICATION + (REGRESSION if endpoint.kind == "continuous" else ())
            note = join_notes(reason, left_out)
            rows += [{**counted, "metric": name, "value": np.nan, "note": note} for name in names]
            continue
        found = cross_validate(cell, x, endpoint, seed)
        random = generator(seed, "bootstrap", *where.values())
        counts = metrics.bootstrap_counts(len(tested), replicates, random)
        caveats = join_notes(warning(int(truth.sum()), len(truth)), left_out)
        for row in score_rows(truth, found, tested["label"].to_numpy(float), counts):
            rows.append({**counted, **row, "note": join_notes(caveats, str(row["note"]))})
        predictions.append(_predictions(embeddings.encoder, where, tested, truth, found))
        if cell.protocol == "combined" and cell.site == POOLED:
            coefficients.append(_coefficients(cell, x, endpoint, seed, embeddings.columns))
    return rows, _stack(predictions, PREDICTION_COLUMNS), _stack(coefficients, ["endpoint", "site", "intercept"])


PREDICTION_COLUMNS = [
    *("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan"),
    *("label", "score", "margin", "probability", "predicted", "score_r0"),
]


def _stack(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _predictions(
    encoder: str, where: dict[str, str], tested: pd.DataFrame, truth: np.ndarray, found: dict[str, np.ndarray]
) -> pd.DataFrame:
    mean = {name: values.mean(axis=0) for name, values in found.items()}
    mean.setdefault("predicted", np.full(len(tested), np.nan))
    each = {f"score_r{repeat}": score for repeat, score in enumerate(found["score"])}
    who = tested[["cohort", "patient", "scan"]]
    return pd.DataFrame({"encoder": encoder, **where, **who, "label": truth, **mean, **each})


def _coefficients(cell: Cell, x: np.ndarray, endpoint: Endpoint, seed: int, columns: list[str]) -> pd.DataFrame:
    patients = cell.patients
    y = binary(patients["label"], endpoint).to_numpy()
    strata = (y.astype(str) + "/" + patients["cohort"]).to_numpy()
    model = fit_classifier(x, y, strata, generator(seed, "probe", cell.endpoint, "final"))
    weights, intercept = model.projection.fold(model.coefficients, model.intercept)
    first = {"endpoint": cell.endpoint, "site": cell.site, "intercept": intercept}
    return pd.DataFrame([{**first, **dict(zip(columns, weights, strict=True))}])
