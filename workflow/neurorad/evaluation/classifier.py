"""The two probes: ridge logistic and ridge linear regression on principal components, penalty chosen in inner folds."""

from dataclasses import dataclass

import numpy as np

from neurorad.evaluation.folds import deal
from neurorad.evaluation.linear import Projection, balanced_weights, logistic, project, ridge
from neurorad.evaluation.robust import robust_logistic, worst_group_loss

STRENGTHS = 10.0 ** np.arange(-2, 4)
"""Grid of the inverse penalty C; the scores it acts on have total variance at most 1."""
PENALTIES = 10.0 ** np.arange(-2, 4)
INNER_FOLDS = 5
CONSTANT_LOGIT = 1e-6
"""Logits that spread less than this are all alike (a collapsed encoder); every score is then 0, and the AUC 0.5."""


@dataclass(frozen=True)
class Classifier:
    """A fitted probe: `logit = projection(x) @ coefficients + intercept`, classes weighted equally.

    `inner` `[n]` are the training patients' logits by models of the inner folds that had not seen them; `threshold` (on
    the logit) maximises Youden's index on them, `scale` is their SD. `prior` is the log odds of the training labels,
    which turns the balanced logit into a probability of this population.
    """

    projection: Projection
    coefficients: np.ndarray
    intercept: float
    inner: np.ndarray
    threshold: float
    scale: float
    prior: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[n, d] -> [n]`: log-odds."""
        return self.projection(x) @ self.coefficients + self.intercept


def components(n: int) -> int:
    """Principal components kept for n training patients."""
    return max(1, n // 3)


def fit_classifier(
    x: np.ndarray, y: np.ndarray, strata: np.ndarray, random: np.random.Generator, groups: np.ndarray | None = None
) -> Classifier:
    """A ridge logistic regression on PCA scores; C and threshold by inner cross-validation.

    Classes weigh the same and C minimises the weighted deviance; with `groups` the fit is Group-DRO over them and C
    minimises the deviance of the worst group.

    Args:
        x: `[n, d]` training features. y: `[n]` 0/1, at least 2 of each. strata: `[n]` what the inner folds balance.
        groups: `[n]` group of each row, or None.
    """
    inner = deal(strata, min(INNER_FOLDS, int(min(y.sum(), (1 - y).sum()))), random)
    held_out = np.empty((len(STRENGTHS), len(y)))
    for fold in range(inner.max() + 1):
        test = inner == fold
        projection, coefficients, intercepts = _fit(
            x[~test], y[~test], STRENGTHS, None if groups is None else groups[~test]
        )
        held_out[:, test] = coefficients @ projection(x[test]).T + intercepts[:, None]
    losses = np.logaddexp(0, (1 - 2 * y) * held_out)
    deviance = losses @ balanced_weights(y) if groups is None else worst_group_loss(losses, groups)
    best = int(np.argmin(deviance))
    spread = float(held_out[best].std())
    projection, coefficients, intercepts = _fit(x, y, STRENGTHS[[best]], groups)
    return Classifier(
        projection,
        coefficients[0],
        float(intercepts[0]),
        held_out[best],
        youden_threshold(y, held_out[best]),
        spread if spread > CONSTANT_LOGIT else np.inf,
        float(np.log(y.sum() / (1 - y).sum())),
    )


def _fit(
    x: np.ndarray, y: np.ndarray, strengths: np.ndarray, groups: np.ndarray | None
) -> tuple[Projection, np.ndarray, np.ndarray]:
    """Projection, coefficients `[strengths, k]` and intercepts `[strengths]`."""
    projection = project(x, components(len(x)))
    z = projection(x)
    if groups is None:
        return projection, *logistic(z, y, balanced_weights(y), strengths)
    return projection, *robust_logistic(z, y, groups, strengths)


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
