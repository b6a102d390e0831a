"""The Group-DRO probe against a general optimiser of the same objective."""

import numpy as np
import pytest
from scipy.optimize import minimize

from neurorad.evaluation.linear import balanced_weights, logistic
from neurorad.evaluation.robust import robust_logistic, small_groups_joined, worst_group_loss


def problem(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.4).astype(float)
    site = np.where(random.random(n) < 0.85, "big", "small")
    z = random.normal(size=(n, 3)) * 0.5
    z[:, 0] += np.where(site == "big", 0.6, -0.4) * (2 * y - 1)
    z[:, 1] += 0.3 * (2 * y - 1)
    return z, y, small_groups_joined(y, site, 5)


def objective(z, y, groups, strength, a, b) -> float:
    losses = np.logaddexp(0, (1 - 2 * y) * (z @ a + b))[None]
    return len(y) * float(worst_group_loss(losses, groups)[0]) + a @ a / (2 * strength)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_worst_group_does_as_well_as_the_optimum_of_a_general_solver(seed, strength):
    z, y, groups = problem(seed)
    names = np.unique(groups)
    means = [
        lambda v, g=g: v[-1] - np.logaddexp(0, (1 - 2 * y) * (z @ v[:3] + v[3]))[groups == g].mean() for g in names
    ]
    exact = minimize(
        lambda v: v[-1] + v[:3] @ v[:3] / (2 * strength * len(y)),
        np.r_[np.zeros(4), 1.0],
        constraints=[{"type": "ineq", "fun": f} for f in means],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    a, b = robust_logistic(z, y, groups, np.array([strength]))
    reached = objective(z, y, groups, strength, a[0], b[0])
    best = objective(z, y, groups, strength, exact.x[:3], exact.x[3])
    assert best * (1 - 1e-3) <= reached <= best * 1.01
    plain = logistic(z, y, balanced_weights(y), np.array([strength]))
    assert reached < objective(z, y, groups, strength, plain[0][0], plain[1][0])


def test_several_penalties_at_once_are_the_same_as_one_by_one():
    z, y, groups = problem(1)
    strengths = np.array([0.1, 1.0, 100.0])
    together = robust_logistic(z, y, groups, strengths)
    for i, strength in enumerate(strengths):
        alone = robust_logistic(z, y, groups, np.array([strength]))
        np.testing.assert_allclose(together[0][i], alone[0][0], rtol=1e-4, atol=1e-6)


def test_groups_too_small_to_be_trusted_are_joined_by_class():
    y = np.array([1.0] * 8 + [0.0] * 7)
    site = np.array(["a"] * 5 + ["b"] * 2 + ["c"] + ["a"] * 6 + ["b"])
    groups = small_groups_joined(y, site, 5)
    assert groups.tolist() == ["1/a"] * 5 + ["1/rare sites"] * 3 + ["0/a"] * 6 + ["0/rare sites"]
