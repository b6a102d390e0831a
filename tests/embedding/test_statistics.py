"""Statistics against closed forms and scikit-image."""

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from neurorad.embedding.statistics import (
    BINS,
    DIRECTIONS,
    INTENSITY,
    RADIOMICS,
    co_occurrence,
    intensity_features,
    radiomics_features,
)

from .conftest import brain, tumour, volume


def named(names, values) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


def test_intensity_statistics_are_those_of_the_brain():
    voxels = volume(0)
    inside = brain()
    found = named(INTENSITY, intensity_features(voxels, 4.0))
    assert found["brain_ml"] == pytest.approx(inside.sum() * 64 / 1000)
    assert found["extent_pa_mm"] == pytest.approx(4 * (np.ptp(np.flatnonzero(inside.any(axis=(0, 2)))) + 1))
    assert found["t1c_p75"] == pytest.approx(np.percentile(voxels[1][inside], 75))
    assert found["r_t1n_t2f"] == pytest.approx(np.corrcoef(voxels[0][inside], voxels[3][inside])[0, 1], abs=1e-6)
    assert found["t2w_zero_share"] == 0


def test_an_absent_sequence_and_an_empty_volume_give_finite_numbers():
    voxels = volume(0)
    voxels[2] = 0
    found = named(INTENSITY, intensity_features(voxels, 4.0))
    assert np.isfinite([*found.values()]).all() and found["t2w_zero_share"] == 1 and found["r_t1n_t2w"] == 0
    assert (intensity_features(np.zeros_like(voxels), 4.0) == 0).all()


def test_a_ball_is_round_and_a_rod_is_not():
    places = np.indices((40, 40, 40)).transpose(1, 2, 3, 0)
    ball = ((places - 20) ** 2).sum(axis=-1) <= 12**2
    rod = np.zeros((40, 40, 40), bool)
    rod[4:36, 19:22, 19:22] = True
    voxels = np.ones((4, 40, 40, 40), np.float32)
    round_, long = (named(RADIOMICS, radiomics_features(voxels, mask, 2.0)) for mask in (ball, rod))
    assert round_["shape_ml"] == pytest.approx(4 / 3 * np.pi * 24**3 / 1000, rel=0.02)
    # Marching cubes on voxels overestimates a sphere's surface by up to 10 %.
    assert 4 * np.pi * 24**2 <= round_["shape_surface_mm2"] <= 1.1 * 4 * np.pi * 24**2
    assert 0.9 < round_["shape_sphericity"] <= 1.0 and long["shape_sphericity"] < 0.6
    assert round_["shape_elongation"] == pytest.approx(1, abs=0.01)
    # A solid of length L has a variance of L^2 / 12 along it.
    assert long["shape_longest_mm"] == pytest.approx(4 * 32 * 2 / np.sqrt(12), rel=0.01)
    assert long["shape_elongation"] == pytest.approx(3 / 32, rel=0.01)
    two = ball.copy()
    two[0:3, 0:3, 0:3] = True
    assert named(RADIOMICS, radiomics_features(voxels, two, 2.0))["shape_parts"] == 2


def test_texture_is_scikit_images_in_the_plane():
    """A mask of one slice has no pair outside it, so the 13 directions are the plane's four."""
    levels = np.random.default_rng(0).integers(0, BINS, (9, 11))
    mask = np.zeros((9, 11, 3), bool)
    mask[:, :, 1] = True
    ours = co_occurrence(np.repeat(levels[:, :, None], 3, axis=2), mask)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counted = graycomatrix(levels.astype(np.uint8), [1], angles, levels=BINS, symmetric=True)
    theirs = counted.sum(axis=(2, 3)) / counted.sum()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    voxels = np.repeat(np.repeat(levels[None, :, :, None], 3, axis=3), 4, axis=0).astype(np.float32)
    found = named(RADIOMICS, radiomics_features(voxels, mask, 1.0))
    cube = theirs[:, :, None, None]
    for name, prop in (("contrast", "contrast"), ("homogeneity", "homogeneity"), ("correlation", "correlation")):
        assert found[f"t1c_{name}"] == pytest.approx(float(graycoprops(cube, prop)[0, 0]), rel=1e-6)
    assert found["t2f_energy"] == pytest.approx(float(graycoprops(cube, "energy")[0, 0]), rel=1e-6)


def test_the_directions_are_half_of_the_26_neighbours():
    both = {*DIRECTIONS, *(tuple(-step for step in direction) for direction in DIRECTIONS)}
    assert len(both) == 26 and (0, 0, 0) not in both


def test_a_single_voxel_and_a_flat_tumour_give_finite_numbers():
    voxels = volume(1)
    one = np.zeros(voxels.shape[1:], bool)
    one[12, 14, 10] = True
    assert np.isfinite(radiomics_features(voxels, one, 4.0)).all()
    edge = np.zeros_like(one)
    edge[0, :, :] = True
    assert np.isfinite(radiomics_features(np.zeros_like(voxels), edge, 4.0)).all()
    assert len(radiomics_features(voxels, tumour(0), 4.0)) == len(RADIOMICS)
