"""Planted transforms are found again, and resampling moves voxels where the matrix says."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from neurorad.imaging.registration import align, motion, n4, resample, without_scale
from neurorad.imaging.scan import Image
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
