"""Cox regression and the log-rank test against lifelines, statsmodels and a likelihood written out by hand."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test
from scipy.optimize import minimize
from statsmodels.duration.survfunc import survdiff

from neurorad.evaluation.cox import fit_cox, log_likelihood, log_rank_p, risk_sets

NONE = np.zeros(80)


def sample(seed: int, n: int = 80, k: int = 3, grid: float = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days (rounded to a grid: ties), event, standardised covariates `[n, k]`."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, k))
    x = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    days = np.ceil(400 * random.exponential(size=n) * np.exp(-x @ np.linspace(0.8, -0.3, k)) / grid) * grid
    return days, (random.random(n) < 0.7).astype(float), x


def lifelines(days, event, x, penalizer=0.0, strata=None) -> CoxPHFitter:
    table = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]).assign(days=days, event=event)
    if strata is not None:
        table["stratum"] = strata
    names = None if strata is None else ["stratum"]
    fitter = CoxPHFitter(penalizer=penalizer)
    fitter.fit(table, "days", "event", strata=names, fit_options={"precision": 1e-10})
    return fitter


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stratified", [False, True])
def test_coefficients_errors_and_likelihood_are_those_of_lifelines_with_ties(seed, stratified):
    days, event, x = sample(seed)
    strata = np.arange(80) % 3 if stratified else None
    theirs = lifelines(days, event, x, strata=strata)
    sets = risk_sets(days, event, NONE if strata is None else strata)
    ours = fit_cox(sets, x)
    assert ours.converged
    np.testing.assert_allclose(ours.coefficients, theirs.params_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), theirs.standard_errors_, rtol=1e-4)
    assert log_likelihood(sets, x @ ours.coefficients) == pytest.approx(theirs.log_likelihood_, rel=1e-8)


@pytest.mark.parametrize("penalizer", [0.01, 0.3])
def test_a_ridge_penalty_is_that_of_lifelines_times_the_patients(penalizer):
    days, event, x = sample(5)
    theirs = lifelines(days, event, x, penalizer=penalizer)
    ours = fit_cox(risk_sets(days, event, NONE), x, penalty=penalizer * len(days))
    np.testing.assert_allclose(ours.coefficients, theirs.params_, rtol=1e-4, atol=1e-6)


def test_efrons_likelihood_of_two_tied_deaths_written_out():
    days, event = np.array([3.0, 3.0, 5.0]), np.array([1.0, 1.0, 0.0])
    a, b, c = np.exp([0.2, -0.5, 1.0])
    expected = np.log(a * b / ((a + b + c) * ((a + b) / 2 + c)))
    assert log_likelihood(risk_sets(days, event, np.zeros(3)), np.log([a, b, c])) == pytest.approx(expected)


def test_the_fit_maximises_the_penalised_likelihood():
    days, event, x = sample(6)
    sets = risk_sets(days, event, NONE)
    best = minimize(lambda a: -log_likelihood(sets, x @ a) + 2.0 * a @ a, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(fit_cox(sets, x, penalty=4.0).coefficients, best, atol=1e-5)


def test_a_stratum_never_compares_patients_of_different_strata():
    days, event, x = sample(7)
    strata = np.arange(80) % 2
    shifted = days + 10_000 * strata
    first, second = (fit_cox(risk_sets(t, event, strata), x) for t in (days, shifted))
    np.testing.assert_allclose(first.coefficients, second.coefficients)
    assert not np.allclose(fit_cox(risk_sets(shifted, event, NONE), x).coefficients, first.coefficients, atol=1e-3)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("n", [20, 60])
def test_a_covariate_that_orders_all_deaths_has_no_finite_hazard_ratio(n, scale):
    days = np.arange(1.0, n + 1)
    sets = risk_sets(days, np.ones(n), np.zeros(n))
    assert not fit_cox(sets, -scale * days[:, None]).converged
    penalised = fit_cox(sets, -days[:, None] / days.std(), penalty=1.0)
    assert penalised.converged and penalised.coefficients[0] > 0


def test_no_covariate_gives_an_empty_fit():
    fit = fit_cox(risk_sets(np.arange(1.0, 6), np.ones(5), np.zeros(5)), np.zeros((5, 0)))
    assert fit.coefficients.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_the_log_rank_test_is_that_of_lifelines_with_ties(seed):
    days, event, x = sample(seed, grid=60)
    group = x[:, 1] > 0.2
    theirs = logrank_test(days[group], days[~group], event[group], event[~group]).p_value
    assert log_rank_p(days, event, group, NONE) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_stratified_log_rank_test_is_that_of_statsmodels(seed):
    days, event, x = sample(seed, grid=60)
    group, strata = x[:, 1] > 0.2, np.arange(80) % 3
    _, theirs = survdiff(days, event, group.astype(int), strata=strata)
    assert log_rank_p(days, event, group, strata) == pytest.approx(theirs, rel=1e-9)


def test_one_group_alone_has_no_p():
    days, event, _ = sample(0)
    assert np.isnan(log_rank_p(days, event, np.ones(80, dtype=bool), NONE))
