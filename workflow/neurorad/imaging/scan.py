"""Reading one scan's images whole, and refusing by name what cannot be trusted."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from scipy.ndimage import label

from neurorad.nifti import Geometry, NiftiError, read_geometry


class ScanError(Exception):
    """A scan that must be left out; the message is the reason in `excluded.tsv`."""


@dataclass(frozen=True)
class Image:
    """One sequence: `voxels` float32 [X, Y, Z] in RAS+ order, `affine` [4, 4] voxel to RAS mm."""

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """`[3]`, mm a voxel along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


MAX_NEGATIVE = 0.1
"""Share of the voxels other than 0 that may be negative. Interpolation leaves under 1 % (0.9 % in the worst image of a
TCGA-LGG patient resampled by others, none in BraTS 2021); a z-score makes about half of a brain negative."""

MAX_STRIPPED_ML = 2400.0
"""No brain is larger; a head of which the same share of the image is air, is."""

FACE_SET_BACK, FACE_ZERO = 0.08, 0.5
"""A face is gone if it lies further behind the forehead than this share of the head's length, and if this share of what
is in front of it is exactly 0. Measured on 41 heads (one of TCGA-LGG in four sequences, one of a Siemens test series, 36
of the phantom): set back -0.05 to 0.03 and zero 0.00 to 0.06 as they are; 0.12 to 0.42 and 0.54 to 1.00 once the face
was cut off, by a plane below the forehead or by a box."""


def read_image(path: str | Path, name: str) -> Image:
    """Decode a NIfTI file completely and return it in RAS+ order.

    ANTs and ITK read a truncated .nii.gz without an error, with the missing slices zero; nibabel's full
    decode does not, so every image enters through here.

    Raises:
        ScanError: unreadable, truncated, not 3D, no orientation, NaN or infinite, constant, absurd in size, or
            normalised already (bias correction needs positive intensities).
    """
    image = _decode(path, name)
    voxels = image.voxels
    if voxels.min() == voxels.max():
        raise ScanError(f"{name}: constant image")
    # Integers that a header scales (slope, intercept) may leave a background of 1e-5 instead of 0.
    voxels[np.abs(voxels) < 1e-6 * np.abs(voxels).max()] = 0
    inside = voxels[voxels != 0]
    if (negative := float((inside < 0).mean())) > MAX_NEGATIVE:
        raise ScanError(
            f"{name}: {negative:.0%} of the voxels other than 0 are negative (mean {inside.mean():.3g}, SD "
            f"{inside.std():.3g}): normalised already, as by a z-score; give the images as they were released"
        )
    return image


def read_mask(path: str | Path, tumour_labels: tuple[int, ...], cavity_labels: tuple[int, ...]) -> Image:
    """The tumour of a release's mask, 1 in it and 0 elsewhere; a resection cavity is no tumour. It may be empty.

    Args:
        tumour_labels, cavity_labels: every value that the release documents, besides 0.

    Raises:
        ScanError: unreadable, as `read_image`, or a value that the release does not document.
    """
    image = _decode(path, "tumour mask")
    values = np.unique(image.voxels)
    # 0.9999999 for 1 is what a header's slope makes of it.
    wrong = [v for v in values if abs(v - round(v)) > 1e-3 or round(v) not in {0, *tumour_labels, *cavity_labels}]
    if wrong:
        known = f"tumour {', '.join(map(str, tumour_labels))}"
        known += f"; cavity {', '.join(map(str, cavity_labels))}" if cavity_labels else ""
        raise ScanError(f"tumour mask: value {wrong[0]:g} is none of the release's labels ({known})")
    return Image(np.isin(np.round(image.voxels), tumour_labels).astype(np.float32), image.affine)


def _decode(path: str | Path, name: str) -> Image:
    try:
        shape = read_geometry(path).shape
        nifti = (
            _unpacked(path, int(np.prod(shape)))
            if str(path).endswith(".gz")
            else cast("nib.Nifti1Image", nib.load(path))
        )
        voxels = np.asarray(nifti.dataobj, dtype=np.float32).reshape(shape)
    except NiftiError as problem:
        raise ScanError(f"{name}: {problem}") from problem
    except (OSError, EOFError, ValueError, MemoryError) as problem:
        raise ScanError(f"{name}: truncated or damaged file ({type(problem).__name__})") from problem
    except Exception as problem:
        # zlib.error has no common parent with the others; anything else here is a decoder that gave up.
        raise ScanError(f"{name}: damaged file ({type(problem).__name__})") from problem
    bad = 1 - np.isfinite(voxels).mean()
    if bad > 0:
        raise ScanError(f"{name}: {bad:.2%} of the voxels are NaN or infinite")
    try:
        canonical = nib.as_closest_canonical(nib.Nifti1Image(voxels, nifti.affine))
    except (nib.orientations.OrientationError, ValueError, np.linalg.LinAlgError) as problem:
        raise ScanError(f"{name}: orientation matrix is degenerate") from problem
    return Image(np.ascontiguousarray(canonical.get_fdata(dtype=np.float32)), canonical.affine)


def _unpacked(path: str | Path, voxels: int) -> nib.Nifti1Image:
    """A .nii.gz decompressed to its very end, where gzip's checksum is: nibabel stops before it, and reads a file with
    damaged bytes without an error."""
    with gzip.open(path) as stream:
        # 16 bytes are the largest voxel, 1 MiB more than any header with extensions.
        content = stream.read(voxels * 16 + 2**20)
        if stream.read(1):
            raise ValueError("longer than its header says")
    kind = nib.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
    return kind.from_bytes(content)


def same_grid(images: list[Image]) -> bool:
    """True if all images are on one grid, by the rule that the inventory applies to headers."""
    first, *others = (Geometry(image.voxels.shape, image.affine) for image in images)
    return all(other == first for other in others)


def scan_state(images: Mapping[str, Image], declared: tuple[str, ...]) -> str:
    """State of a scan's images: `stripped`, `defaced` or `skull`.

    A head counts as defaced if one of its images shows it: in the others the face may be outside the field of view.

    Raises:
        ScanError: it is none of `declared`, or only some of the images are stripped.
    """
    states = {name: detected_state(image) for name, image in images.items()}
    kinds = set(states.values())
    if "defaced" in kinds:
        kinds.discard("skull")
    if len(kinds) > 1 or not kinds <= set(declared):
        found = ", ".join(f"{name} {state}" for name, state in states.items())
        raise ScanError(f"declared {' or '.join(declared)}, but detected {found}")
    return kinds.pop()


def detected_state(image: Image) -> str:
    """`stripped` (a brain), `defaced` (a head without face) or `skull` (a head).

    A stripped brain leaves more than half of the field of view at exactly 0, fills none of its faces, and is of a
    brain's size; air around a head is noise, not zero, or the head is larger.
    """
    zero = image.voxels == 0
    faces = [zero[0], zero[-1], zero[:, 0], zero[:, -1], zero[:, :, 0], zero[:, :, -1]]
    ml = (zero.size - zero.sum()) * np.prod(image.spacing) / 1000
    if zero.mean() > 0.5 and np.mean([face.mean() for face in faces]) > 0.95 and ml <= MAX_STRIPPED_ML:
        return "stripped"
    set_back, zero_in_front = face_profile(image)
    return "defaced" if set_back > FACE_SET_BACK and zero_in_front > FACE_ZERO else "skull"


def face_profile(image: Image) -> tuple[float, float]:
    """How far the face of a head lies behind its forehead, and how much of what is in front of it is exactly 0.

    Both near the midline, from the eyes to the tip of the nose, found by distance from the vertex in lengths of the
    head.

    Returns:
        Set-back in lengths of the head (negative: a nose), share from 0 to 1; both 0 where the field of view ends
        above the eyes, or shows no head.
    """
    # 4 mm are enough, and quick.
    steps = [max(1, round(4 / spacing)) for spacing in image.spacing]
    voxels = image.voxels[:: steps[0], :: steps[1], :: steps[2]]
    spacing = image.spacing * steps
    if not voxels.any():
        return 0.0, 0.0
    bright = voxels > 0.1 * np.percentile(voxels[voxels != 0], 98)
    components, _ = label(bright)
    head = components == np.bincount(components[bright]).argmax()
    occupied = np.flatnonzero(head.sum(axis=(0, 1)) * spacing[0] * spacing[1] > 500)
    if len(occupied) == 0:
        return 0.0, 0.0
    depth = (occupied[-1] - np.arange(head.shape[2])) * spacing[2]
    skull = head[:, :, (depth >= 0) & (depth <= 110)]
    columns = skull.any(axis=0)
    last = columns.shape[0] - 1
    length = float(
        (last - columns[::-1].argmax(axis=0) - columns.argmax(axis=0))[columns.any(axis=0)].max() * spacing[1]
    )
    across = np.flatnonzero(skull.any(axis=(1, 2)))
    middle, half = (across[0] + across[-1]) / 2, 0.15 * length / spacing[0]
    midline = slice(max(int(middle - half), 0), int(middle + half) + 1)
    profile = head[midline].any(axis=0)
    front = np.where(profile.any(axis=0), last - profile[::-1].argmax(axis=0), 0)
    forehead = (depth >= 0.20 * length) & (depth <= 0.55 * length)
    face = (depth >= 0.58 * length) & (depth <= 0.78 * length)
    if not forehead.any() or not face.any():
        return 0.0, 0.0
    foremost = front[face].max()
    before = voxels[midline, foremost + 1 :][:, :, face]
    set_back = (front[forehead].max() - foremost) * spacing[1] / length
    return float(set_back), float((before == 0).mean()) if before.size else 0.0
