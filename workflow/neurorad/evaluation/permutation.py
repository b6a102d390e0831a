"""Is there anything linear to find at all: tests that draw what is to be predicted again, against one closed-form probe.

Nothing is tuned, so the whole cross-validation is a matrix that is made once: these are the tests whose size is the
nominal one although every model was trained on patients of the same study.
"""

import numpy as np
from lifelines import NelsonAalenFitter
from scipy.special import expit
from scipy.stats import rankdata

from neurorad.evaluation.classifier import components
from neurorad.evaluation.folds import TRAINED_ONLY
from neurorad.evaluation.linear import logistic, project

PENALTY = 1.0
"""Ridge penalty of the closed-form probe, on scores with a total variance of at most 1; fixed, as nothing may be chosen."""

NULL_STRENGTH = 1000.0
"""Inverse penalty C of the model of a label by age, sex and site: only where it would separate the classes does it matter."""


def held_out_map(x: np.ndarray, fold_of: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
    """`[n, n]` matrix that turns labels into out-of-fold scores of a ridge regression on PCA scores; rows of patients who
    are never tested are 0. It depends on no label, so that every permutation costs one product.

    Args:
        covariates: `[n, k]` with a constant: the features lose what a regression on them, in the training folds, explains.
    """
    found, raw = np.zeros((len(x), len(x))), x
    for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
        test = fold_of == fold
        if covariates is not None:
            x = raw - covariates @ np.linalg.lstsq(covariates[~test], raw[~test], rcond=None)[0]
        projection = project(x[~test], components(int((~test).sum())))
        z = projection(x[~test])
        gram = z.T @ z + PENALTY * np.eye(z.shape[1])
        found[np.ix_(test, ~test)] = projection(x[test]) @ np.linalg.solve(gram, z.T)
    return found


def held_out_correlation(residuals: np.ndarray, held_out: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """`[draws]`: correlation, over the tested patients, of residuals `[draws, n]` with their own held-out prediction.

    Rounded, so that draws that tie with what was observed are counted as ties. 0 where either is constant.
    """
    truth, told = residuals[:, tested], (residuals @ held_out.T)[:, tested]
    truth, told = (values - values.mean(axis=1, keepdims=True) for values in (truth, told))
    length = np.sqrt((truth**2).sum(axis=1) * (told**2).sum(axis=1))
    return np.round(np.divide((truth * told).sum(axis=1), length, out=np.zeros(len(truth)), where=length > 1e-12), 10)


def _one_sided(found: np.ndarray) -> tuple[float, float]:
    """The first number, and its p among the others (Phipson and Smyth 2010)."""
    return float(found[0]), float((1 + (found[1:] >= found[0]).sum()) / len(found))


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
    labels = np.concatenate([y[None, :], permuted(y, _blocks(sites, fold_of), count, random)])
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


def added_value_test(
    x: np.ndarray,
    y: np.ndarray,
    known: np.ndarray,
    fold_of: np.ndarray,
    sites: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> tuple[float, float]:
    """Does the image say anything about a label that age, sex and site do not: partial correlation out of fold, and its p.

    A logistic model of the label on age, sex and site is fitted to everybody; the image never enters it. Labels are drawn
    again from it `count` times (conditional randomisation, Candes et al. 2018, with the model of the label given the
    covariates in the place of their distribution), and its coefficients follow each draw by one Newton step. What is left
    of a label is predicted, in folds, by ridge regression on what is left of the features after age, sex and site.
    One-sided. It holds as far as the logit is linear in age within a site.

    Args:
        x: `[n, d]`. y: `[n]` 0/1. known: `[n, k]` age and sex, finite. fold_of: `[n]` of one repeat. sites: `[n]`.
    """
    names = np.unique(sites)
    design = np.column_stack([known, *(sites == name for name in names[1:])]).astype(float)
    projection = project(design)
    z = projection(design)
    coefficients, intercepts = logistic(z, y, np.ones(len(y)), np.array([NULL_STRENGTH]))
    p = expit(z @ coefficients[0] + intercepts[0])
    z = np.column_stack([np.ones(len(y)), z])
    weighted = z * (p * (1 - p))[:, None]
    step = np.linalg.pinv(z.T @ weighted) @ z.T
    drawn = np.concatenate([y[None, :], (random.random((count, len(y))) < p).astype(float)]) - p
    residuals = drawn - (drawn @ step.T) @ weighted.T
    tested = fold_of != TRAINED_ONLY
    return _one_sided(held_out_correlation(residuals, held_out_map(x, fold_of, z), tested))


def prognosis_test(
    x: np.ndarray,
    days: np.ndarray,
    event: np.ndarray,
    fold_of: np.ndarray,
    sites: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> tuple[float, float]:
    """Does the image say anything about survival: correlation, out of fold, with the martingale residual, and its p.

    The residual of a patient is the event minus the Nelson-Aalen hazard of the site up to the patient's time: what a Cox
    model without covariates leaves (Therneau, Grambsch and Fleming 1990). Residuals are permuted within site and fold,
    which is exact where time and censoring know nothing of the image. One-sided.

    Args:
        x: `[n, d]`. days, event: `[n]`. fold_of: `[n]` of one repeat. sites: `[n]`.
    """
    residual = np.zeros(len(days))
    for name in np.unique(sites):
        mine = sites == name
        hazard = NelsonAalenFitter(nelson_aalen_smoothing=False).fit(days[mine], event[mine])
        residual[mine] = event[mine] - hazard.cumulative_hazard_at_times(days[mine]).to_numpy()
    drawn = np.concatenate([residual[None, :], permuted(residual, _blocks(sites, fold_of), count, random)])
    return _one_sided(held_out_correlation(drawn, held_out_map(x, fold_of), fold_of != TRAINED_ONLY))


def _blocks(sites: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    return np.char.add(np.char.add(sites.astype(str), "/"), fold_of.astype(str))
