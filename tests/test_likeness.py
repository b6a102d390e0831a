"""Thumbnails and their correlation against the definition."""

import numpy as np
import pytest

from neurorad.likeness import residuals, thumbnail


def test_likeness_is_the_correlation_of_what_is_not_common():
    random = np.random.default_rng(0)
    inside = np.zeros((12, 12, 12), bool)
    inside[2:-2, 2:-2, 2:-2] = True
    common = random.normal(0, 1, (4, 12, 12, 12))
    pictures = np.where(inside, common + random.normal(0, 0.5, (5, 4, 12, 12, 12)), 0).astype(np.float16)
    mean = pictures.mean(axis=0, dtype=np.float32)
    found = residuals(pictures[:2], mean) @ residuals(pictures, mean).T
    assert np.allclose(np.diag(found), 1, atol=1e-4)
    # The brain's voxels alone say the same.
    flat, common = pictures[:, :, inside], mean[:, inside]
    assert np.allclose(residuals(flat[:2], common) @ residuals(flat, common).T, found, atol=1e-5)
    rows = [(p.astype(np.float32) - mean)[:, inside] for p in pictures]
    rows = [(row - row.mean(axis=1, keepdims=True)).ravel() for row in rows]
    assert found[0, 3] == pytest.approx(np.corrcoef(rows[0], rows[3])[0, 1], abs=1e-4)


@pytest.mark.parametrize(("spacing", "shape"), [(1.0, (40, 48, 40)), (3.0, (48, 64, 48)), (4.0, (40, 48, 40))])
def test_a_thumbnail_keeps_the_mean_and_has_voxels_of_about_8_mm(spacing, shape):
    volume = np.random.default_rng(0).normal(2, 1, (4, *shape))
    small = thumbnail(volume, spacing)
    assert small.dtype == np.float16
    for n, cells in zip(shape, small.shape[1:], strict=True):
        assert 7 <= n * spacing / cells <= 9
    assert small.astype(float).mean() == pytest.approx(2, abs=0.02)
    block = volume[:, : round(8 / spacing), : round(8 / spacing), : round(8 / spacing)]
    assert np.allclose(small[:, 0, 0, 0], block.mean(axis=(1, 2, 3)), atol=0.6)
