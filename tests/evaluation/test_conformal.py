"""Conformal p-values by hand, and the coverage that they promise, in each class."""

import numpy as np
import pytest

from neurorad.evaluation.conformal import class_p_values


def test_p_values_are_counted_in_the_own_class_alone():
    calibration, y = np.array([-2.0, -1, 0, 1, 2]), np.array([0.0, 0, 1, 1, 1])
    p = class_p_values(calibration, y, np.array([-3.0, -1.5, 0.5, 2.0]))
    # Class 0: how many of -2, -1 are at least as high; class 1: how many of 0, 1, 2 at least as low.
    np.testing.assert_allclose(p[0], np.array([1 + 2, 1 + 1, 1 + 0, 1 + 0]) / 3)
    np.testing.assert_allclose(p[1], np.array([1 + 0, 1 + 0, 1 + 1, 1 + 3]) / 4)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_every_class_is_covered_as_promised_even_when_rare(alpha):
    random = np.random.default_rng(0)
    held = {0: [], 1: []}
    for _ in range(2000):
        y = (random.random(60) < 0.2).astype(float)
        y[:9] = 1
        logit = random.normal(1.5 * y, 1)
        new = np.array([0.0, 1.0])
        p = class_p_values(logit, y, random.normal(1.5 * new, 1))
        for label in (0, 1):
            held[label].append(p[label, label] > alpha)
    for label in (0, 1):
        assert 1 - alpha - 0.02 <= np.mean(held[label]) <= 1 - alpha + 0.11
