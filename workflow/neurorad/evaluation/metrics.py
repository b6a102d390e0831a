"""Numbers on (truth, score), each with an honest interval.

Every metric takes optional patient weights `[..., n]` (how often each patient is drawn), so that a bootstrap is one
call on a `[B, n]` matrix of counts. A metric that the weights leave undefined (no positive drawn) is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as t_distribution

LEVEL = 0.95
Z = float(norm.ppf(0.5 + LEVEL / 2))


def weights_or_ones(n: int, weights: np.ndarray | None) -> np.ndarray:
    """`weights` as floats, or `[n]` ones."""
    return np.ones(n) if weights is None else np.asarray(weights, dtype=float)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, NaN where `below` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _wins(score: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1 where score_i > other_j, 1/2 where equal, else 0: `[n, m]`."""
    return (score[:, None] > other[None, :]) + 0.5 * (score[:, None] == other[None, :])


def auc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half."""
    w, positive = weights_or_ones(len(truth), weights), truth == 1
    p, q = w[..., positive], w[..., ~positive]
    won = ((p @ _wins(score[positive], score[~positive])) * q).sum(-1)
    return ratio(won, p.sum(-1) * q.sum(-1))


def auc_same_stratum(
    truth: np.ndarray, score: np.ndarray, strata: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC over the pairs of a positive and a negative of one stratum: a score that only knows the site gets one half."""
    w = weights_or_ones(len(truth), weights)
    won, pairs = np.zeros(w.shape[:-1]), np.zeros(w.shape[:-1])
    for stratum in np.unique(strata):
        mine = strata == stratum
        positive, negative = mine & (truth == 1), mine & (truth == 0)
        p, q = w[..., positive], w[..., negative]
        won = won + ((p @ _wins(score[positive], score[negative])) * q).sum(-1)
        pairs = pairs + p.sum(-1) * q.sum(-1)
    return ratio(won, pairs)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval; NaN is what cannot be estimated."""

    value: float
    ci_low: float
    ci_high: float
    p: float = float("nan")


def _placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other class that each positive outranks, and that outranks each negative, by midranks."""
    positive = truth == 1
    ranks = rankdata(score)
    n1, n0 = positive.sum(), (~positive).sum()
    v10 = (ranks[positive] - rankdata(score[positive])) / n0
    v01 = 1 - (ranks[~positive] - rankdata(score[~positive])) / n1
    return v10, v01


def delong_variance(truth: np.ndarray, score: np.ndarray) -> float:
    """Variance of the AUC (DeLong, DeLong and Clarke-Pearson 1988; midranks as Sun and Xu 2014). Needs 2 of each class."""
    v10, v01 = _placements(truth, score)
    return float(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))


def auc_delong(truth: np.ndarray, score: np.ndarray) -> Estimate:
    """AUC with its DeLong 95 % CI, made on the logit scale so that it stays inside (0, 1) (Pepe 2003, p. 107).

    At an AUC of exactly 0 or 1 the variance is 0 and says nothing: the interval is NaN.
    """
    value = float(auc(truth, score))
    variance = delong_variance(truth, score)
    if not 0 < value < 1 or variance == 0:
        return Estimate(value, np.nan, np.nan)
    half = Z * np.sqrt(variance) / (value * (1 - value))
    logit = np.log(value / (1 - value))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    return Estimate(value, float(low), float(high))


def paired_delong(truth: np.ndarray, score: np.ndarray, against: np.ndarray) -> Estimate:
    """AUC(score) - AUC(against) on the same patients, with CI and two-sided p of the paired DeLong test.

    Scores that rank every pair alike differ by exactly 0 with variance 0: p is 1 and the interval is [0, 0].
    """
    v10, v01 = _placements(truth, score)
    u10, u01 = _placements(truth, against)
    d10, d01 = v10 - u10, v01 - u01
    difference = float(d10.mean())
    error = float(np.sqrt(d10.var(ddof=1) / len(d10) + d01.var(ddof=1) / len(d01)))
    if error == 0:
        return Estimate(difference, difference, difference, 1.0 if difference == 0 else np.nan)
    p = 2 * norm.sf(abs(difference) / error)
    return Estimate(difference, difference - Z * error, difference + Z * error, float(p))


def sensitivity(truth: np.ndarray, called: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of positives that are called positive (`called` boolean)."""
    w = weights_or_ones(len(truth), weights)
    return ratio(w @ ((truth == 1) & called), w @ (truth == 1))


def specificity(truth: np.ndarray, called: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the negatives that are called negative, 0 to 1."""
    return sensitivity(1 - truth, ~called, weights)


def balanced_accuracy(truth: np.ndarray, called: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of sensitivity and specificity, 0 to 1."""
    return (sensitivity(truth, called, weights) + specificity(truth, called, weights)) / 2


def check_threshold(truth: np.ndarray, score: np.ndarray, called: np.ndarray) -> None:
    """Refuse a sensitivity and specificity that the score's ROC curve does not allow.

    The ROC curve of `score` passes through (1 - specificity, sensitivity) and never falls, so
    2 x balanced accuracy - 1 <= sensitivity x specificity <= AUC <= 1 - (1 - sensitivity) x (1 - specificity)
    whenever `called` is `score` cut at one threshold.

    Raises:
        ArithmeticError: it does not hold: `called` does not come from `score` and one threshold, or a metric is wrong.
    """
    area, accuracy = float(auc(truth, score)), float(balanced_accuracy(truth, called))
    if area < 2 * accuracy - 1 - 1e-9:
        raise ArithmeticError(f"AUC {area:.4f} < 2 x balanced accuracy {accuracy:.4f} - 1")
    found, spared = float(sensitivity(truth, called)), float(specificity(truth, called))
    if not found * spared - 1e-9 <= area <= 1 - (1 - found) * (1 - spared) + 1e-9:
        raise ArithmeticError(f"AUC {area:.4f} does not go with sensitivity {found:.4f} and specificity {spared:.4f}")


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of `values` `[n]`, by weights `[..., n]`."""
    w = weights_or_ones(len(values), weights)
    return ratio(w @ values, w.sum(-1))


def brier(truth: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared distance of the probability from the outcome (0 best)."""
    return mean((probability - truth) ** 2, weights)


def average_precision(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum over thresholds of (recall gained) x precision, tied scores entering together (scikit-learn's definition)."""
    w = weights_or_ones(len(truth), weights)
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])
    hits = np.cumsum((w * truth)[..., order], axis=-1)[..., last_of_tie]
    drawn = np.cumsum(w[..., order], axis=-1)[..., last_of_tie]
    gained = np.diff(hits, axis=-1, prepend=0)
    precision = np.divide(hits, drawn, out=np.zeros_like(hits), where=drawn > 0)
    return ratio((gained * precision).sum(-1), hits[..., -1])


def spearman(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Rank correlation: Pearson's on midranks within the drawn patients."""
    w = weights_or_ones(len(truth), weights)
    a, b = (w @ _wins(values, values).T for values in (truth, score))
    total = w.sum(-1, keepdims=True)
    a, b = (ranks - (w * ranks).sum(-1, keepdims=True) / total for ranks in (a, b))
    return ratio((w * a * b).sum(-1), np.sqrt((w * a * a).sum(-1) * (w * b * b).sum(-1)))


def mean_absolute_error(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of |truth - predicted|, in the unit of both."""
    return mean(np.abs(truth - predicted), weights)


def comparable(days: np.ndarray, event: np.ndarray, strata: np.ndarray | None = None) -> np.ndarray:
    """`[n, n]` boolean: i is known to have died before j (or at the time j was censored), within one stratum."""
    before = (days[:, None] < days[None, :]) | ((days[:, None] == days[None, :]) & (event[None, :] == 0))
    pairs = before & (event[:, None] == 1)
    return pairs if strata is None else pairs & (strata[:, None] == strata[None, :])


def harrell_c(pairs: np.ndarray, risk: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Harrell's c-index: among comparable pairs, how often the earlier death had the higher risk, ties one half.

    Args:
        pairs: of `comparable`. risk: `[n]`, higher dies earlier.
    """
    w = weights_or_ones(len(risk), weights)
    concordant = pairs * _wins(risk, risk)
    return ratio(((w @ concordant) * w).sum(-1), ((w @ pairs.astype(float)) * w).sum(-1))


def bootstrap_counts(n: int, replicates: int, random: np.random.Generator) -> np.ndarray:
    """`[replicates, n]`: how often each patient is drawn when n are drawn with replacement."""
    return random.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def bootstrapped(metric: Callable[..., np.ndarray], *arrays: Any, counts: np.ndarray) -> Estimate:
    """The metric with its percentile 95 % CI over patient bootstrap samples (those where it is undefined are left out)."""
    value = float(metric(*arrays))
    samples = metric(*arrays, weights=counts)
    samples = samples[np.isfinite(samples)]
    if not len(samples) or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979); NaN stays NaN and is not counted as a test."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values that control the false discovery rate (Benjamini and Hochberg 1995); NaN as in `holm`."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1)
    return adjusted


def corrected_t(differences: np.ndarray, test_share: float) -> Estimate:
    """Mean of cross-validated differences with the corrected resampled t-test (Nadeau and Bengio 2003).

    Folds share training patients, so the variance of the mean is not s^2 / J but (1 / J + n_test / n_train) s^2.

    Args:
        differences: `[J]`, one a fold and repeat. test_share: n_test / n_train of a fold, 1 / (folds - 1).
    """
    count, value = len(differences), float(np.mean(differences)) if len(differences) else np.nan
    if count < 2:
        return Estimate(value, np.nan, np.nan)
    error = float(np.sqrt((1 / count + test_share) * np.var(differences, ddof=1)))
    if error < 1e-12:
        return Estimate(value, value, value, 1.0 if abs(value) < 1e-12 else np.nan)
    half = float(t_distribution.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Estimate(value, value - half, value + half, float(2 * t_distribution.sf(abs(value) / error, count - 1)))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927)."""
    if n == 0:
        return np.nan, np.nan
    share, z2 = hits / n, Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return float(max(centre - half, 0)), float(min(centre + half, 1))
