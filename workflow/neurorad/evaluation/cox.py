"""Cox regression with a ridge penalty, Efron's ties and strata; and the stratified log-rank test."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

LARGEST = 500.0
"""A log hazard ratio between two patients beyond this is on its way to infinity (and its exp leaves float64)."""


@dataclass(frozen=True)
class RiskSets:
    """Who was at risk at each death: all the partial likelihood needs of times, events and strata.

    Of m tied deaths the l-th (l = 0 ... m-1) counts each tied patient with 1 - l/m (Efron 1977). Sums over the patients
    at risk are prefix sums of the patients sorted by stratum and falling time: linear in n, and free of cancellation.

    Attributes:
        died: `[deaths]` index of the patient who died, sorted by stratum and falling time.
        order: `[n]` patients by stratum and falling time; blocks: begin and end of each stratum in it.
        last: `[deaths]` place in `order` of the last patient at risk.
        tie: `[deaths]` which group of tied deaths; first: where each group begins; fraction: `[deaths]` l/m.
    """

    died: np.ndarray
    order: np.ndarray
    blocks: tuple[tuple[int, int], ...]
    last: np.ndarray
    tie: np.ndarray
    first: np.ndarray
    fraction: np.ndarray

    def at_risk(self, v: np.ndarray) -> np.ndarray:
        """`[deaths, ...]`: the sum of `v` `[n, ...]` over those at risk at each death."""
        if not len(self.died):
            return np.zeros((0, *v.shape[1:]))
        prefix = v[self.order]
        for begin, end in self.blocks:
            np.cumsum(prefix[begin:end], axis=0, out=prefix[begin:end])
        tied = np.add.reduceat(v[self.died], self.first, axis=0)[self.tie]
        return prefix[self.last] - tied * self.fraction.reshape(-1, *[1] * (v.ndim - 1))

    def spread(self, u: np.ndarray) -> np.ndarray:
        """`[n]`: the sum of `u` `[deaths]` over the deaths at which each patient was at risk (transpose of `at_risk`)."""
        n = len(self.order)
        placed = np.bincount(self.last, u, n)
        for begin, end in self.blocks:
            placed[begin:end] = np.cumsum(placed[begin:end][::-1])[::-1]
        found = np.empty(n)
        found[self.order] = placed
        found[self.died] -= np.bincount(self.tie, u * self.fraction)[self.tie] if len(u) else 0.0
        return found


def risk_sets(days: np.ndarray, event: np.ndarray, strata: np.ndarray) -> RiskSets:
    """Patients in the order that the partial likelihood needs. `days`, `event`, `strata`: `[n]`; a risk set lies in one stratum."""
    code = np.unique(strata, return_inverse=True)[1]
    order = np.lexsort((-days, code))
    block, time = code[order], days[order]
    edges = np.flatnonzero(np.r_[True, block[1:] != block[:-1], True]) if len(order) else np.zeros(1, dtype=int)
    new_time = np.r_[True, (block[1:] != block[:-1]) | (time[1:] != time[:-1])] if len(order) else np.zeros(0, bool)
    moment = np.cumsum(new_time) - 1
    last_of = np.r_[np.flatnonzero(new_time)[1:] - 1, len(order) - 1]
    dead = np.flatnonzero(event[order] == 1)
    _, first, tie, size = np.unique(moment[dead], return_index=True, return_inverse=True, return_counts=True)
    fraction = (np.arange(len(dead)) - first[tie]) / size[tie]
    blocks = tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    return RiskSets(order[dead], order, blocks, last_of[moment[dead]], tie, first, fraction)


def log_likelihood(sets: RiskSets, log_risk: np.ndarray) -> float:
    """Log partial likelihood of the linear predictor `log_risk` `[n]`."""
    top = log_risk.max()
    # Far below the highest risk exp is 0 in float64; the floor keeps the likelihood of a wild predictor finite.
    total = np.maximum(sets.at_risk(np.exp(log_risk - top)), np.finfo(float).tiny)
    return float((log_risk[sets.died] - top).sum() - np.log(total).sum())


def gradient(sets: RiskSets, log_risk: np.ndarray) -> np.ndarray:
    """`[n]`: derivative of the log partial likelihood by each patient's log risk (the martingale residuals)."""
    risk = np.exp(log_risk - log_risk.max())
    slope = -risk * sets.spread(1 / np.maximum(sets.at_risk(risk), np.finfo(float).tiny))
    slope[sets.died] += 1
    return slope


def cumulative_hazard(sets: RiskSets, days: np.ndarray, log_risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """`[grid]`: baseline cumulative hazard of a patient of log risk 0 (Breslow 1974, ties as Efron); no strata in `sets`."""
    total = np.maximum(sets.at_risk(np.exp(log_risk - log_risk.max())), np.finfo(float).tiny)
    steps = np.exp(np.clip(-log_risk.max(), -500, 500)) / total
    when = days[sets.died]
    order = np.argsort(when, kind="stable")
    total = np.r_[0.0, np.cumsum(steps[order])]
    return total[np.searchsorted(when[order], grid, side="right")]


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
        total = np.maximum(sets.at_risk(risk), np.finfo(float).tiny)
        mean = sets.at_risk(risk[:, None] * x) / total[:, None]
        weight = risk * sets.spread(1 / total)
        slope = x[sets.died].sum(axis=0) - mean.sum(axis=0) - penalty * a
        information = (x * weight[:, None]).T @ x - mean.T @ mean + penalty * np.eye(k)
        step = np.linalg.lstsq(information, slope, rcond=None)[0]
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
