"""Maps back in the scanner's own voxels, as NIfTI that lies over the images as they came."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

from neurorad.problems import InputError

NEEDED = ("affine", "grids", "transforms")


def on_scanner_grid(
    values: np.ndarray, card: Mapping[str, Any], sequence: str, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """A map of a volume on the grid of one sequence's file, by linear interpolation; 0 where the volume does not reach.

    Args:
        values: `[D, H, W]` on the volume's grid. card: the volume's, with `affine` (volume voxel to RAS mm), `transforms`
            (sequence -> [4, 4] from the volume's RAS mm to the file's) and `grids` (sequence -> shape and affine of the
            file). where: names the scan in a message.

    Returns:
        `[X, Y, Z]` float32 in the file's own order of voxels, and the file's affine [4, 4].

    Raises:
        InputError: the scan lacks the sequence, the map is not on the volume's grid, or the card is of an older version.
    """
    if missing := [name for name in NEEDED if name not in card]:
        raise InputError(f"{where}: its card lacks {', '.join(missing)}; make the volume again with this version")
    if sequence not in card["grids"]:
        raise InputError(f"{where}: has no {sequence}; it has {', '.join(card['grids'])}")
    if list(values.shape) != list(card["shape"][1:]):
        raise InputError(f"{where}: map {list(values.shape)} is not on the volume's grid {list(card['shape'][1:])}")
    grid = card["grids"][sequence]
    affine = np.array(grid["affine"], float)
    to_volume = np.linalg.inv(np.array(card["affine"])) @ np.linalg.inv(np.array(card["transforms"][sequence])) @ affine
    moved = affine_transform(
        values.astype(np.float32), to_volume[:3, :3], to_volume[:3, 3], tuple(grid["shape"]), order=1, prefilter=False
    )
    return moved, affine


def nifti_bytes(values: np.ndarray, affine: np.ndarray) -> bytes:
    """A .nii.gz of `values` and nothing else: no name, no date, no text in header or archive; the same bytes each time."""
    image = nib.Nifti1Image(values.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, "scanner")
    image.set_qform(affine, "scanner", strip_shears=True)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=6) as stream:
        stream.write(image.to_bytes())
    return packed.getvalue()
