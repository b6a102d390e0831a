"""Does a map point at the tumour, and more so than a map that always points at the centre?"""

from __future__ import annotations

import numpy as np


def mass_in_mask(cam: np.ndarray, mask: np.ndarray) -> float:
    """Share of the map's mass inside the mask, 0 to 1; NaN if the map has no mass or the mask is empty.

    Args:
        cam: `[D, H, W]`, non-negative.
        mask: `[D, H, W]`, true in the tumour.
    """
    total = float(cam.sum(dtype=np.float64))
    if total <= 0 or not mask.any():
        return float("nan")
    return float(cam[mask].sum(dtype=np.float64)) / total


def pointing_hit(cam: np.ndarray, mask: np.ndarray) -> float:
    """1.0 if the highest voxel lies in the mask, else 0.0 (pointing game, Zhang et al. 2018); NaN as `mass_in_mask`.

    Among equal maxima the share that lies in the mask, so that the order of voxels decides nothing.
    """
    if cam.max(initial=0) <= 0 or not mask.any():
        return float("nan")
    return float(mask[cam == cam.max()].mean())


def dice_at_top(cam: np.ndarray, mask: np.ndarray, brain: np.ndarray, share: float = 0.05) -> float:
    """Dice overlap of the mask with the map's highest voxels, `share` of the brain's; NaN as `mass_in_mask`.

    Voxels of value 0 are never among the highest, so that a map that knows nothing of a place claims nothing there.
    """
    if cam.max(initial=0) <= 0 or not mask.any():
        return float("nan")
    wanted = max(1, round(share * int(brain.sum())))
    cut = np.partition(cam[brain], -wanted)[-wanted]
    top = brain & (cam >= max(cut, np.finfo(np.float32).tiny))
    return 2 * float((top & mask).sum()) / float(top.sum() + mask.sum())


def centre_prior(brain: np.ndarray) -> np.ndarray:
    """A map that knows nothing but the brain: a Gaussian at its centre of mass, cut to the brain.

    The standard deviation along each axis is that of the brain's own voxels. A coarse Grad-CAM map is a blob near
    the centre, and tumours are near the centre too: a map must beat this one to mean anything.

    Args:
        brain: `[D, H, W]`, true in the brain.

    Returns:
        `[D, H, W]` float64, 1 at the centre.
    """
    points = np.argwhere(brain)
    if not len(points):
        return np.zeros(brain.shape)
    centre, spread = points.mean(axis=0), np.maximum(points.std(axis=0), 1.0)
    grid = np.indices(brain.shape, sparse=True)
    distance = sum(((axis - c) / s) ** 2 for axis, c, s in zip(grid, centre, spread, strict=True))
    return np.where(brain, np.exp(-0.5 * distance), 0.0)


def telling_slice(cam: np.ndarray, tumour: np.ndarray, brain: np.ndarray) -> int:
    """Index along the last axis (inferior to superior) of the most tumour, or, without tumour, of the most map mass in the
    brain. A map that lies outside the brain alone is shown where the brain is largest: a slice without brain shows nothing.
    """
    for shown in (tumour, cam * brain, brain):
        area = shown.sum(axis=(0, 1), dtype=np.float64)
        if area.any():
            return int(np.argmax(area))
    return 0
