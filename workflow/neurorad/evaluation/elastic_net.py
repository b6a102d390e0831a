"""Cox regression with an elastic-net penalty, a path of penalties at once, for more features than patients."""

import numpy as np

from neurorad.evaluation.cox import RiskSets, gradient, log_likelihood

MOST_STEPS = 5000
TOLERANCE = 1e-4
"""A step that moves no coefficient (features have SD 1) further than this is the last."""


def largest_penalty(sets: RiskSets, x: np.ndarray, l1_ratio: float) -> float:
    """The smallest penalty that leaves every coefficient at 0."""
    slope = np.abs(gradient(sets, np.zeros(len(x))) @ x).max(initial=0.0)
    return float(slope / (len(x) * l1_ratio))


def elastic_net_path(
    sets: RiskSets, x: np.ndarray, penalties: np.ndarray, l1_ratio: float, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Coefficients `[m, d]` that minimise -l(a)/n + penalty (l1_ratio |a|_1 + (1 - l1_ratio)/2 |a|^2), l the log partial
    likelihood (Simon, Friedman, Hastie and Tibshirani 2011).

    Accelerated proximal gradient (Beck and Teboulle 2009) on the features that the sequential strong rule keeps
    (Tibshirani 2012); what the rule left out is checked, and taken in where it was wrong.

    Args:
        x: `[n, d]`, standardised. penalties: `[m]`, falling.
    """
    d = x.shape[1]
    a, path = np.zeros(d), np.zeros((len(penalties), d))
    before = largest_penalty(sets, x, l1_ratio)
    slope, rate = gradient(sets, np.zeros(len(x))) @ x / len(x), 1.0
    for i, penalty in enumerate(penalties):
        kept = (a != 0) | (np.abs(slope) >= l1_ratio * (2 * penalty - before))
        for _ in range(10):
            a = a.copy()
            a[kept], rate = _descend(
                sets, x[:, kept], a[kept], penalty * l1_ratio, penalty * (1 - l1_ratio), rate, tolerance
            )
            slope = gradient(sets, x[:, kept] @ a[kept]) @ x / len(x)
            wrong = ~kept & (np.abs(slope) > l1_ratio * penalty * (1 + 1e-6))
            if not wrong.any():
                break
            kept |= wrong
        path[i], before = a, penalty
    return path


def _descend(
    sets: RiskSets, x: np.ndarray, a: np.ndarray, l1: float, l2: float, rate: float, tolerance: float
) -> tuple[np.ndarray, float]:
    """Coefficients `[k]` from the start `a`, and the step size that worked, to begin the next descent with."""
    n = len(x)
    ahead, momentum, rate = a, 1.0, 1.5 * rate
    for _ in range(MOST_STEPS):
        log_risk = x @ ahead
        value = -log_likelihood(sets, log_risk) / n + 0.5 * l2 * ahead @ ahead
        slope = -(gradient(sets, log_risk) @ x) / n + l2 * ahead
        while True:
            moved = ahead - rate * slope
            new = np.sign(moved) * np.maximum(np.abs(moved) - rate * l1, 0)
            step = new - ahead
            reached = -log_likelihood(sets, x @ new) / n + 0.5 * l2 * new @ new
            if reached <= value + slope @ step + step @ step / (2 * rate) + 1e-12 or rate < 1e-8:
                break
            rate /= 2
        if max(np.abs(new - a).max(initial=0), np.abs(step).max(initial=0)) < tolerance:
            return new, rate
        # Momentum that points uphill is dropped (O'Donoghue and Candes 2015).
        following = 1.0 if step @ (new - a) < 0 else (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (0.0 if following == 1.0 else (momentum - 1) / following) * (new - a)
        a, momentum = new, following
    return a, rate
