"""Planted transforms are found again, and resampling moves voxels where the matrix says."""

import ants
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from neurorad.imaging.registration import align, align_within_session, motion, n4, resample, to_ants, without_scale
from neurorad.imaging.scan import Image, ScanError
from neurorad.imaging.volume import Atlas


def matrix(degrees=(0, 0, 0), shift=(0, 0, 0), scale=1.0):
    made = np.eye(4)
    made[:3, :3] = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    made[:3, 3] = shift
    return made


def test_resample_follows_the_matrix():
    voxels = gaussian_filter(np.random.default_rng(0).random((20, 20, 20)), 2).astype(np.float32)
    image = Image(voxels, np.eye(4))
    moved = resample(image, image, matrix(shift=(2, 0, -3)))
    assert np.allclose(moved.voxels[:18, :, 3:], voxels[2:, :, :17], atol=1e-5)


def test_a_planted_rigid_motion_is_recovered(tmp_path):
    brain = Atlas.load(4, (48, 56, 48)).template
    planted = matrix((4, -3, 6), (5, -4, 3))
    moving = resample(brain, brain, planted)
    found = align(moving, brain, tmp_path)
    angle, _ = motion(found @ np.linalg.inv(planted))
    centre = np.array([0.0, -18, 10, 1])
    assert angle < 0.5
    assert np.linalg.norm((found @ centre - planted @ centre)[:3]) < 0.5


@pytest.mark.parametrize("frame", [(0, 0, 0), (60, -45, 30)])
def test_another_contrast_with_another_field_of_view_is_found_wherever_its_frame_lies(tmp_path, frame):
    """The second image shows other intensities and a third less of the head; its frame is the session's, or its own."""
    template = Atlas.load(2, (96, 112, 96)).template
    brain = template.voxels > 0
    planted = matrix((3, -2, 4), (2, -3, 1))
    inverted = np.where(brain, 1.2 * template.voxels.max() - template.voxels, 0).astype(np.float32)
    moved = resample(Image(inverted, template.affine), template, np.linalg.inv(planted))
    low = round(0.3 * moved.voxels.shape[2])
    affine = moved.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0, 0, low] + frame
    found = align_within_session(template, Image(moved.voxels[:, :, low:], affine), brain, tmp_path)
    error = np.linalg.inv(matrix(shift=frame) @ planted) @ found
    points = np.c_[np.argwhere(brain)[::500], np.ones(len(np.argwhere(brain)[::500]))] @ template.affine.T
    assert motion(error)[0] < 0.5
    assert np.linalg.norm((points @ error.T - points)[:, :3], axis=1).max() < 1.0


def test_scale_is_taken_out_and_the_brain_stays_in_place():
    brain = Atlas.load(4, (48, 56, 48)).template
    rigid = without_scale(matrix((10, 0, 0), (3, 2, 1), 0.85), brain)
    assert np.allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.isclose(motion(rigid)[0], 10)


def test_n4_takes_out_most_of_a_planted_smooth_bias_and_repeats_exactly():
    brain = Atlas.load(3, (64, 72, 60)).target
    inside = brain.voxels > 0
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in brain.voxels.shape), indexing="ij")
    field = np.exp(0.35 * x - 0.25 * y * z + 0.2 * z**2)
    biased = Image((brain.voxels * field).astype(np.float32), brain.affine)
    corrected = n4(biased, inside)
    planted = np.log(field)[inside]
    # What it does to the unbiased image is not bias but anatomy read as bias: the reference is the corrected original.
    left = np.log(corrected.voxels[inside] / n4(brain, inside).voxels[inside])
    assert left.std() < 0.4 * planted.std()
    estimated = np.log(biased.voxels[inside] / corrected.voxels[inside])
    assert np.corrcoef(estimated, planted)[0, 1] > 0.8
    assert np.array_equal(n4(biased, inside).voxels, corrected.voxels)


def test_a_field_that_runs_away_is_estimated_again_with_more_points_or_refused(monkeypatch):
    image = Image(np.full((24, 24, 24), 100, np.float32), np.diag([3.0, 3, 3, 1]))
    inside = np.ones(image.voxels.shape, bool)
    asked = []

    def runaway(until: int):
        def correct(image, mask, shrink_factor, convergence):
            asked.append(shrink_factor)
            values = image.numpy()
            if shrink_factor > until:
                values[:2] *= 60
            return to_ants(Image(values, np.diag([3.0, 3, 3, 1])))

        return correct

    monkeypatch.setattr(ants, "n4_bias_field_correction", runaway(until=1))
    assert np.array_equal(n4(image, inside).voxels, image.voxels) and asked == [3, 2, 1]  # 9, 6 and 3 mm
    monkeypatch.setattr(ants, "n4_bias_field_correction", runaway(until=0))
    with pytest.raises(ScanError, match="bias field runs away"):
        n4(image, inside)
