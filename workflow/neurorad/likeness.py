"""Scans that look the same, whatever they are called: thumbnails of volumes, compared by correlation.

The second net of the leakage audit: an exam that two releases hold under ids that nothing links.
"""

import numpy as np

THUMBNAIL_MM = 8.0


def thumbnail(volume: np.ndarray, spacing: float) -> np.ndarray:
    """`[4, D, H, W]` with `spacing` mm a voxel -> `[4, d, h, w]` float16 with voxels of about 8 mm: the mean of what lies in each.

    The background is 0 in both.
    """
    shape = [max(1, round(n * spacing / THUMBNAIL_MM)) for n in volume.shape[1:]]
    small: np.ndarray = volume.astype(np.float32)
    for axis, cells in enumerate(shape, start=1):
        edges = np.linspace(0, small.shape[axis], cells + 1).round().astype(int)
        counts = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
        small = np.add.reduceat(small, edges[:-1], axis=axis) / counts
    return small.astype(np.float16)


def residuals(thumbnails: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """`[n, 4, ...] -> [n, 4 x voxels of the brain]` float32, rows of length 1: what each scan has beside `mean`, `[4, ...]`.

    Registered brains look alike: two patients' thumbnails correlate at about 0.8. What is common to all is taken off first;
    then two patients' correlate at about 0. The product of two rows is their correlation over the brain, where `mean` is not 0.
    """
    inside = mean.reshape(len(mean), -1).any(axis=0)
    own = (thumbnails.astype(np.float32) - mean).reshape(len(thumbnails), len(mean), -1)[:, :, inside]
    own -= own.mean(axis=2, keepdims=True)
    own = own.reshape(len(thumbnails), -1)
    return own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-9)
