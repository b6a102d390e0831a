"""Calibration against statsmodels, net benefit against its definition, both under bootstrap weights."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit

from neurorad.evaluation.calibration import calibration_curve, calibration_intercept, calibration_slope, net_benefit
from neurorad.evaluation.metrics import bootstrap_counts


def sample(seed: int, n: int = 80, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and a probability whose logit is off by a factor and a shift."""
    random = np.random.default_rng(seed)
    x = random.normal(-0.5, 1.2, n)
    return (random.random(n) < expit(x)).astype(float), expit((x - shift) / slope)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_slope_and_intercept_are_those_of_statsmodels(seed, weighted):
    truth, p = sample(seed, slope=0.5 + seed)
    w = np.random.default_rng(seed).integers(0, 4, 80).astype(float) if weighted else np.ones(80)
    family = sm.families.Binomial()
    slope = sm.GLM(truth, sm.add_constant(logit(p)), family=family, freq_weights=w).fit().params[1]
    intercept = sm.GLM(truth, np.ones(80), family=family, offset=logit(p), freq_weights=w).fit().params[0]
    assert float(calibration_slope(truth, p, w)) == pytest.approx(slope, rel=1e-5)
    assert float(calibration_intercept(truth, p, w)) == pytest.approx(intercept, rel=1e-5, abs=1e-8)


def test_a_planted_slope_and_shift_are_found():
    truth, p = sample(0, n=60000, slope=0.5)
    assert float(calibration_slope(truth, p)) == pytest.approx(0.5, abs=0.03)
    truth, p = sample(1, n=60000, shift=-0.7)
    assert float(calibration_intercept(truth, p)) == pytest.approx(-0.7, abs=0.04)
    assert float(calibration_slope(truth, p)) == pytest.approx(1, abs=0.05)


def test_many_draws_at_once_are_the_same_as_one_by_one():
    truth, p = sample(5, n=30)
    counts = bootstrap_counts(30, 40, np.random.default_rng(0))
    for metric in (calibration_slope, calibration_intercept):
        np.testing.assert_allclose(
            metric(truth, p, counts), [float(metric(truth, p, row)) for row in counts], rtol=1e-6
        )


@pytest.mark.parametrize(
    ("truth", "p"),
    [
        ([0.0, 0, 1, 1, 0], [0.3] * 5),
        ([0.0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5]),
        ([1.0, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_a_slope_that_does_not_exist_is_missing_and_no_large_number(truth, p):
    assert np.isnan(float(calibration_slope(np.array(truth), np.array(p))))


def test_certain_probabilities_stay_finite():
    truth = np.array([1.0, 0, 1, 0, 1, 1])
    assert np.isfinite(float(calibration_slope(truth, np.array([1.0, 0, 0, 1, 1, 0.5]))))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8])
def test_net_benefit_is_its_definition_and_acting_on_all_or_none_its_limits(threshold):
    truth, p = sample(2)
    odds = threshold / (1 - threshold)
    acted = p >= threshold
    expected = ((acted & (truth == 1)).sum() - odds * (acted & (truth == 0)).sum()) / len(truth)
    assert float(net_benefit(truth, p, threshold)) == pytest.approx(expected)
    assert float(net_benefit(truth, np.ones(80), threshold)) == pytest.approx(truth.mean() - (1 - truth.mean()) * odds)
    assert float(net_benefit(truth, np.zeros(80), threshold)) == 0
    assert float(net_benefit(truth, p, threshold)) <= truth.mean()
    counts = bootstrap_counts(80, 5, np.random.default_rng(1))
    expected = [
        float(net_benefit(np.repeat(truth, r.astype(int)), np.repeat(p, r.astype(int)), threshold)) for r in counts
    ]
    np.testing.assert_allclose(net_benefit(truth, p, threshold, counts), expected)


def test_a_calibration_curve_counts_everybody_once():
    truth, p = sample(3, n=83)
    curve = calibration_curve(truth, p, 5)
    assert len(curve) == 5 and sum(n for *_, n, _ in curve) == 83 and sum(k for *_, k in curve) == truth.sum()
    assert [mean for mean, *_ in curve] == sorted(mean for mean, *_ in curve)
    assert all(share == k / n for _, share, n, k in curve)
    assert len(calibration_curve(truth, np.full(83, 0.2), 5)) == 1
