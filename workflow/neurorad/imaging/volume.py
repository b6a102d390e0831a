"""From one scan's images to one volume: only the steps that its state still needs, and one interpolation.

Order (as the BraTS reference pipeline, CaPTk issue 1045, with the brain found before the atlas): read and reorient;
an N4-corrected copy drives the registration of native sequences to t1c; brain mask on t1c unless the scan is already
stripped; brain to atlas; every original sequence resampled once onto the store's grid; N4 inside the brain; z-score
inside the brain with background exactly 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nilearn
import numpy as np
from scipy.ndimage import binary_fill_holes

from neurorad.imaging import quality as numbers
from neurorad.imaging.brain import brain_mask, check_volume
from neurorad.imaging.pictures import sheet
from neurorad.imaging.registration import align, grid, motion, n4, resample, without_scale, working_copy
from neurorad.imaging.scan import Image, ScanError, read_image, same_grid, scan_state
from neurorad.volumes import SEQUENCES

ATLAS = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
MIN_ATLAS_DICE = 0.75
COMPARED_MM = 3.0
"""Similarity is measured on points this far apart: some 50,000 in a brain."""
MAX_SIGMA = 30.0
"""Intensities are clipped at this many standard deviations, so that a lone hot voxel fits float16 and harms nobody."""


@dataclass(frozen=True)
class Atlas:
    """MNI152 (ICBM 2009a symmetric, brain only; from nilearn's wheel): for alignment, and on the store's grid."""

    template: Image
    target: Image

    @classmethod
    def load(cls, spacing: float, shape: tuple[int, int, int]) -> "Atlas":
        brain = read_image(ATLAS, "atlas")
        inside = np.argwhere(brain.voxels > 0)
        centre = brain.affine[:3, :3] @ ((inside.min(axis=0) + inside.max(axis=0)) / 2) + brain.affine[:3, 3]
        return cls(working_copy(brain), resample(brain, grid(spacing, shape, centre), np.eye(4)))


@dataclass(frozen=True)
class Volume:
    """`voxels` [4, D, H, W] float32, `tumour` uint8 [D, H, W] or None, `state` of the scan's images as it was detected,
    the numbers of its QC, and its `pictures` (suffix of the file -> bytes)."""

    voxels: np.ndarray
    tumour: np.ndarray | None
    state: str
    quality: dict[str, float]
    transforms: dict[str, list[list[float]]]
    pictures: dict[str, bytes]


def contract(settings: dict[str, Any]) -> dict[str, Any]:
    """What every volume of a study has in common; an encoder refuses volumes of another contract."""
    return {
        "sequences": list(SEQUENCES),
        "axes": "RAS",
        "spacing_mm": float(settings["spacing"]),
        "shape": list(settings["shape"]),
        "atlas": "MNI152 ICBM 2009a symmetric, rigid",
        "n4": bool(settings["n4"]),
        "normalisation": "z-score inside the brain, background 0",
    }


def make_volume(
    files: dict[str, Path],
    tumour: Image | None,
    declared: tuple[str, ...],
    settings: dict[str, Any],
    atlas: Atlas,
    scratch: Path,
    threads: int = 1,
    device: str = "cpu",
) -> Volume:
    """Standardise one scan.

    Args:
        files: sequence -> NIfTI file, all four.
        tumour: the scan's tumour on any grid in t1c space (`read_mask`), if the release ships one.
        declared: states that the release documents (`stripped`, `defaced`, `skull`); the images must be in one of them.
        settings: the `imaging` block of the config (`spacing`, `shape`, `n4`, `brain_mask`).

    Raises:
        ScanError: the scan cannot be trusted; the message is the reason.
    """
    images = {name: read_image(files[name], name) for name in SEQUENCES}
    state = scan_state(images, declared)
    quality: dict[str, float] = {}
    to_t1c = _to_t1c(images, scratch, quality)
    t1c = images["t1c"]
    if state != "stripped":
        brain = brain_mask(t1c, settings["brain_mask"], scratch, threads, device)
    else:
        brain = (
            binary_fill_holes(np.any([images[n].voxels != 0 for n in SEQUENCES], axis=0))
            if to_t1c is None
            else (binary_fill_holes(t1c.voxels != 0))
        )
        check_volume(brain, t1c.spacing)
    to_t1c = to_t1c or dict.fromkeys(SEQUENCES, np.eye(4))
    t1c_brain = Image(np.where(brain, t1c.voxels, 0), t1c.affine)
    fitted = align(atlas.template, working_copy(t1c_brain), scratch, "Similarity")
    to_atlas = without_scale(fitted, atlas.template)
    quality["atlas_rotation_deg"] = motion(to_atlas)[0]
    mask = resample(Image(brain.astype(np.float32), t1c.affine), atlas.target, to_atlas, nearest=True).voxels > 0
    quality |= _mask_quality(mask, atlas, t1c_brain, fitted)
    if quality["atlas_dice"] < MIN_ATLAS_DICE:
        raise ScanError(f"brain overlaps the atlas with Dice {quality['atlas_dice']:.2f} only (limit {MIN_ATLAS_DICE})")
    before = _before_and_after(images, Image(brain.astype(np.float32), t1c.affine), atlas, to_t1c, to_atlas, quality)
    channels, inside = [], {}
    for name in SEQUENCES:
        transform = to_t1c[name] @ to_atlas
        moved = resample(images[name], atlas.target, transform)
        channel, offset = _normalise(moved, mask, bool(settings["n4"]), name, quality)
        channels.append(channel)
        inside[name] = channel[mask] + offset
        quality[f"{name}_saturated"] = numbers.saturated(images[name].voxels)
    quality |= numbers.tissue_quality(inside)
    labels = None
    if tumour is not None:
        labels = (resample(tumour, atlas.target, to_atlas, nearest=True).voxels > 0).astype(np.uint8)
    transforms = {name: (to_t1c[name] @ to_atlas).round(6).tolist() for name in SEQUENCES}
    voxels = np.stack(channels)
    pictures = sheet(voxels, before, atlas.target.voxels)
    return Volume(voxels, labels, state, {k: round(float(v), 4) for k, v in quality.items()}, transforms, pictures)


def _to_t1c(images: dict[str, Image], scratch: Path, quality: dict[str, float]) -> dict[str, np.ndarray] | None:
    """Transforms of each sequence from t1c space, or None where the four already share one grid."""
    quality["max_motion_mm"] = 0.0
    if same_grid(list(images.values())):
        return None
    positive = {name: Image(np.maximum(image.voxels, 0), image.affine) for name, image in images.items()}
    corrected = {name: n4(working_copy(image)) for name, image in positive.items()}
    transforms = {"t1c": np.eye(4)}
    centre = _middle(images["t1c"])
    for name in SEQUENCES:
        if name != "t1c":
            transforms[name] = align(corrected["t1c"], corrected[name], scratch)
            moved = numbers.displacement(transforms[name], centre)
            quality["max_motion_mm"] = max(quality["max_motion_mm"], moved)
    return transforms


def _middle(image: Image) -> np.ndarray:
    """RAS mm of the middle of an image."""
    return image.affine[:3, :3] @ ((np.array(image.voxels.shape) - 1) / 2) + image.affine[:3, 3]


def _before_and_after(
    images: dict[str, Image],
    brain: Image,
    atlas: Atlas,
    to_t1c: dict[str, np.ndarray],
    to_atlas: np.ndarray,
    quality: dict[str, float],
) -> list[np.ndarray]:
    """The brain where the headers put it, its middle moved to the grid's: [4, D, H, W] z-scored, background 0; of these
    only the middle planes, [4, 1, H, W], [4, D, 1, W] and [4, D, H, 1].

    What registration changed goes into `quality`: similarity of each sequence to t1c, and of t1c to the atlas, before and
    after (nearest neighbours both times: interpolation alone would raise it), and the way to the atlas in mm.
    """
    by_headers = np.eye(4)
    inside = np.argwhere(brain.voxels > 0)
    centre = brain.affine[:3, :3] @ ((inside.min(axis=0) + inside.max(axis=0)) / 2) + brain.affine[:3, 3]
    by_headers[:3, 3] = centre - _middle(atlas.target)
    quality["atlas_shift_mm"] = numbers.displacement(np.linalg.inv(by_headers) @ to_atlas, _middle(atlas.target))
    spacing = float(atlas.target.spacing[0])
    shape = np.array(atlas.target.voxels.shape)
    coarse = grid(COMPARED_MM, np.ceil(shape * spacing / COMPARED_MM).astype(int), _middle(atlas.target))
    template = resample(atlas.target, coarse, np.eye(4), nearest=True).voxels

    def placed(
        onto: Image, pose: np.ndarray, between: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        moved = {n: resample(images[n], onto, between[n] @ pose, nearest=True).voxels for n in SEQUENCES}
        return moved, resample(brain, onto, pose, nearest=True).voxels > 0

    unmoved = dict.fromkeys(SEQUENCES, np.eye(4))
    for suffix, pose, between in (("_before", by_headers, unmoved), ("", to_atlas, to_t1c)):
        moved, mask = placed(coarse, pose, between)
        for name in ("t1n", "t2w", "t2f"):
            quality[f"{name}_similarity{suffix}"] = numbers.similarity(moved["t1c"][mask], moved[name][mask])
        t1c = np.where(mask, moved["t1c"], 0)[template > 0]
        quality[f"atlas_similarity{suffix}"] = numbers.similarity(t1c, template[template > 0])
    planes = []
    for axis in range(3):
        thin = np.where(np.arange(3) == axis, 1, shape)
        moved, mask = placed(grid(spacing, thin, _middle(atlas.target)), by_headers, unmoved)
        planes.append(np.stack([_scored(moved[name], mask) for name in SEQUENCES]))
    return planes


def _scored(voxels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inside = voxels[mask]
    spread = inside.std() if inside.size else 0.0
    return np.where(mask, (voxels - inside.mean()) / spread, 0) if spread > 0 else np.zeros_like(voxels)


def _mask_quality(mask: np.ndarray, atlas: Atlas, t1c_brain: Image, fitted: np.ndarray) -> dict[str, float]:
    """Size of the mask on the store's grid, and how well the brain fits the atlas once its size is taken out."""
    template = atlas.template.voxels
    brain = resample(Image((t1c_brain.voxels != 0).astype(np.float32), t1c_brain.affine), atlas.template, fitted).voxels
    moved = resample(t1c_brain, atlas.template, fitted).voxels
    one, other = brain > 0.5, template > 0
    both = one & other
    parts, islands = numbers.mask_parts(mask)
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1, 1:-1] = False
    return {
        "brain_ml": mask.sum() * float(np.prod(atlas.target.spacing)) / 1000,
        "atlas_dice": 2 * both.sum() / (one.sum() + other.sum()),
        "atlas_correlation": np.corrcoef(moved[both], template[both])[0, 1] if both.sum() > 1 else 0.0,
        "edge_share": (mask & edge).sum() / max(mask.sum(), 1),
        "mask_parts": parts,
        "mask_islands": islands,
    }


def _normalise(
    image: Image, mask: np.ndarray, correct: bool, name: str, quality: dict[str, float]
) -> tuple[np.ndarray, float]:
    """The z-scored brain, and its mean in SDs: what has to be added to get intensities again."""
    inside = image.voxels[mask]
    empty = float((inside == 0).mean())
    quality[f"{name}_empty"] = empty
    if empty > 0.25:
        raise ScanError(f"{name} covers only {1 - empty:.0%} of the brain")
    brain = Image(np.where(mask, np.maximum(image.voxels, 0), 0), image.affine)
    if correct:
        corrected = n4(brain, mask)
        quality[f"{name}_bias"] = numbers.bias_range(brain.voxels[mask], corrected.voxels[mask])
        brain = corrected
    inside = brain.voxels[mask]
    spread = float(inside.std())
    if not np.isfinite(spread) or spread == 0:
        raise ScanError(f"{name} is constant inside the brain")
    scored = np.clip((brain.voxels - inside.mean()) / spread, -MAX_SIGMA, MAX_SIGMA)
    quality[f"{name}_clipped"] = float((np.abs(scored[mask]) >= MAX_SIGMA).mean())
    return np.where(mask, scored, 0).astype(np.float32), float(inside.mean()) / spread
