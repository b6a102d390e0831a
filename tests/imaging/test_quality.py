"""QC numbers against closed forms, and against planted noise, bias and motion."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neurorad.imaging.quality import (
    RADIUS_MM,
    bias_range,
    displacement,
    mask_parts,
    saturated,
    similarity,
    tissue_quality,
)


def test_similarity_is_2_of_an_array_with_itself_and_1_of_independent_ones():
    random = np.random.default_rng(0)
    one, other = random.random((2, 200_000))
    assert similarity(one, one) == pytest.approx(2, abs=0.02)
    assert similarity(one, 3 - one**2) > 1.5
    assert similarity(one, other) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("empty", [np.zeros(10), np.zeros(0)])
def test_what_cannot_be_compared_has_similarity_0(empty):
    assert similarity(empty, np.arange(len(empty), dtype=float)) == 0


def test_similarity_falls_with_misalignment():
    x, y, z = np.meshgrid(*[np.linspace(-3, 3, 40)] * 3, indexing="ij")
    image = np.sin(2 * x) * np.cos(y) + z
    found = [similarity(image, np.roll(np.exp(image), shift, axis=0)) for shift in (0, 1, 2, 4)]
    assert found == sorted(found, reverse=True)


def test_displacement_is_the_root_mean_square_over_the_sphere():
    random = np.random.default_rng(1)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("xyz", (8, -5, 3), degrees=True).as_matrix()
    transform[:3, 3] = (4, -2, 7)
    centre = np.array([10.0, -30, 20])
    points = random.normal(size=(400_000, 3))
    points *= RADIUS_MM * random.random((len(points), 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    points += centre
    moved = points @ transform[:3, :3].T + transform[:3, 3]
    assert displacement(transform, centre) == pytest.approx(
        np.sqrt(((moved - points) ** 2).sum(axis=1).mean()), rel=5e-3
    )
    assert displacement(np.eye(4), centre) == 0


def test_parts_and_islands_of_a_mask():
    mask = np.zeros((10, 10, 10), bool)
    assert mask_parts(mask) == (0, 0.0)
    mask[2:6, 2:6, 2:6] = True
    assert mask_parts(mask) == (1, 0.0)
    mask[8, 8, 8:10] = True
    assert mask_parts(mask) == (2, pytest.approx(2 / 66))


def test_the_share_at_the_maximum_tells_a_clipped_image():
    values = np.random.default_rng(2).normal(100, 20, 10_000)
    assert saturated(values) == pytest.approx(1e-4)
    assert saturated(np.minimum(values, np.percentile(values, 95))) == pytest.approx(0.05, abs=0.001)
    assert saturated(np.zeros(5)) == 0


def test_the_range_of_a_planted_bias_is_measured_and_of_none_is_0():
    true = np.random.default_rng(3).uniform(50, 150, 100_000)
    field = np.random.default_rng(4).uniform(0.8, 1.2, true.size)
    assert bias_range(true * field, true) == pytest.approx(0.9 * 0.4, abs=0.005)
    assert bias_range(3 * true, true) == pytest.approx(0)


def tissues(noise: float, rng: int = 5) -> dict[str, np.ndarray]:
    """A brain of CSF, grey and white matter; t2w has the reverse contrast."""
    random = np.random.default_rng(rng)
    kinds = np.repeat([0, 1, 2], (8_000, 30_000, 32_000))
    random.shuffle(kinds)
    t1n = np.array([20.0, 60, 100])[kinds]
    t2w = np.array([200.0, 110, 80])[kinds]
    return {name: values + random.normal(0, noise, kinds.size) for name, values in (("t1n", t1n), ("t2w", t2w))}


def test_snr_and_cjv_of_known_tissues():
    found = tissue_quality(tissues(5))
    assert found["t1n_snr"] == pytest.approx(100 / 5, rel=0.05)
    assert found["t2w_snr"] == pytest.approx(80 / 5, rel=0.05)
    assert found["cjv"] == pytest.approx((5 + 5) / 40, rel=0.05)


def test_noise_lowers_snr_and_raises_cjv_and_the_same_brain_gives_the_same_numbers():
    clean, noisy = tissue_quality(tissues(4)), tissue_quality(tissues(8))
    assert noisy["t1n_snr"] < clean["t1n_snr"]
    assert noisy["cjv"] > clean["cjv"]
    assert tissue_quality(tissues(4)) == clean


def test_a_brain_of_one_tissue_has_no_such_numbers():
    assert tissue_quality({"t1n": np.full(5000, 7.0)}) == {}
