"""Cox regression with a ridge penalty, Efron's ties and strata; and the stratified log-rank test."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

LARGEST = 500.0
"""A log hazard ratio between two patients beyond this is on its way to infinity (and its exp leaves float64)."""


@dataclass(frozen=True)
class RiskSets:
    """Who was at risk at each death: all the partial likelihood needs of times, events and strata.

    Attributes:
        share: `[deaths, n]`; 1 if patient i is at risk at that death, in its stratum. Of m tied deaths the l-th
            (l = 0 ... m-1) counts each tied patient with 1 - l/m (Efron 1977).
        died: `[deaths]` index of the patient who died.
    """

    share: np.ndarray
    died: np.ndarray


def risk_sets(days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> RiskSets:
    died = np.flatnonzero(event == 1)
    same = strata[died, None] == strata[None, :]
    at_risk = same & (days[None, :] >= days[died, None])
    tied = same & (days[None, :] == days[died, None]) & (event[None, :] == 1)
    order = (tied & (np.arange(len(days))[None, :] < died[:, None])).sum(axis=1)
    return RiskSets(at_risk - tied * (order / np.maximum(tied.sum(axis=1), 1))[:, None], died)


def log_likelihood(sets: RiskSets, log_risk: np.ndarray) -> float:
    """Log partial likelihood of the linear predictor `log_risk` `[n]`."""
    top = log_risk.max()
    return float((log_risk[sets.died] - top).sum() - np.log(sets.share @ np.exp(log_risk - top)).sum())


@dataclass(frozen=True)
class CoxFit:
    """Coefficients `[k]`, their covariance `[k, k]` (inverse of the penalised information), and whether Newton arrived."""

    coefficients: np.ndarray
    covariance: np.ndarray
    converged: bool


def fit_cox(sets: RiskSets, x: np.ndarray, penalty: float = 0.0) -> CoxFit:
    """Maximise log partial likelihood - penalty/2 |a|^2 by Newton's method with step halving.

    Args:
        x: `[n, k]`. Without a penalty a covariate that orders all deaths has no finite estimate: `converged` is False.
    """
    k = x.shape[1]
    a = np.zeros(k)

    def objective(candidate: np.ndarray) -> float:
        return log_likelihood(sets, x @ candidate) - 0.5 * penalty * candidate @ candidate

    value, information, converged = objective(a), np.eye(k), False
    for _ in range(50):
        log_risk = x @ a
        risk = np.exp(log_risk - log_risk.max())
        total = sets.share @ risk
        mean = (sets.share @ (risk[:, None] * x)) / total[:, None]
        weight = risk * (sets.share.T @ (1 / total))
        gradient = x[sets.died].sum(axis=0) - mean.sum(axis=0) - penalty * a
        information = (x * weight[:, None]).T @ x - mean.T @ mean + penalty * np.eye(k)
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
        size = 1.0
        while (reached := objective(a + size * step)) < value - 1e-10 * abs(value) and size > 1e-6:
            size /= 2
        a, value = a + size * step, reached
        if np.ptp(x @ a) > LARGEST:
            break
        if np.abs(size * step).max(initial=0) < 1e-8:
            converged = True
            break
    return CoxFit(a, np.linalg.pinv(information), converged and bool(np.abs(a).max(initial=0) < 20))


def log_rank_p(days: np.ndarray, event: np.ndarray, group: np.ndarray, strata: np.ndarray) -> float:
    """Two-sided p of the (stratified) log-rank test of two groups (`group` boolean); NaN if no death tells them apart."""
    excess = variance = 0.0
    for stratum in np.unique(strata):
        for day in np.unique(days[(strata == stratum) & (event == 1)]):
            at_risk = (strata == stratum) & (days >= day)
            n, n1 = at_risk.sum(), (at_risk & group).sum()
            deaths = at_risk & (days == day) & (event == 1)
            d, d1 = deaths.sum(), (deaths & group).sum()
            excess += d1 - d * n1 / n
            if n > 1:
                variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    return float(chi2.sf(excess**2 / variance, 1)) if variance > 0 else float("nan")
