"""Logistic regression under Group-DRO: the paper's "robust reweighting" applied to the probe instead of the encoder."""

import numpy as np

from neurorad.evaluation.linear import logistic

ROUNDS = 40
STEP = 2.0
"""Of the group weights, in nats a unit of loss. With these the worst group's loss is within 1 % of the optimum."""
FLOOR = 0.01
"""Share of the weight that is spread evenly: with one class alone the intercept would have no finite answer."""


def small_groups_joined(y: np.ndarray, sites: np.ndarray, least: int) -> np.ndarray:
    """Group of each row, class x site: as text; a class's sites with fewer than `least` rows of it are one group."""
    groups = np.array([f"{int(label)}/{site}" for label, site in zip(y, sites, strict=True)])
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    rare = counts[index] < least
    return np.where(rare, np.char.add(np.char.partition(groups, "/")[:, 0], "/rare sites"), groups)


def worst_group_loss(losses: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The largest of the groups' mean losses: `[m]` for losses `[m, n]`."""
    return np.max([losses[:, groups == name].mean(axis=1) for name in np.unique(groups)], axis=0)


def robust_logistic(
    z: np.ndarray, y: np.ndarray, groups: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise n max_g mean loss_g + |a|^2 / (2 C), the objective of Sagawa et al. 2020, for several C at once.

    It is the saddle point of sum_g q_g loss_g over group weights q. The weights climb by exponentiated gradient, the
    model answers each time with its exact minimum, and the average of the answers is returned, later ones weighing
    more: for a convex loss it converges to the optimum (Freund and Schapire 1999). No random number, no tuning.

    Args:
        z: `[n, k]`. y: `[n]` 0/1. groups: `[n]`. strengths: C, `[m]`.

    Returns:
        Coefficients `[m, k]`, intercepts `[m]`.
    """
    names, index = np.unique(groups, return_inverse=True)
    member = (index[None, :] == np.arange(len(names))[:, None]).astype(float)
    sizes = member.sum(axis=1)
    q = np.full((len(strengths), len(names)), 1 / len(names))
    coefficients, intercepts = np.zeros((len(strengths), z.shape[1])), np.zeros(len(strengths))
    answer = None
    for turn in range(1, ROUNDS + 1):
        spread = (1 - FLOOR) * q + FLOOR / len(names)
        answer = logistic(z, y, (spread / sizes) @ member * len(y), strengths, start=answer)
        share = 2 / (turn + 1)
        coefficients += share * (answer[0] - coefficients)
        intercepts += share * (answer[1] - intercepts)
        losses = np.logaddexp(0, (1 - 2 * y) * (answer[0] @ z.T + answer[1][:, None])) @ member.T / sizes
        q = q * np.exp(STEP * (losses - losses.max(axis=1, keepdims=True)))
        q /= q.sum(axis=1, keepdims=True)
    return coefficients, intercepts
