"""Is there anything linear to find at all: labels permuted within site, against one closed-form probe."""

import numpy as np
from scipy.stats import rankdata

from neurorad.evaluation.classifier import components
from neurorad.evaluation.folds import TRAINED_ONLY
from neurorad.evaluation.linear import project

PENALTY = 1.0
"""Ridge penalty of the closed-form probe, on scores with a total variance of at most 1; fixed, as nothing may be chosen."""


def held_out_map(x: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """`[n, n]` matrix that turns labels into out-of-fold scores of a ridge regression on PCA scores; rows of patients who
    are never tested are 0. It depends on no label, so that every permutation costs one product."""
    found = np.zeros((len(x), len(x)))
    for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
        test = fold_of == fold
        projection = project(x[~test], components(int((~test).sum())))
        z = projection(x[~test])
        gram = z.T @ z + PENALTY * np.eye(z.shape[1])
        found[np.ix_(test, ~test)] = projection(x[test]) @ np.linalg.solve(gram, z.T)
    return found


def permuted(y: np.ndarray, blocks: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`[count, n]` labels shuffled within each block."""
    shuffled = np.repeat(y[None, :], count, axis=0)
    for block in np.unique(blocks):
        mine = np.flatnonzero(blocks == block)
        shuffled[:, mine] = random.permuted(shuffled[:, mine], axis=1)
    return shuffled


def permutation_test(
    x: np.ndarray, y: np.ndarray, fold_of: np.ndarray, sites: np.ndarray, count: int, random: np.random.Generator
) -> tuple[float, float, tuple[float, float]]:
    """AUC of the closed-form probe, its p against labels permuted within site, and the middle 95 % of the permuted AUCs.

    Folds are stratified by label; as labels move only within a site and a fold, every permutation has the same folds and
    the same positives in each, and p = (1 + #{permuted >= found}) / (1 + count) is exact (Phipson and Smyth 2010).
    One-sided: an AUC below one half is no finding.

    Args:
        x: `[n, d]`. y: `[n]` 0/1. fold_of: `[n]` of one repeat. sites: `[n]`.
    """
    blocks = np.char.add(np.char.add(sites.astype(str), "/"), fold_of.astype(str))
    labels = np.concatenate([y[None, :], permuted(y, blocks, count, random)])
    tested = fold_of != TRAINED_ONLY
    # The column mean of the training labels is not taken off: z is centred, so a constant adds nothing.
    scores = held_out_map(x, fold_of)[tested] @ labels.T
    truth = labels[:, tested].T
    ranks = rankdata(np.round(scores, 12), axis=0)
    n1 = truth.sum(axis=0)
    areas = ((ranks * truth).sum(axis=0) - n1 * (n1 + 1) / 2) / (n1 * (len(truth) - n1))
    low, high = np.quantile(areas[1:], [0.025, 0.975])
    p = (1 + (areas[1:] >= areas[0] - 1e-12).sum()) / (1 + count)
    return float(areas[0]), float(p), (float(low), float(high))
