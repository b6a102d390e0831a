"""Numbers that say whether a volume can be trusted: pure functions on arrays, for the card and the QC page of a scan."""

import numpy as np
from scipy.ndimage import label

SAMPLED_VOXELS = 20000
"""Voxels of a brain that tissues are told apart with."""

RADIUS_MM = 80.0
"""Radius of the sphere that stands for a head in `displacement` (Jenkinson 1999)."""


def similarity(one: np.ndarray, other: np.ndarray, bins: int = 32) -> float:
    """Normalised mutual information (H(A) + H(B)) / H(A, B) of two arrays of one shape (Studholme 1999, eq. 6).

    1: independent; 2: each tells the other. Intensities beyond the 1st and 99th percentile share the outer bins, so that a
    few hot voxels do not empty the others. 0 where either is constant or empty: nothing can be compared.
    """
    if not one.size:
        return 0.0
    ranges = [np.percentile(values, (1, 99)) for values in (one, other)]
    if any(low >= high for low, high in ranges):
        return 0.0
    clipped = [np.clip(v, *limits) for v, limits in zip((one, other), ranges, strict=True)]
    joint = np.histogram2d(clipped[0].ravel(), clipped[1].ravel(), bins=bins)[0] / one.size
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / _entropy(joint)


def _entropy(shares: np.ndarray) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def displacement(transform: np.ndarray, centre: np.ndarray) -> float:
    """Root mean square distance in mm by which an affine [4, 4] moves the points of a head-sized sphere about `centre`.

    sqrt(R^2/5 tr(A'A) + |t + A c|^2) with A = M - I (Jenkinson 1999, TR99MJ1, eq. 11). Unlike the length of t alone it does
    not depend on where a scanner puts its origin.
    """
    linear = transform[:3, :3] - np.eye(3)
    at_centre = transform[:3, 3] + linear @ centre
    return float(np.sqrt(RADIUS_MM**2 / 5 * np.trace(linear.T @ linear) + at_centre @ at_centre))


def mask_parts(mask: np.ndarray) -> tuple[int, float]:
    """Number of face-connected parts of a boolean mask, and the share of it that lies outside the largest."""
    labelled, count = label(mask)
    sizes = np.bincount(labelled[mask]) if count else np.zeros(1)
    return int(count), float(1 - sizes.max() / max(sizes.sum(), 1)) if count else 0.0


def saturated(voxels: np.ndarray) -> float:
    """Share of the voxels other than 0 that are at the very maximum: more than a few are clipped by scanner or export."""
    inside = voxels[voxels != 0]
    return float((inside == inside.max()).mean()) if inside.size else 0.0


def bias_range(before: np.ndarray, after: np.ndarray) -> float:
    """Range of the bias field inside the brain: 95th minus 5th percentile of before / after, its median set to 1.

    MRIQC's `inu_range`. Arguments are intensities of the same voxels before and after N4.
    """
    positive = (before > 0) & (after > 0)
    if not positive.any():
        return 0.0
    field = before[positive] / after[positive]
    low, middle, high = np.percentile(field, (5, 50, 95))
    return float((high - low) / middle)


def tissue_quality(inside: dict[str, np.ndarray]) -> dict[str, float]:
    """SNR of each sequence in white matter, and CJV of white against grey matter in t1n.

    Grey and white matter are the two brighter of three Gaussians fitted to t1n, without a prior of where they lie: it
    fits any atlas and a brain with a tumour. A brain on which they cannot be told apart has no numbers here.

    Args:
        inside: sequence -> intensities (not centred) of the same brain voxels, [n].

    Returns:
        `{sequence}_snr` = mean / (SD sqrt(n / (n - 1))), MRIQC's snr of one tissue; `cjv` = (s_WM + s_GM) / |m_WM - m_GM|
        (Ganzetti 2016; medians and scaled MADs, as MRIQC).
    """
    from sklearn.mixture import GaussianMixture

    step = max(1, len(inside["t1n"]) // SAMPLED_VOXELS)
    inside = {name: values[::step].astype(np.float64) for name, values in inside.items()}
    t1n = inside["t1n"]
    start = np.percentile(t1n, (10, 40, 80))[:, None]
    if len(np.unique(start)) < 3:
        return {}
    mixture = GaussianMixture(3, means_init=start, random_state=0).fit(t1n[:, None])
    order = np.argsort(np.argsort(mixture.means_[:, 0]))
    tissue = order[mixture.predict(t1n[:, None])]
    grey, white = t1n[tissue == 1], t1n[tissue == 2]
    if min(len(grey), len(white)) < 100:
        return {}
    contrast = abs(np.median(white) - np.median(grey))
    numbers = {"cjv": (_mad(white) + _mad(grey)) / contrast} if contrast > 0 else {}
    n = len(white)
    for name, values in inside.items():
        spread = values[tissue == 2].std() * np.sqrt(n / (n - 1))
        if spread > 0:
            numbers[f"{name}_snr"] = float(values[tissue == 2].mean() / spread)
    return numbers


def _mad(values: np.ndarray) -> float:
    """Median absolute deviation, scaled to the SD of a normal distribution."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
