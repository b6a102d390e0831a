"""Logistic regression under Group-DRO: the paper's "robust reweighting" applied to the probe instead of the encoder."""

import numpy as np

from neurorad.evaluation.linear import logistic

ROUNDS = 40
"""Rounds of the game; the averaged model's worst-group loss is within about STEP / 8 + log(groups) / (STEP x ROUNDS)
(loss units) of the optimum (Hoeffding), and much nearer in practice."""
STEP = 0.5


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
    model answers each time with its exact minimum, and the average of the answers is returned: for a convex loss it
    converges to the optimum (Freund and Schapire 1999). No step size of the model, no random number.

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
    for turn in range(ROUNDS):
        answer = logistic(z, y, (q / sizes) @ member * len(y), strengths, start=answer)
        coefficients += (answer[0] - coefficients) / (turn + 1)
        intercepts += (answer[1] - intercepts) / (turn + 1)
        losses = np.logaddexp(0, (1 - 2 * y) * (answer[0] @ z.T + answer[1][:, None])) @ member.T / sizes
        q = q * np.exp(STEP * losses)
        q /= q.sum(axis=1, keepdims=True)
    return coefficients, intercepts
