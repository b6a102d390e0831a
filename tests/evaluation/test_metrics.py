"""Metrics against scikit-learn, SciPy, lifelines and statsmodels, and DeLong against placement loops and simulation."""

import numpy as np
import pytest
from lifelines.utils import concordance_index
from scipy.stats import norm, spearmanr, t, ttest_1samp
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    recall_score,
    roc_auc_score,
)
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from neurorad.evaluation import metrics


def sample(seed: int, n: int = 60, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Truth and an informative score; rounded to that many levels it has ties."""
    random = np.random.default_rng(seed)
    truth = (random.random(n) < 0.4).astype(float)
    score = truth + random.normal(0, 1.2, n)
    return truth, score if levels is None else np.round(score * levels) / levels


def follow_up(seed: int, n: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days (with ties), event and a risk with ties."""
    random = np.random.default_rng(seed)
    risk = np.round(random.normal(size=n), 1)
    days = np.ceil(20 * random.exponential(size=n) * np.exp(-risk))
    return days, (random.random(n) < 0.6).astype(float), risk


def kernel(a: float, b: float) -> float:
    return 1.0 if a > b else 0.5 if a == b else 0.0


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[list[float], list[float]]:
    """DeLong's structural components, one patient at a time."""
    positives, negatives = score[truth == 1], score[truth == 0]
    v10 = [sum(kernel(p, q) for q in negatives) / len(negatives) for p in positives]
    v01 = [sum(kernel(p, q) for p in positives) / len(positives) for q in negatives]
    return v10, v01


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 2])
def test_classification_metrics_are_those_of_scikit_learn(seed, levels):
    truth, score = sample(seed, levels=levels)
    weights = np.random.default_rng(seed).integers(0, 4, len(truth)).astype(float)
    probability, called = norm.cdf(score), score >= 0.3
    for w in (None, weights):
        given = {"sample_weight": w}
        pairs = [
            (metrics.auc(truth, score, w), roc_auc_score(truth, score, **given)),
            (metrics.average_precision(truth, score, w), average_precision_score(truth, score, **given)),
            (metrics.brier(truth, probability, w), brier_score_loss(truth, probability, **given)),
            (metrics.balanced_accuracy(truth, called, w), balanced_accuracy_score(truth, called, **given)),
            (metrics.sensitivity(truth, called, w), recall_score(truth, called, **given)),
            (metrics.specificity(truth, called, w), recall_score(truth, called, pos_label=0, **given)),
        ]
        for ours, theirs in pairs:
            assert float(ours) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_that_of_scipy(seed):
    truth, score = sample(seed, levels=1)
    assert float(metrics.spearman(score, truth + score)) == pytest.approx(spearmanr(score, truth + score).statistic)


def test_mean_absolute_error_of_a_hand_made_sample():
    truth, predicted = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.0])
    assert float(metrics.mean_absolute_error(truth, predicted)) == pytest.approx(4 / 3)
    assert float(metrics.mean_absolute_error(truth, predicted, np.array([3.0, 1.0, 0.0]))) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    "metric",
    [metrics.auc, metrics.average_precision, metrics.brier, metrics.spearman, metrics.mean_absolute_error],
)
def test_a_count_of_draws_is_the_same_as_repeating_the_patient(metric):
    truth, score = sample(1, levels=2)
    counts = metrics.bootstrap_counts(len(truth), 20, np.random.default_rng(0))
    expected = [float(metric(np.repeat(truth, row.astype(int)), np.repeat(score, row.astype(int)))) for row in counts]
    np.testing.assert_allclose(metric(truth, score, counts), expected, atol=1e-12)


def test_a_draw_without_a_positive_is_undefined_and_left_out_of_the_interval():
    truth, score = np.array([1.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.5])
    counts = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    assert np.isnan(metrics.auc(truth, score, counts)[0])
    estimate = metrics.bootstrapped(metrics.auc, truth, score, counts=counts)
    assert (estimate.ci_low, estimate.ci_high) == (1.0, 1.0)
    nothing = metrics.bootstrapped(metrics.auc, truth, score, counts=counts[:1])
    assert np.isnan(nothing.ci_low) and nothing.value == 1.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 1, 3])
def test_delong_variance_is_that_of_the_placement_loops(seed, levels):
    truth, score = sample(seed, levels=levels)
    v10, v01 = placements(truth, score)
    expected = np.var(v10, ddof=1) / len(v10) + np.var(v01, ddof=1) / len(v01)
    assert metrics.delong_variance(truth, score) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_paired_delong_is_that_of_the_covariance_of_the_placement_loops(seed):
    truth, score = sample(seed, levels=2)
    against = score + np.random.default_rng(seed + 100).normal(0, 1, len(truth))
    a10, a01 = placements(truth, score)
    b10, b01 = placements(truth, against)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    contrast = np.array([1, -1])
    variance = contrast @ s10 @ contrast / len(a10) + contrast @ s01 @ contrast / len(a01)
    difference = roc_auc_score(truth, score) - roc_auc_score(truth, against)
    estimate = metrics.paired_delong(truth, score, against)
    assert estimate.value == pytest.approx(difference, abs=1e-12)
    assert estimate.p == pytest.approx(2 * norm.sf(abs(difference) / np.sqrt(variance)), rel=1e-9)
    assert estimate.ci_high - estimate.ci_low == pytest.approx(2 * norm.ppf(0.975) * np.sqrt(variance), rel=1e-9)
    swapped = metrics.paired_delong(truth, against, score)
    assert (swapped.value, swapped.ci_low) == (pytest.approx(-estimate.value), pytest.approx(-estimate.ci_high))


def test_delong_variance_is_near_the_jackknife():
    truth, score = sample(3, n=150)
    left_out = np.array([float(metrics.auc(np.delete(truth, i), np.delete(score, i))) for i in range(150)])
    positive = truth == 1
    n1, n0 = positive.sum(), (~positive).sum()
    jackknife = (n1 - 1) / n1 * ((left_out[positive] - left_out[positive].mean()) ** 2).sum()
    jackknife += (n0 - 1) / n0 * ((left_out[~positive] - left_out[~positive].mean()) ** 2).sum()
    assert metrics.delong_variance(truth, score) == pytest.approx(jackknife, rel=1e-6)


def test_the_delong_interval_holds_the_true_auc_about_95_times_in_a_hundred():
    random = np.random.default_rng(0)
    truth = np.repeat([1.0, 0.0], [15, 35])
    true = norm.cdf(1.2 / np.sqrt(2))
    held = []
    for _ in range(1500):
        e = metrics.auc_delong(truth, random.normal(1.2 * truth, 1))
        held.append(e.ci_low <= true <= e.ci_high)
        assert np.isnan(e.ci_low) or 0 < e.ci_low < e.value < e.ci_high < 1
    assert 0.925 <= np.mean(held) <= 0.975


def test_paired_delong_rejects_equal_scores_about_5_times_in_a_hundred():
    random = np.random.default_rng(1)
    truth = np.repeat([1.0, 0.0], [25, 45])
    p = []
    for _ in range(1500):
        shared = random.normal(truth, 1)
        p.append(metrics.paired_delong(truth, *(shared + random.normal(0, 1, (2, 70)))).p)
    assert 0.035 <= np.mean(np.array(p) < 0.05) <= 0.075
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.06)


def test_scores_that_rank_alike_differ_by_exactly_nothing():
    truth, score = sample(0)
    e = metrics.paired_delong(truth, score, np.exp(score))
    assert (e.value, e.ci_low, e.ci_high, e.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(("score", "value"), [([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], 0.0), ([5, 5, 5, 5], 0.5)])
def test_perfect_and_constant_scores_have_no_interval(score, value):
    e = metrics.auc_delong(np.array([0.0, 0.0, 1.0, 1.0]), np.array(score, dtype=float))
    assert e.value == value
    assert np.isnan(e.ci_low) and np.isnan(e.ci_high)


def test_a_balanced_accuracy_that_no_roc_curve_allows_is_refused():
    truth, score = np.array([1.0, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9])
    with pytest.raises(ArithmeticError, match=r"AUC 0\.0000 < 2 x balanced accuracy 1\.0000 - 1"):
        metrics.check_threshold(truth, score, truth == 1)


def test_no_cut_of_a_score_is_ever_refused():
    tightest = np.inf
    for seed in range(60):
        truth, score = sample(seed, n=12, levels=1)
        truth[:2] = 0, 1
        for cut in np.unique(score):
            metrics.check_threshold(truth, score, score >= cut)
            accuracy = balanced_accuracy_score(truth, score >= cut)
            tightest = min(tightest, roc_auc_score(truth, score) - (2 * accuracy - 1))
    assert tightest >= -1e-12


@pytest.mark.parametrize("seed", range(6))
def test_harrells_c_is_that_of_lifelines_with_ties_in_time_and_risk(seed):
    days, event, risk = follow_up(seed)
    assert len(np.unique(days)) < len(days) and len(np.unique(risk)) < len(risk)
    found = float(metrics.harrell_c(metrics.comparable(days, event), risk))
    assert found == pytest.approx(concordance_index(days, -risk, event), abs=1e-12)


def test_a_stratified_c_pools_the_pairs_within_strata():
    days, event, risk = follow_up(9)
    strata = np.arange(50) % 3
    concordant = pairs = 0.0
    for i in range(50):
        for j in range(50):
            first = days[i] < days[j] or (days[i] == days[j] and not event[j])
            if event[i] and first and strata[i] == strata[j]:
                pairs += 1
                concordant += kernel(risk[i], risk[j])
    found = metrics.harrell_c(metrics.comparable(days, event, strata), risk)
    assert float(found) == pytest.approx(concordant / pairs)


def test_a_weighted_c_repeats_the_patients():
    days, event, risk = follow_up(2)
    counts = metrics.bootstrap_counts(50, 10, np.random.default_rng(3))
    found = metrics.harrell_c(metrics.comparable(days, event), risk, counts)
    for value, row in zip(found, counts.astype(int), strict=True):
        expected = concordance_index(np.repeat(days, row), -np.repeat(risk, row), np.repeat(event, row))
        assert value == pytest.approx(expected, abs=1e-12)


def test_without_a_death_there_is_no_pair_and_no_c():
    pairs = metrics.comparable(np.arange(5.0), np.zeros(5))
    assert not pairs.any()
    assert np.isnan(metrics.harrell_c(pairs, np.arange(5.0)))


def test_a_bootstrap_draws_as_many_patients_as_there_are():
    counts = metrics.bootstrap_counts(30, 2000, np.random.default_rng(0))
    assert counts.shape == (2000, 30) and (counts.sum(axis=1) == 30).all()
    assert counts.var() == pytest.approx(1 - 1 / 30, abs=0.03)


def test_a_bootstrap_interval_of_a_mean_is_the_normal_one():
    random = np.random.default_rng(0)
    truth, predicted = np.zeros(200), random.exponential(size=200)
    counts = metrics.bootstrap_counts(200, 4000, random)
    e = metrics.bootstrapped(metrics.mean_absolute_error, truth, predicted, counts=counts)
    half = norm.ppf(0.975) * predicted.std() / np.sqrt(200)
    assert e.value == pytest.approx(predicted.mean())
    assert (e.ci_low, e.ci_high) == (
        pytest.approx(e.value - half, abs=0.1 * half),
        pytest.approx(e.value + half, abs=0.1 * half),
    )


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_that_of_statsmodels_and_ignores_missing_tests(seed):
    random = np.random.default_rng(seed)
    p = np.round(random.random(12) ** 3, 3)
    np.testing.assert_allclose(metrics.holm(p), multipletests(p, method="holm")[1])
    gaps = np.insert(p, [0, 5, 12], np.nan)
    found = metrics.holm(gaps)
    assert np.isnan(found[np.isnan(gaps)]).all()
    np.testing.assert_allclose(found[np.isfinite(gaps)], multipletests(p, method="holm")[1])


@pytest.mark.parametrize("seed", range(3))
def test_benjamini_hochberg_is_that_of_statsmodels_and_ignores_missing_tests(seed):
    p = np.round(np.random.default_rng(seed).random(12) ** 3, 3)
    np.testing.assert_allclose(metrics.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])
    found = metrics.benjamini_hochberg(np.insert(p, [0, 7], np.nan))
    np.testing.assert_allclose(found[np.isfinite(found)], multipletests(p, method="fdr_bh")[1])


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (7, 12), (12, 12), (190, 200)])
def test_wilsons_interval_is_that_of_statsmodels(hits, n):
    assert metrics.wilson(hits, n) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)


def test_the_corrected_t_is_its_formula_and_wider_than_the_naive_one():
    differences = np.random.default_rng(0).normal(0.05, 0.1, 15)
    e = metrics.corrected_t(differences, 1 / 4)
    error = np.sqrt((1 / 15 + 1 / 4) * differences.var(ddof=1))
    assert e.p == pytest.approx(2 * t.sf(abs(differences.mean()) / error, 14))
    assert e.ci_high - e.ci_low == pytest.approx(2 * t.ppf(0.975, 14) * error)
    assert e.p > ttest_1samp(differences, 0).pvalue
    assert metrics.corrected_t(differences, 0).p == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert metrics.corrected_t(np.zeros(5), 0.25).p == 1
    assert np.isnan(metrics.corrected_t(np.array([0.1]), 0.25).p)


def test_an_auc_within_strata_ignores_what_lies_between_them():
    truth, score = sample(4, n=80)
    strata = np.arange(80) % 2
    shifted = score + 100 * strata * truth.mean()
    same = metrics.auc_same_stratum(truth, shifted, strata)
    assert float(same) == pytest.approx(float(metrics.auc_same_stratum(truth, score, strata)))
    assert float(metrics.auc_same_stratum(truth, score, np.zeros(80))) == pytest.approx(roc_auc_score(truth, score))
    assert np.isnan(float(metrics.auc_same_stratum(truth, score, truth)))
    counts = metrics.bootstrap_counts(80, 6, np.random.default_rng(0))
    for value, row in zip(metrics.auc_same_stratum(truth, score, strata, counts), counts.astype(int), strict=True):
        repeated = [np.repeat(a, row) for a in (truth, score, strata)]
        assert value == pytest.approx(float(metrics.auc_same_stratum(*repeated)))


def test_a_roc_curve_bounds_the_auc_from_above_as_well():
    truth, score = np.array([1.0, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1])
    with pytest.raises(ArithmeticError, match="does not go with sensitivity 0.5000 and specificity 0.5000"):
        metrics.check_threshold(truth, score, np.array([True, False, True, False]))
