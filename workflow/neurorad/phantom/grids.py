"""The voxel grids the phantom is rendered on: the releases' atlas grids and scanners' own."""

from dataclasses import dataclass

import numpy as np

# nibabel affines (RAS mm) of the releases' 1 mm grids.
_ATLASES = {
    "sri24": ((240, 240, 155), np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
    "mni152-182": ((182, 218, 182), np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1.0]])),
}

SRI24_TO_MNI = np.array(
    [
        [1.0839, 0.0029, 0.0214, 126.7578],
        [0.0126, 1.0264, 0.2054, -141.1437],
        [-0.0154, -0.2097, 1.1379, -54.8574],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""RAS mm of the SRI24 atlas to RAS mm of MNI152 (ICBM 2009a): one affine ANTs registration of the two T1 brains."""


@dataclass(frozen=True)
class Grid:
    """`shape` voxels; `affine` [4, 4] from voxel index to RAS mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """`[3]`, mm a voxel along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def atlas_grid(name: str, spacing: float) -> Grid:
    """The release's grid with voxels of `spacing` mm over the same field of view; spacing 1 is the release's own.

    Args:
        name: `sri24` (BraTS, LPS-stored 240 x 240 x 155) or `mni152-182` (FSL's 182 x 218 x 182).
        spacing: mm; where it does not divide the field of view, the last slice reaches past it.
    """
    shape, affine = _ATLASES[name]
    coarse = affine.copy()
    coarse[:3, :3] *= spacing
    # The corner of the field of view stays: the middle of the first voxel moves inwards.
    coarse[:3, 3] += affine[:3, :3] @ np.full(3, (spacing - 1) / 2)
    x, y, z = (int(np.ceil(n / spacing)) for n in shape)
    return Grid((x, y, z), coarse)


def native_grid(
    plane: str, in_plane: float, slice_spacing: float, centre: np.ndarray, tilt: float, to_anterior: bool = False
) -> Grid:
    """A scanner's grid around `centre`: rows, columns, then slices, as DICOM counts them.

    Args:
        plane: `axial` (columns to the left, rows to the back, slices upwards) or `sagittal` (columns to the
            back, rows downwards, slices to the left).
        in_plane: voxel in mm within the slice.
        slice_spacing: distance of slices in mm.
        centre: RAS mm of the middle of the field of view.
        tilt: degrees of rotation about the left-right axis.
        to_anterior: rows counted from the back, as dcm2niix writes NIfTI (axial only).
    """
    axes = {
        "axial": np.array([[-1, 0, 0], [0, 1 if to_anterior else -1, 0], [0, 0, 1.0]]).T,
        "sagittal": np.array([[0, -1, 0], [0, 0, -1], [-1, 0, 0.0]]).T,
    }[plane]
    extent = {"axial": (230, 230, 168), "sagittal": (230, 230, 184)}[plane]
    angle = np.radians(tilt)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    steps = np.array([in_plane, in_plane, slice_spacing])
    shape = tuple(round(length / step) for length, step in zip(extent, steps, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ axes * steps
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def rigid(degrees: np.ndarray, shift: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[4, 4] matrix: rotation by `degrees` about x, y, z in turn, around `centre`, then `shift` (mm)."""
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    return matrix
