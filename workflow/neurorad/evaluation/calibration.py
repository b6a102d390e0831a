"""Is a probability what happens: calibration slope and intercept, calibration curve, net benefit of acting on it.

Weights are as in `metrics`: `[..., n]` counts of a bootstrap make every function return `[...]` numbers.
"""

import numpy as np
from scipy.special import expit, logit

from neurorad.evaluation.metrics import ratio, weights_or_ones

CLIPPED = 1e-6
"""Probabilities nearer to 0 or 1 than this are moved here, as their logit would be infinite."""
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)
"""Probabilities at which a decision curve is read."""
ITERATIONS = 30


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, CLIPPED, 1 - CLIPPED))


def _recalibrated(truth: np.ndarray, design: np.ndarray, offset: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients `[B, k]` of weighted logistic regressions on `design` `[n, k]` with an offset, by Newton's method.

    NaN where there is no finite maximum: one class alone, classes that the design separates, or a singular design.
    """
    beta = np.zeros((len(weights), design.shape[1]))
    settled = np.zeros(len(weights), dtype=bool)
    both = (weights @ truth > 0) & (weights @ (1 - truth) > 0)
    active = np.flatnonzero(both)
    pairs = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(ITERATIONS):
        if not len(active):
            break
        w = weights[active]
        p = expit(beta[active] @ design.T + offset)
        gradient = (w * (truth - p)) @ design
        hessian = ((w * p * (1 - p)) @ pairs).reshape(len(active), design.shape[1], design.shape[1])
        solvable = np.linalg.det(hessian) > 1e-12
        active, gradient, hessian = active[solvable], gradient[solvable], hessian[solvable]
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # On a standardised design a step longer than this overshoots.
        beta[active] += step * np.minimum(1, 3 / np.maximum(np.abs(step).max(axis=1, initial=0), 1e-300))[:, None]
        done = np.abs(step).max(axis=1, initial=0) < 1e-7
        settled[active[done]] = True
        active = active[~done]
    beta[~settled] = np.nan
    return beta


def calibration_slope(truth: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Slope b of logit P(y = 1) = a + b logit(probability) (Cox 1958): 1 is ideal, below 1 too extreme, 0 no information.

    NaN where it is not defined: constant probabilities, or probabilities that separate the classes.
    """
    w = weights_or_ones(len(truth), weights)
    x = _logit(probability)
    spread = x.std()
    if spread < 1e-9:
        return np.full(w.shape[:-1], np.nan)
    design = np.stack([np.ones(len(x)), (x - x.mean()) / spread], axis=1)
    slopes = _recalibrated(truth, design, np.zeros(len(x)), np.atleast_2d(w))[:, 1] / spread
    return slopes.reshape(w.shape[:-1])


def calibration_intercept(truth: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Intercept a of logit P(y = 1) = a + logit(probability), calibration in the large: 0 is ideal, below 0 too high."""
    w = weights_or_ones(len(truth), weights)
    design = np.ones((len(truth), 1))
    return _recalibrated(truth, design, _logit(probability), np.atleast_2d(w))[:, 0].reshape(w.shape[:-1])


def net_benefit(
    truth: np.ndarray, probability: np.ndarray, threshold: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """True positives minus false positives x threshold / (1 - threshold), a patient (Vickers and Elkin 2006).

    Acted on are those whose probability is at least the threshold. Acting on all is probability 1, on none is 0.
    """
    w = weights_or_ones(len(truth), weights)
    acted = (probability >= threshold).astype(float)
    gain = w @ (acted * truth) - w @ (acted * (1 - truth)) * threshold / (1 - threshold)
    return ratio(gain, w.sum(-1))


def calibration_curve(truth: np.ndarray, probability: np.ndarray, bins: int) -> list[tuple[float, float, int, int]]:
    """(mean probability, share of positives, patients, positives) of bins of equal size, lowest first; ties stay together."""
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    index = np.searchsorted(edges, probability, side="right")
    found = []
    for k in np.unique(index):
        mine = index == k
        found.append(
            (float(probability[mine].mean()), float(truth[mine].mean()), int(mine.sum()), int(truth[mine].sum()))
        )
    return found
