"""Numbers on (time, event, prediction) under censoring, each over a whole bootstrap at once.

Censored patients are accounted for by inverse probability of censoring weights (IPCW). Weights `[..., n]` say how often
each patient is drawn; the censoring distribution is estimated anew in every drawn sample. Strata (sites) are never
compared with each other, and each has its own censoring distribution. Undefined is NaN.
"""

from collections.abc import Sequence

import numpy as np

from neurorad.evaluation.metrics import _wins as wins
from neurorad.evaluation.metrics import comparable, ratio


def _product_limit(
    days: np.ndarray, ends: np.ndarray, w: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct times `[T]`, and the product over them of 1 - ends / at risk, `[..., T]`.

    Args:
        ends: `[n]` 1 where the time is an end of the kind that counts. first: `[n]` 1 where the patient leaves at that
            time before those ends happen (deaths come before censorings of the same day).
    """
    order = np.argsort(days, kind="stable")
    times, start = np.unique(days[order], return_index=True)
    w = w[..., order]
    at_risk = np.cumsum(w[..., ::-1], axis=-1)[..., ::-1][..., start]
    exposed = at_risk - np.add.reduceat(w * first[order], start, axis=-1)
    ended = np.add.reduceat(w * ends[order], start, axis=-1)
    hazard = np.divide(ended, exposed, out=np.zeros_like(at_risk), where=exposed > 0)
    return times, np.cumprod(1 - hazard, axis=-1)


def _step(times: np.ndarray, values: np.ndarray, when: np.ndarray, before: bool = False) -> np.ndarray:
    """`[..., k]`: a right-continuous step function at `when`, or just before it; 1 ahead of the first time."""
    index = np.searchsorted(times, when, side="left" if before else "right")
    padded = np.concatenate([np.ones((*values.shape[:-1], 1)), values], axis=-1)
    return padded[..., index]


def survival_at(
    days: np.ndarray, event: np.ndarray, when: Sequence[float] | np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """`[..., k]`: Kaplan-Meier survival at the times `when` `[k]`."""
    w = np.ones(len(days)) if weights is None else weights
    times, alive = _product_limit(days, event, w, np.zeros(len(days)))
    return _step(times, alive, np.asarray(when, dtype=float))


def uncensored(
    days: np.ndarray, event: np.ndarray, strata: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """`[..., n]`: P(not censored) just before each patient's own time, by the reverse Kaplan-Meier of the stratum.

    Never 0 for a patient who is drawn; of patients who are not drawn it means nothing.
    """
    w = np.ones(len(days)) if weights is None else weights
    free = np.ones(w.shape)
    for stratum in np.unique(strata):
        mine = strata == stratum
        times, kept = _product_limit(days[mine], 1 - event[mine], w[..., mine], event[mine])
        free[..., mine] = _step(times, kept, days[mine], before=True)
    return free


def _inverse(w: np.ndarray, free: np.ndarray) -> np.ndarray:
    return np.divide(w, free, out=np.zeros(np.broadcast_shapes(w.shape, free.shape)), where=w > 0)


def uno_c(
    days: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    tau: float,
    strata: np.ndarray,
    free: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Uno's c-index up to `tau` (Uno 2011, equation 6): pairs weighted by 1 / G(earlier death)^2, ties in risk 1/2.

    Args:
        free: of `uncensored` with the same weights (here and below).
    """
    w = np.ones(len(days)) if weights is None else weights
    pairs = (comparable(days, event, strata) & (days < tau)[:, None]).astype(float)
    earlier = _inverse(w, free**2)
    return ratio(((earlier @ (pairs * wins(risk, risk))) * w).sum(-1), ((earlier @ pairs) * w).sum(-1))


def auc_at(
    days: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    when: float,
    strata: np.ndarray,
    free: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Cumulative/dynamic AUC at `when`: dead by then against alive then, deaths weighted by 1 / G (Uno 2007)."""
    w = np.ones(len(days)) if weights is None else weights
    case, control = (days <= when) & (event == 1), days > when
    pairs = (strata[case][:, None] == strata[control][None, :]).astype(float)
    cases, controls = _inverse(w, free)[..., case], w[..., control]
    won = ((cases @ (pairs * wins(risk[case], risk[control]))) * controls).sum(-1)
    return ratio(won, ((cases @ pairs) * controls).sum(-1))


def brier_at(
    days: np.ndarray,
    event: np.ndarray,
    alive: np.ndarray,
    grid: np.ndarray,
    strata: np.ndarray,
    free: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """`[..., grid]`: IPCW Brier score of predicted survival `alive` `[n, grid]` at each time (Graf 1999)."""
    w = np.ones(len(days)) if weights is None else weights
    died = ((days[:, None] <= grid) & (event[:, None] == 1)).astype(float)
    lost = _inverse(w, free) @ (died * alive**2)
    missed = (days[:, None] > grid) * (1 - alive) ** 2
    for stratum in np.unique(strata):
        mine = strata == stratum
        times, kept = _product_limit(days[mine], 1 - event[mine], w[..., mine], event[mine])
        then = _step(times, kept, grid)
        lost = lost + np.divide(w[..., mine] @ missed[mine], then, out=np.zeros(lost.shape), where=then > 0)
    return ratio(lost, w.sum(-1, keepdims=True))


def integrated(scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """`[...]`: mean of the scores `[..., grid]` over the time from the first to the last of `grid` (trapezoids)."""
    return np.trapezoid(scores, grid, axis=-1) / (grid[-1] - grid[0])


def net_benefit(
    days: np.ndarray,
    event: np.ndarray,
    probability: np.ndarray,
    when: float,
    thresholds: tuple[float, ...],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """`[..., thresholds]`: net benefit of acting on a predicted risk of death by `when` at or above each (Vickers 2008).

    Share acted on x (their risk - their survival x odds of the threshold), both by Kaplan-Meier among them.
    """
    w = np.ones(len(days)) if weights is None else weights
    found, before = np.zeros((*w.shape[:-1], len(thresholds))), None
    for i, threshold in enumerate(thresholds):
        treated = probability >= threshold
        if not treated.any():
            continue
        if before is None or (treated != before).any():
            alive = survival_at(days[treated], event[treated], np.array([when]), w[..., treated])[..., 0]
            share, before = w[..., treated].sum(-1) / w.sum(-1), treated
        found[..., i] = share * ((1 - alive) - alive * threshold / (1 - threshold))
    return found
