"""From one scan's images to one volume: only the steps that its state still needs, and one interpolation.

Order (as the BraTS reference pipeline, CaPTk issue 1045, with the brain found first, so that jaw and neck cannot pull
at a registration): read and reorient; brain mask on t1c unless the scan is already stripped; brain to atlas; an
N4-corrected copy drives the registration of native sequences to t1c, inside the brain; every original sequence resampled
once onto the store's grid, from voxels of the brain alone; N4 inside the brain; z-score inside the brain with background
exactly 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nilearn
import numpy as np
from scipy.ndimage import binary_fill_holes

from neurorad.files import sha256
from neurorad.imaging import quality as numbers
from neurorad.imaging.brain import brain_mask, check_volume, methods
from neurorad.imaging.contrast import Landmarks, check_contrasts, contrasts
from neurorad.imaging.pictures import sheet
from neurorad.imaging.registration import (
    align,
    align_within_session,
    grid,
    motion,
    n4,
    resample,
    resample_inside,
    resample_mask,
    without_scale,
    working_copy,
)
from neurorad.imaging.scan import Image, ScanError, detected_state, read_image, same_grid, scan_state
from neurorad.nifti import read_geometry
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

MNI152 = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
MIN_ATLAS_DICE = 0.75
COMPARED_MM = 3.0
"""Similarity is measured on points this far apart: some 50,000 in a brain."""
MAX_SIGMA = 30.0
"""Intensities are clipped at this many standard deviations, so that a lone hot voxel fits float16 and harms nobody."""


@dataclass(frozen=True)
class Atlas:
    """A T1-weighted brain: `template` for alignment, `target` on the store's grid, `landmarks` on the template's."""

    template: Image
    target: Image
    landmarks: Landmarks

    @classmethod
    def load(cls, spacing: float, shape: tuple[int, int, int], source: dict[str, str] | None = None) -> "Atlas":
        """The user's atlas, or MNI152 (ICBM 2009a symmetric, brain only; from nilearn's wheel) without `source`.

        Where `spacing` and `shape` are those of the atlas itself, its own grid is the store's: volumes then overlay
        voxel by voxel on what others put on that atlas. Otherwise the store's grid has the atlas' brain in its middle.

        Args:
            source: `file`, a T1-weighted brain without skull, and its `sha256`.

        Raises:
            InputError: the file is missing, unreadable, another one than the sha256 says, or shows a skull.
        """
        brain = _own_atlas(source) if source else read_image(MNI152, "atlas")
        template = working_copy(brain)
        if brain.voxels.shape == tuple(shape) and np.allclose(brain.spacing, spacing, atol=1e-3):
            return cls(template, brain, Landmarks.of(template))
        inside = np.argwhere(brain.voxels > 0)
        centre = brain.affine[:3, :3] @ ((inside.min(axis=0) + inside.max(axis=0)) / 2) + brain.affine[:3, 3]
        return cls(template, resample(brain, grid(spacing, shape, centre), np.eye(4)), Landmarks.of(template))


def _own_atlas(source: dict[str, str]) -> Image:
    path = Path(source["file"])
    if not path.is_file():
        raise InputError(f"atlas {path}: no such file; mend `imaging: {{atlas: {{file: ...}}}}`")
    if (found := sha256(path)) != source["sha256"]:
        raise InputError(f"atlas {path}: has sha256 {found}, the config says {source['sha256']}")
    try:
        brain = read_image(path, "atlas")
    except ScanError as problem:
        raise InputError(f"{problem}; {path} is no atlas") from problem
    if detected_state(brain) != "stripped":
        raise InputError(f"atlas {path}: shows more than a brain; give the atlas without its skull")
    return brain


@dataclass(frozen=True)
class Volume:
    """`voxels` [4, D, H, W] float32, `tumour` uint8 [D, H, W] or None, `state` of the scan's images as it was detected,
    `present` the sequences that it has (the channels of others are 0), `brain` how its mask was made, the numbers of its
    QC, and its `pictures` (suffix of the file -> bytes).

    `transforms` lead from the volume's RAS mm to those of each sequence's file. With `affine` [4, 4] (volume voxel to RAS
    mm) and `grids` (shape and affine of each file as it was read) a map goes back to the scanner's own voxels.
    """

    voxels: np.ndarray
    tumour: np.ndarray | None
    state: str
    present: tuple[str, ...]
    brain: dict[str, Any]
    quality: dict[str, float]
    transforms: dict[str, list[list[float]]]
    affine: list[list[float]]
    grids: dict[str, dict[str, list]]
    pictures: dict[str, bytes]


def contract(settings: dict[str, Any]) -> dict[str, Any]:
    """What every volume of a study has in common; an encoder refuses volumes of another contract."""
    return {
        "sequences": list(SEQUENCES),
        "axes": "RAS",
        "spacing_mm": float(settings["spacing"]),
        "shape": list(settings["shape"]),
        "atlas": f"sha256 {settings['atlas']['sha256']}, rigid"
        if "atlas" in settings
        else "MNI152 ICBM 2009a symmetric, rigid",
        "interpolation": "linear, of voxels of the brain alone",
        "n4": bool(settings["n4"]),
        "normalisation": "z-score inside the brain, background 0",
        "missing_sequence": settings.get("missing_sequence", "exclude"),
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
        files: sequence -> NIfTI file. t1c must be there; a channel without a file is 0 where the settings allow it.
        tumour: the scan's tumour on any grid in t1c space (`read_mask`), if the release ships one.
        declared: states that the release documents (`stripped`, `defaced`, `skull`); the images must be in one of them.
        settings: the `imaging` block of the config (`spacing`, `shape`, `n4`, `brain_mask`, `missing_sequence`).

    Raises:
        ScanError: the scan cannot be trusted; the message is the reason.
    """
    missing = [name for name in SEQUENCES if name not in files]
    if missing and (settings.get("missing_sequence", "exclude") == "exclude" or "t1c" in missing):
        raise ScanError(f"missing sequence {', '.join(missing)}")
    images = {name: read_image(files[name], name) for name in SEQUENCES if name in files}
    state = scan_state(images, declared)
    quality: dict[str, float] = {}
    brain = _find_brain(images, state, settings, atlas, scratch, threads, device)
    to_t1c = _to_t1c(images, brain.mask, scratch, quality)
    to_atlas = without_scale(brain.fitted, atlas.template)
    quality["atlas_rotation_deg"] = motion(to_atlas)[0]
    mask = resample_mask(brain.mask, images["t1c"], atlas.target, to_atlas)
    quality |= brain.overlap | _mask_quality(mask, atlas)
    seen = contrasts(images, {name: to_t1c[name] @ brain.fitted for name in images}, atlas.landmarks)
    check_contrasts(seen)
    quality |= seen
    shown = Image(brain.mask.astype(np.float32), images["t1c"].affine)
    before = _before_and_after(images, shown, atlas, to_t1c, to_atlas, quality)
    voxels, inside = np.zeros((len(SEQUENCES), *mask.shape), np.float32), {}
    for channel, name in enumerate(SEQUENCES):
        if name in images:
            own = _on_its_grid(brain.mask, images["t1c"], images[name], to_t1c[name])
            moved = resample_inside(images[name], own, atlas.target, to_t1c[name] @ to_atlas)
            voxels[channel], offset = _normalise(moved, mask, bool(settings["n4"]), name, quality)
            inside[name] = voxels[channel][mask] + offset
            quality[f"{name}_saturated"] = numbers.saturated(images[name].voxels)
    if "t1n" in inside:
        quality |= numbers.tissue_quality(inside)
    labels = None
    if tumour is not None:
        labels = (resample(tumour, atlas.target, to_atlas, nearest=True).voxels > 0).astype(np.uint8)
    return Volume(
        voxels,
        labels,
        state,
        tuple(images),
        brain.card,
        {k: round(float(v), 4) for k, v in quality.items()},
        {name: (to_t1c[name] @ to_atlas).round(6).tolist() for name in images},
        atlas.target.affine.tolist(),
        {name: _grid(files[name]) for name in images},
        sheet(voxels, before, atlas.target.voxels),
    )


def _on_its_grid(brain: np.ndarray, t1c: Image, image: Image, to_image: np.ndarray) -> np.ndarray:
    """The brain's mask on the grid of another sequence; what that sequence does not show (0) is no brain."""
    if not (same_grid([t1c, image]) and np.array_equal(to_image, np.eye(4))):
        brain = resample_mask(brain, t1c, image, np.linalg.inv(to_image))
    return brain & (image.voxels != 0)


def _grid(path: Path) -> dict[str, list]:
    found = read_geometry(path)
    return {"shape": list(found.shape), "affine": found.affine.tolist()}


@dataclass(frozen=True)
class _Brain:
    """`mask` on the grid of t1c, `fitted` [4, 4] from atlas RAS mm to t1c RAS mm (a similarity), `overlap` with the
    atlas in numbers, `card` which method made it and why others before it did not."""

    mask: np.ndarray
    fitted: np.ndarray
    overlap: dict[str, float]
    card: dict[str, Any]


def _find_brain(
    images: dict[str, Image],
    state: str,
    settings: dict[str, Any],
    atlas: Atlas,
    scratch: Path,
    threads: int,
    device: str,
) -> _Brain:
    """The brain of a scan, by the first method whose mask looks like one and fits the atlas.

    A stripped scan is never stripped again: its brain is what it shows.

    Raises:
        ScanError: no method found a brain; the message has the reason of each.
    """
    t1c = images["t1c"]
    if state == "stripped":
        shown = [*images.values()] if same_grid([*images.values()]) else [t1c]
        mask = binary_fill_holes(np.any([image.voxels != 0 for image in shown], axis=0))
        check_volume(mask, t1c.spacing)
        return _Brain(mask, *_fit(t1c, mask, atlas, scratch), {"method": "as released"})
    failed: dict[str, str] = {}
    for method in methods(settings["brain_mask"]):
        try:
            mask = brain_mask(t1c, method, settings["brain_mask"], scratch, threads, device)
            return _Brain(mask, *_fit(t1c, mask, atlas, scratch), {"method": method, "failed": failed})
        except ScanError as problem:
            failed[method] = str(problem)
    reasons = [why if why.startswith(method) else f"{method}: {why}" for method, why in failed.items()]
    raise ScanError("; ".join(reasons))


def _fit(t1c: Image, mask: np.ndarray, atlas: Atlas, scratch: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Similarity of the atlas to the brain, and how well they overlap then: the brain's size is taken out.

    Raises:
        ScanError: hardly; what was found is no brain.
    """
    brain = Image(np.where(mask, t1c.voxels, 0), t1c.affine)
    fitted = align(atlas.template, working_copy(brain), scratch, "Similarity")
    template = atlas.template.voxels
    covered = resample(Image((brain.voxels != 0).astype(np.float32), brain.affine), atlas.template, fitted).voxels
    moved = resample(brain, atlas.template, fitted).voxels
    one, other = covered > 0.5, template > 0
    both = one & other
    dice = 2 * both.sum() / (one.sum() + other.sum())
    if dice < MIN_ATLAS_DICE:
        raise ScanError(f"brain overlaps the atlas with Dice {dice:.2f} only (limit {MIN_ATLAS_DICE})")
    return fitted, {"atlas_dice": dice, "atlas_correlation": np.corrcoef(moved[both], template[both])[0, 1]}


def _to_t1c(
    images: dict[str, Image], brain: np.ndarray, scratch: Path, quality: dict[str, float]
) -> dict[str, np.ndarray]:
    """Transforms of each sequence from t1c space: identities where they already share one grid."""
    transforms = dict.fromkeys(images, np.eye(4))
    quality["max_motion_mm"] = 0.0
    if same_grid([*images.values()]):
        return transforms
    positive = {name: Image(np.maximum(image.voxels, 0), image.affine) for name, image in images.items()}
    corrected = {name: n4(working_copy(image)) for name, image in positive.items()}
    fixed = corrected["t1c"]
    inside = resample_mask(brain, images["t1c"], fixed, np.eye(4))
    # Where the brain is in t1c: a head turns about its neck, and a translation at the scanner's origin says little.
    centre = fixed.affine[:3, :3] @ np.argwhere(inside).mean(axis=0) + fixed.affine[:3, 3]
    for name in images:
        if name != "t1c":
            transforms[name] = align_within_session(fixed, corrected[name], inside, scratch)
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
    coarse = grid(COMPARED_MM, np.ceil(shape * spacing / COMPARED_MM).astype(int).tolist(), _middle(atlas.target))
    template = resample(atlas.target, coarse, np.eye(4), nearest=True).voxels

    def placed(
        onto: Image, pose: np.ndarray, between: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        moved = {n: resample(images[n], onto, between[n] @ pose, nearest=True).voxels for n in images}
        return moved, resample(brain, onto, pose, nearest=True).voxels > 0

    unmoved = dict.fromkeys(images, np.eye(4))
    for suffix, pose, between in (("_before", by_headers, unmoved), ("", to_atlas, to_t1c)):
        moved, mask = placed(coarse, pose, between)
        for name in (n for n in images if n != "t1c"):
            quality[f"{name}_similarity{suffix}"] = numbers.similarity(moved["t1c"][mask], moved[name][mask])
        t1c = np.where(mask, moved["t1c"], 0)[template > 0]
        quality[f"atlas_similarity{suffix}"] = numbers.similarity(t1c, template[template > 0])
    planes = []
    for axis in range(3):
        thin = np.where(np.arange(3) == axis, 1, shape)
        moved, mask = placed(grid(spacing, thin.tolist(), _middle(atlas.target)), by_headers, unmoved)
        planes.append(np.stack([_scored(moved.get(name, np.zeros(thin)), mask) for name in SEQUENCES]))
    return planes


def _scored(voxels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inside = voxels[mask]
    spread = inside.std() if inside.size else 0.0
    return np.where(mask, (voxels - inside.mean()) / spread, 0) if spread > 0 else np.zeros_like(voxels)


def _mask_quality(mask: np.ndarray, atlas: Atlas) -> dict[str, float]:
    """Size of the mask on the store's grid, and the share of it that the grid's edge cuts."""
    parts, islands = numbers.mask_parts(mask)
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1, 1:-1] = False
    return {
        "brain_ml": mask.sum() * float(np.prod(atlas.target.spacing)) / 1000,
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
