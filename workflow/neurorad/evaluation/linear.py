"""Linear models on few patients and many features: standardise, PCA, ridge-penalised fits, all inside the training rows."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

CONSTANT = 1e-7
"""A column whose SD is below this share of its mean cannot be told from a constant in float32."""


@dataclass(frozen=True)
class Projection:
    """Standardisation and PCA as one affine map: scores `[n, k]` = (x - mean) @ matrix."""

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[n, d] -> [n, k]`."""
        return (x - self.mean) @ self.matrix

    def fold(self, coefficients: np.ndarray, intercept: float) -> tuple[np.ndarray, float]:
        """Weights `[d]` and intercept on the raw features that equal `coefficients` `[k]` on the scores."""
        weights = self.matrix @ coefficients
        return weights, float(intercept - self.mean @ weights)


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean `[d]` and SD `[d]` of each column, and the indices of those that vary."""
    mean, sd = x.mean(axis=0), x.std(axis=0)
    return mean, sd, np.flatnonzero((sd > CONSTANT * np.abs(mean)) & (sd > np.finfo(np.float32).tiny))


def project(x: np.ndarray, components: int | None = None, whiten: bool = False) -> Projection:
    """Learn the map from the training rows alone.

    Args:
        x: `[n, d]`. Constant columns are dropped (weight 0), the others standardised.
        components: keep that many principal components if d is larger; None only standardises.
        whiten: components with SD 1. Otherwise the total variance of all scores is at most 1, so that one grid of
            penalties serves 2 features as well as 2048.
    """
    _n, d = x.shape
    mean, sd, kept = standardisation(x)
    z = (x[:, kept] - mean[kept]) / sd[kept]
    if components is None or components >= len(kept):
        directions = np.eye(len(kept))
        spread = np.ones(len(kept))
    else:
        directions, spread = _principal(z, components)
    scale = directions / spread if whiten else directions / np.sqrt(max(len(kept), 1))
    matrix = np.zeros((d, directions.shape[1]))
    matrix[kept] = scale / sd[kept, None]
    return Projection(mean, matrix)


def _principal(z: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions `[d, k]` and SDs `[k]` of the leading components, through the smaller of the two Gram matrices."""
    n, d = z.shape
    values, vectors = np.linalg.eigh(z @ z.T if n <= d else z.T @ z)
    order = np.argsort(values)[::-1][:components]
    order = order[values[order] > 1e-9 * values.max()]
    values, vectors = values[order], vectors[:, order]
    directions = z.T @ vectors / np.sqrt(values) if n <= d else vectors
    return directions, np.sqrt(values / n)


def balanced_weights(y: np.ndarray) -> np.ndarray:
    """n / (2 n_class) for each row: both classes weigh the same (scikit-learn's `class_weight="balanced"`)."""
    return np.where(y == 1, len(y) / (2 * max(y.sum(), 1)), len(y) / (2 * max((1 - y).sum(), 1)))


def logistic(
    z: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    strengths: np.ndarray,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge-penalised logistic regressions, several at once, by Newton's method.

    Each minimises sum_i w_i log(1 + exp(-s_i (b + z_i a))) + |a|^2 / (2 C), s_i = +-1; the intercept is free. This is
    scikit-learn's LogisticRegression(C) with sample weights.

    Args:
        z: `[n, k]`.
        y, weights: `[n]`, or `[m, n]` for m regressions with their own labels.
        strengths: C, `[m]`, larger is freer.
        start: coefficients and intercepts to begin from, as returned; zeros if None.

    Returns:
        Coefficients `[m, k]`, intercepts `[m]`.
    """
    design = np.concatenate([np.ones((len(z), 1)), z], axis=1)
    ridge = np.concatenate(
        [np.zeros((len(strengths), 1)), np.repeat(1 / strengths[:, None], z.shape[1], axis=1)], axis=1
    )
    y, weights = np.atleast_2d(y), np.atleast_2d(weights)
    beta = np.zeros_like(ridge) if start is None else np.concatenate([start[1][:, None], start[0]], axis=1)

    def loss(candidate: np.ndarray) -> np.ndarray:
        logit = candidate @ design.T
        return (weights * (np.logaddexp(0, logit) - y * logit)).sum(1) + 0.5 * (ridge * candidate**2).sum(1)

    value = loss(beta)
    diagonal = np.arange(design.shape[1])
    for _ in range(100):
        p = expit(beta @ design.T)
        gradient = (weights * (p - y)) @ design + ridge * beta
        hessian = (design.T[None] * (weights * p * (1 - p))[:, None, :]) @ design
        hessian[:, diagonal, diagonal] += ridge + 1e-10
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        size = np.ones(len(beta))
        for _ in range(30):
            candidate = beta - size[:, None] * step
            reached = loss(candidate)
            worse = reached > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        beta, value = candidate, reached
        if np.abs(size[:, None] * step).max(initial=0) < 1e-8 * (1 + np.abs(beta).max(initial=0)):
            break
    return beta[:, 1:], beta[:, 0]


def ridge(z: np.ndarray, target: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regressions, one a penalty: minimise |t - b - z a|^2 + penalty |a|^2. Coefficients `[m, k]`, intercepts `[m]`."""
    centre = z.mean(axis=0)
    centred = z - centre
    gram = centred.T @ centred + penalties[:, None, None] * np.eye(z.shape[1])
    moment = centred.T @ (target - target.mean())
    coefficients = np.linalg.solve(gram, np.broadcast_to(moment, (len(penalties), len(moment)))[..., None])[..., 0]
    return coefficients, target.mean() - coefficients @ centre
