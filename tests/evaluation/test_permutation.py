"""The tests by permutation and randomisation against explicit refits, and their size and power."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.special import expit
from scipy.stats import binom
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from neurorad.evaluation.folds import deal
from neurorad.evaluation.permutation import (
    PENALTY,
    added_value_test,
    held_out_map,
    permutation_test,
    permuted,
    prognosis_test,
)


def study(seed: int, effect: float, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Prevalence and features differ between two sites; only `effect` ties the label to the image."""
    random = np.random.default_rng(seed)
    site = np.repeat(["a", "b"], n // 2)
    y = (random.random(n) < np.where(site == "a", 0.7, 0.3)).astype(float)
    x = random.normal(size=(n, 5)) + 3.0 * (site == "a")[:, None] * np.array([1, 0, 0, 0, 0])
    x[:, 1] += effect * y
    strata = np.char.add(y.astype(str), site)
    return x, y, deal(strata, 5, random), site


def test_scores_are_those_of_ridge_regressions_fitted_without_the_fold():
    x, y, fold_of, _ = study(0, 1.0)
    scores = held_out_map(x, fold_of) @ y
    for fold in range(5):
        test = fold_of == fold
        mean, sd = x[~test].mean(0), x[~test].std(0)
        z = (x - mean) / sd / np.sqrt(5)
        model = Ridge(alpha=PENALTY).fit(z[~test], y[~test])
        expected = model.predict(z[test]) - y[~test].mean()
        np.testing.assert_allclose(scores[test], expected, atol=1e-9)


def test_labels_move_within_blocks_only():
    blocks = np.array(["a", "a", "b", "b", "b"])
    shuffled = permuted(np.array([1.0, 0, 1, 1, 0]), blocks, 200, np.random.default_rng(0))
    assert (shuffled[:, :2].sum(1) == 1).all() and (shuffled[:, 2:].sum(1) == 2).all()
    assert 0.35 < shuffled[:, 0].mean() < 0.65


def test_sites_of_different_prevalence_are_no_finding_and_a_planted_effect_is():
    found = {effect: [] for effect in (0.0, 1.5)}
    for effect, p_values in found.items():
        for seed in range(60):
            x, y, fold_of, site = study(seed, effect)
            area, p, (low, high) = permutation_test(x, y, fold_of, site, 200, np.random.default_rng(seed))
            scores = held_out_map(x, fold_of) @ y
            assert abs(area - roc_auc_score(y, scores)) < 1e-9 and low < high
            p_values.append(p)
    assert np.mean(np.array(found[0.0]) < 0.05) <= 0.12
    assert 0.3 < np.mean(found[0.0]) < 0.7
    assert np.mean(np.array(found[1.5]) < 0.05) > 0.8


def aged(seed: int, n: int = 80, effect: float = 0.0) -> tuple[np.ndarray, ...]:
    """Two sites; age tells the label well, the image tells age; `effect` ties the image to what age leaves of the label."""
    random = np.random.default_rng(seed)
    site, age = np.repeat(["a", "b"], n // 2), random.normal(size=n)
    y = (random.random(n) < expit(2 * age + np.where(site == "a", 0.5, -0.5))).astype(float)
    x = random.normal(size=(n, 6)) + 1.5 * age[:, None] * np.array([1, 1, 0, 0, 0, 0])
    x[:, 5] += effect * (y - expit(2 * age))
    known = np.column_stack([60 + 10 * age, random.random(n) < 0.5])
    return x, y, known, deal(np.char.add(y.astype(str), site), 5, random), site


def test_an_image_that_knows_age_alone_adds_nothing_to_age_and_one_that_knows_more_does():
    found = {effect: [] for effect in (0.0, 3.0)}
    for effect, p_values in found.items():
        for seed in range(80):
            value, p = added_value_test(*aged(seed, effect=effect), 200, np.random.default_rng(seed))
            assert -1 <= value <= 1
            p_values.append(p)
    # 80 draws at 5 %: more than 11 rejections happen once in 1,000 such tests.
    assert np.sum(np.array(found[0.0]) < 0.05) <= binom.ppf(0.999, 80, 0.05)
    assert 0.3 < np.mean(found[0.0]) < 0.7
    assert np.mean(np.array(found[3.0]) < 0.05) > 0.8


def test_what_is_left_of_a_label_is_that_of_a_logistic_regression_on_age_sex_and_site():
    x, y, known, fold_of, site = aged(3, effect=3.0)
    value, _ = added_value_test(x, y, known, fold_of, site, 20, np.random.default_rng(0))
    design = np.column_stack([known, site == "b"]).astype(float)
    z = (design - design.mean(0)) / design.std(0)
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(z, y)
    left = y - model.predict_proba(z)[:, 1]
    z = np.column_stack([np.ones(len(y)), z])
    told = np.zeros(len(y))
    for fold in range(5):
        test = fold_of == fold
        seen = LinearRegression(fit_intercept=False).fit(z[~test], x[~test])
        rest = x - seen.predict(z)
        rest = (rest - rest[~test].mean(0)) / rest[~test].std(0) / np.sqrt(6)
        told[test] = Ridge(alpha=PENALTY).fit(rest[~test], left[~test]).predict(rest[test]) - left[~test].mean()
    assert value == pytest.approx(np.corrcoef(left, told)[0, 1], abs=0.01)


def times(seed: int, strength: float, n: int = 70) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    site, hazard = np.repeat(["a", "b"], n // 2), random.normal(size=n)
    died = 500 * random.exponential(size=n) * np.exp(-strength * hazard) * np.where(site == "a", 1, 3)
    left = random.uniform(200, 2000, n)
    x = random.normal(size=(n, 5)) + hazard[:, None]
    event = (died <= left).astype(float)
    return x, np.minimum(died, left), event, deal(np.char.add(event.astype(str), site), 5, random), site


def test_a_prognosis_is_found_where_it_is_and_no_more_often_than_allowed_where_it_is_not():
    p = {
        strength: [prognosis_test(*times(seed, strength), 200, np.random.default_rng(seed))[1] for seed in range(80)]
        for strength in (0.0, 1.0)
    }
    assert np.sum(np.array(p[0.0]) < 0.05) <= binom.ppf(0.999, 80, 0.05)
    assert 0.3 < np.mean(p[0.0]) < 0.7
    assert np.mean(np.array(p[1.0]) < 0.05) > 0.8


def test_martingale_residuals_are_those_of_a_cox_model_without_an_effect():
    x, days, event, fold_of, site = times(0, 1.0)
    value, _ = prognosis_test(x, days, event, fold_of, site, 20, np.random.default_rng(0))
    table = pd.DataFrame(
        {"days": days, "event": event, "site": site, "nothing": np.random.default_rng(1).normal(size=70)}
    )
    fit = CoxPHFitter(penalizer=1e6).fit(table, "days", "event", strata=["site"])
    residual = fit.compute_residuals(table, "martingale")["martingale"].sort_index().to_numpy()
    told = held_out_map(x, fold_of) @ residual
    assert value == pytest.approx(np.corrcoef(residual, told)[0, 1], abs=1e-3)
