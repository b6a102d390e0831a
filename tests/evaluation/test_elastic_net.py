"""Elastic-net Cox against the optimality conditions, scikit-survival, and a plain minimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from neurorad.evaluation.cox import gradient, log_likelihood, risk_sets
from neurorad.evaluation.elastic_net import elastic_net_path, largest_penalty


def sample(seed: int, n: int = 100, d: int = 30, grid: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) + random.normal(size=(n, 3)) @ random.normal(size=(3, d))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    days = 400 * random.exponential(size=n) * np.exp(-0.7 * x[:, 0] - 0.4 * x[:, 3])
    days = np.ceil(days / grid) * grid if grid else days
    return x, days, (random.random(n) < 0.7).astype(float)


@pytest.mark.parametrize(("d", "l1_ratio"), [(30, 0.5), (30, 0.1), (400, 0.5)])
@pytest.mark.parametrize("strata", [1, 3])
def test_every_fit_of_the_path_is_optimal(d, l1_ratio, strata):
    """0 lies in the subdifferential: |slope| = l1 where a weight is not 0, and at most l1 where it is."""
    x, days, event = sample(0, d=d, grid=20.0)
    sets = risk_sets(days, event, np.arange(100) % strata)
    penalties = largest_penalty(sets, x, l1_ratio) * np.array([0.8, 0.5, 0.3])
    path = elastic_net_path(sets, x, penalties, l1_ratio)
    assert 0 < (path[0] != 0).sum() < (path[2] != 0).sum() < d
    for a, penalty in zip(path, penalties, strict=True):
        slope = gradient(sets, x @ a) @ x / 100 - penalty * (1 - l1_ratio) * a
        l1 = penalty * l1_ratio
        np.testing.assert_allclose(slope[a != 0], l1 * np.sign(a[a != 0]), atol=0.02 * l1)
        assert np.abs(slope[a == 0]).max() <= 1.001 * l1


def test_the_largest_penalty_is_the_first_that_leaves_nothing():
    x, days, event = sample(1)
    sets = risk_sets(days, event, np.zeros(100))
    top = largest_penalty(sets, x, 0.5)
    path = elastic_net_path(sets, x, np.array([1.001, 0.98]) * top, 0.5)
    assert (path[0] == 0).all() and (path[1] != 0).any()


def test_without_an_l1_part_it_is_the_ridge():
    x, days, event = sample(2, d=4)
    sets = risk_sets(days, event, np.zeros(100))
    best = minimize(lambda a: -log_likelihood(sets, x @ a) / 100 + 0.1 * a @ a, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(elastic_net_path(sets, x, np.array([0.2]), 1e-9, 1e-8)[0], best, atol=2e-4)


def test_the_gradient_is_the_likelihoods():
    x, days, event = sample(3, n=30, grid=60.0)
    sets = risk_sets(days, event, np.arange(30) % 2)
    log_risk = x[:, 0]
    steps = 1e-6 * np.eye(30)
    numeric = [(log_likelihood(sets, log_risk + s) - log_likelihood(sets, log_risk - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(gradient(sets, log_risk), numeric, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(100, 30), (120, 600)])
@pytest.mark.parametrize("l1_ratio", [0.1, 0.5])
def test_the_path_is_that_of_scikit_survival(n, d, l1_ratio):
    pytest.importorskip("sksurv", reason="scikit-survival is GPL: a reference only")
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    x, days, event = sample(4, n, d)
    sets = risk_sets(days, event, np.zeros(n))
    penalties = largest_penalty(sets, x, l1_ratio) * np.array([0.7, 0.4, 0.2])
    outcome = np.array(list(zip(event == 1, days, strict=True)), dtype=[("event", bool), ("days", float)])
    theirs = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=l1_ratio, tol=1e-10, max_iter=10**6).fit(x, outcome)
    ours = elastic_net_path(sets, x, penalties, l1_ratio, 1e-7)
    np.testing.assert_allclose(ours, theirs.coef_.T, atol=1e-3 * np.abs(theirs.coef_).max())
