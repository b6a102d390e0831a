import math

import numpy as np
import pytest

from neurorad.explanation.agreement import centre_prior, dice_at_top, mass_in_mask, pointing_hit, telling_slice


def test_mass_and_hit_by_hand():
    cam = np.zeros((2, 2, 2))
    cam[0, 0, 0], cam[1, 1, 1] = 3.0, 1.0
    mask = np.zeros((2, 2, 2), bool)
    mask[1, 1, 1] = True
    assert mass_in_mask(cam, mask) == 0.25
    assert pointing_hit(cam, mask) == 0.0
    cam[1, 1, 1] = 3.0
    assert pointing_hit(cam, mask) == 0.5


def test_uniform_map_has_the_masks_share_of_mass():
    rng = np.random.default_rng(0)
    mask = rng.random((9, 8, 7)) < 0.3
    assert mass_in_mask(np.ones(mask.shape), mask) == pytest.approx(mask.mean())


@pytest.mark.parametrize("measure", [mass_in_mask, pointing_hit])
def test_no_map_or_no_mask_is_not_a_number(measure):
    empty, full = np.zeros((3, 3, 3)), np.ones((3, 3, 3))
    assert math.isnan(measure(full, empty.astype(bool)))
    assert math.isnan(measure(empty, full.astype(bool)))


def test_centre_prior_knows_only_the_brain():
    brain = np.zeros((21, 25, 19), bool)
    brain[3:14, 5:20, 4:15] = True
    prior = centre_prior(brain)
    assert np.unravel_index(prior.argmax(), prior.shape) == (8, 12, 9)
    assert prior.max() == 1.0 and not prior[~brain].any()
    # One standard deviation of a run of 11 voxels is sqrt((11^2 - 1) / 12).
    assert prior[8 + 3, 12, 9] == pytest.approx(math.exp(-0.5 * 9 / ((11**2 - 1) / 12)))
    assert not centre_prior(np.zeros((4, 4, 4), bool)).any()


def test_slice_is_that_of_most_tumour_else_of_most_mass():
    cam, tumour = np.zeros((4, 4, 6)), np.zeros((4, 4, 6), bool)
    cam[..., 1] = 1.0
    brain = np.ones_like(tumour)
    assert telling_slice(cam, tumour, brain) == 1
    tumour[0, 0, 3], tumour[:2, 0, 4] = True, True
    assert telling_slice(cam, tumour, brain) == 4


def test_a_slice_without_brain_is_never_shown():
    brain = np.zeros((4, 4, 5), bool)
    brain[1:3, 1:3, 1:4], brain[0, 0, 2] = True, True
    cam, no_tumour = np.zeros(brain.shape), np.zeros_like(brain)
    cam[..., 4] = 9.0
    assert telling_slice(cam, no_tumour, brain) == 2, "the largest of the brain"
    cam[1, 1, 3] = 0.1
    assert telling_slice(cam, no_tumour, brain) == 3, "what lies in the brain"


def test_dice_of_the_highest_voxels_by_hand():
    brain = np.ones((10, 10, 1), bool)
    cam = np.arange(100.0).reshape(10, 10, 1)
    mask = np.zeros_like(brain)
    mask[9, 6:, 0] = True  # 96 to 99
    # The highest 5 of 100 voxels are 95 to 99: four in the mask.
    assert dice_at_top(cam, mask, brain) == pytest.approx(2 * 4 / (5 + 4))
    assert dice_at_top(np.where(cam > 97, cam, 0), mask, brain) == pytest.approx(2 * 2 / (2 + 4)), "0 claims nothing"
    assert math.isnan(dice_at_top(np.zeros_like(cam), mask, brain))
    assert math.isnan(dice_at_top(cam, np.zeros_like(mask), brain))
