"""Embeddings without a network: what intensities and volumes alone tell, and radiomics inside the tumour mask."""

import numpy as np
from scipy import ndimage, stats

from neurorad.volumes import SEQUENCES

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 16
"""Grey levels of a co-occurrence matrix."""
DIRECTIONS = (
    *((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1)),
    *((1, 1, 0), (1, -1, 0), (1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)),
)
"""The 13 neighbours of a voxel, one of each opposite pair."""

INTENSITY = (
    "brain_ml",
    *(f"extent_{axis}_mm" for axis in ("lr", "pa", "is")),
    "left_share",
    *(f"{s}_{n}" for s in SEQUENCES for n in (*(f"p{p}" for p in PERCENTILES), "skew", "kurtosis", "zero_share")),
    *(f"r_{a}_{b}" for i, a in enumerate(SEQUENCES) for b in SEQUENCES[i + 1 :]),
)
"""What `intensity_features` returns, in its order."""

_FIRST_ORDER = ("mean", "sd", "minimum", *(f"p{p}" for p in (10, 50, 90)), "maximum", "skew", "kurtosis", "entropy")
_TEXTURE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "joint_entropy")
_SHAPE = ("ml", "surface_mm2", "sphericity", "longest_mm", "elongation", "flatness", "parts", "brain_share")
RADIOMICS = (
    *(f"shape_{name}" for name in _SHAPE),
    *(f"place_{axis}" for axis in ("lr", "pa", "is")),
    *(f"{s}_{name}" for s in SEQUENCES for name in (*_FIRST_ORDER, *_TEXTURE)),
)
"""What `radiomics_features` returns, in its order."""


def intensity_features(voxels: np.ndarray, spacing: float) -> np.ndarray:
    """The shortcut detector: numbers that no reader would call a tumour, in the order of `INTENSITY`.

    If they predict the site or a marker well, then the preprocessing or the case mix tells it.

    Args:
        voxels: `[4, D, H, W]` float32, z-scored in the brain, background 0. spacing: mm, the same along each axis.
    """
    brain = (voxels != 0).any(axis=0)
    inside = np.argwhere(brain)
    if not len(inside):
        return np.zeros(len(INTENSITY))
    extent = (inside.max(axis=0) - inside.min(axis=0) + 1) * spacing
    found = [brain.sum() * spacing**3 / 1000, *extent, brain[: brain.shape[0] // 2].sum() / brain.sum()]
    for sequence in voxels:
        values = sequence[brain].astype(np.float64)
        found += [*np.percentile(values, PERCENTILES), *_moments(values), (values == 0).mean()]
    for i in range(len(SEQUENCES)):
        found += [_correlation(voxels[i][brain], voxels[j][brain]) for j in range(i + 1, len(SEQUENCES))]
    return np.array(found, dtype=np.float64)


def radiomics_features(voxels: np.ndarray, tumour: np.ndarray, spacing: float) -> np.ndarray:
    """Shape, place, first-order statistics and co-occurrence textures of the tumour, in the order of `RADIOMICS`.

    Definitions follow the Image Biomarker Standardisation Initiative (Zwanenburg et al. 2020) in name; grey levels are
    `BINS` equal steps from the lowest to the highest value in the tumour, and matrices are summed over the 13
    directions at a distance of one voxel. Sphericity is that of a triangulated surface.

    Args:
        voxels: `[4, D, H, W]` float32. tumour: `[D, H, W]` boolean, not empty. spacing: mm.
    """
    brain = (voxels != 0).any(axis=0)
    found = [*_shape(tumour, spacing), tumour.sum() / max(brain.sum(), 1)]
    centre = np.argwhere(brain).mean(axis=0) if brain.any() else np.array(brain.shape) / 2
    found += [*((np.argwhere(tumour).mean(axis=0) - centre) * spacing)]
    for sequence in voxels:
        values = sequence[tumour].astype(np.float64)
        levels = _levels(sequence, tumour)
        shares = np.bincount(levels[tumour], minlength=BINS) / tumour.sum()
        found += [values.mean(), values.std(), values.min(), *np.percentile(values, (10, 50, 90)), values.max()]
        found += [*_moments(values), _entropy(shares)]
        found += _texture(co_occurrence(levels, tumour))
    return np.array(found, dtype=np.float64)


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Skewness and excess kurtosis; 0 where all values are one."""
    if np.ptp(values) <= 1e-6:
        return 0.0, 0.0
    return float(stats.skew(values)), float(stats.kurtosis(values))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 1e-6 and np.ptp(b) > 1e-6 else 0.0


def _entropy(shares: np.ndarray) -> float:
    """In bits."""
    kept = shares[shares > 0]
    return float(-(kept * np.log2(kept)).sum())


def _shape(tumour: np.ndarray, spacing: float) -> list[float]:
    """Volume (ml), surface (mm2), sphericity, longest and relative axes of the ellipsoid of inertia, number of parts."""
    from skimage.measure import marching_cubes, mesh_surface_area

    volume = tumour.sum() * spacing**3
    # A rim of background closes the surface where the tumour touches the edge of the grid.
    vertices, faces, _, _ = marching_cubes(np.pad(tumour, 1).astype(np.float32), 0.5, spacing=(spacing,) * 3)
    surface = float(mesh_surface_area(vertices, faces))
    sphericity = (36 * np.pi * volume**2) ** (1 / 3) / surface
    places = np.argwhere(tumour) * spacing
    # A voxel is a cube, not a point: its own variance along each axis is added.
    spread = (
        np.cov(places.T, bias=True) + np.eye(3) * spacing**2 / 12 if len(places) > 1 else np.eye(3) * spacing**2 / 12
    )
    lengths = np.sqrt(np.linalg.eigvalsh(spread)[::-1])
    parts = int(ndimage.label(tumour, np.ones((3, 3, 3)))[1])
    axes = [4 * lengths[0], lengths[1] / lengths[0], lengths[2] / lengths[0]]
    return [volume / 1000, surface, sphericity, *axes, float(parts)]


def _levels(sequence: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """Grey level 0 to `BINS` - 1 of each voxel; outside the tumour it means nothing."""
    inside = sequence[tumour]
    low, high = float(inside.min()), float(inside.max())
    if high - low <= 1e-6:
        return np.zeros(sequence.shape, dtype=np.int64)
    return np.clip(((sequence - low) / (high - low) * BINS).astype(np.int64), 0, BINS - 1)


def co_occurrence(levels: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """`[BINS, BINS]` shares of neighbouring pairs of levels, symmetric; both voxels of a pair lie in the tumour."""
    counts = np.zeros((BINS, BINS))
    for direction in DIRECTIONS:
        here = tuple(
            slice(max(0, -step), size - max(0, step)) for step, size in zip(direction, levels.shape, strict=True)
        )
        there = tuple(
            slice(max(0, step), size - max(0, -step)) for step, size in zip(direction, levels.shape, strict=True)
        )
        both = tumour[here] & tumour[there]
        np.add.at(counts, (levels[here][both], levels[there][both]), 1)
    counts += counts.T
    return counts / counts.sum() if counts.any() else counts


def _texture(shares: np.ndarray) -> list[float]:
    """Of a co-occurrence matrix (Haralick, Shanmugam and Dinstein 1973): the names in `_TEXTURE`."""
    i, j = np.indices(shares.shape)
    apart = np.abs(i - j)
    mean = (i * shares).sum()
    variance = ((i - mean) ** 2 * shares).sum()
    correlation = ((i - mean) * (j - mean) * shares).sum() / variance if variance > 1e-12 else 1.0
    sums = [apart**2, apart, 1 / (1 + apart**2)]
    return [*((weight * shares).sum() for weight in sums), np.sqrt((shares**2).sum()), correlation, _entropy(shares)]
