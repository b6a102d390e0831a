"""What a NIfTI file says of itself, without decoding a voxel."""

import os
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np

MAX_VOXELS = 512 * 512 * 1024
SAME_GRID_MM = 1e-3
"""Affines that differ by less are one grid: more than what rounding of a header does, less than any motion."""
_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_READ_BYTES = 4096
_KNOWN_IMPOSTORS = (
    (b"version https://git-lfs", "is a Git LFS pointer; fetch the content (git lfs pull)"),
    (b"/annex/objects/", "is a git-annex pointer; fetch the content (git annex get)"),
    (b"<", "is a web page or XML, a download that failed"),
)


class NiftiError(Exception):
    """A file that is no usable NIfTI image; the message says why, without the file's name."""


@dataclass(frozen=True)
class Geometry:
    """`shape` [X, Y, Z] in voxels; `affine` [4, 4] from voxel index to RAS mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """`[3]`, mm a voxel along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def __eq__(self, other: object) -> bool:
        """One grid: equal shapes, and affines equal to `SAME_GRID_MM`."""
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and bool(np.abs(self.affine - other.affine).max() < SAME_GRID_MM)


def read_geometry(path: str | os.PathLike) -> Geometry:
    """Shape and affine from the header alone: the first 4 KB of the file, parsed by nibabel.

    A trailing axis of length 1 is dropped.

    Raises:
        NiftiError: unreadable, something else than NIfTI, not three-dimensional, absurd in size, no orientation or two
            that contradict each other, or values that are no numbers (RGB, complex).
    """
    header = _header(_first_bytes(path, str(path).endswith(".gz")))
    shape = header.get_data_shape()
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    named = "x".join(map(str, shape))
    if len(shape) != 3:
        raise NiftiError(f"expected a 3D image, got shape {named}")
    if np.prod(shape, dtype=float) > MAX_VOXELS or min(shape) < 2:
        raise NiftiError(f"implausible shape {named}")
    if header.get_data_dtype().kind not in "iuf":
        raise NiftiError(f"voxels of type {header['datatype']} (RGB or complex) are no intensities")
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise NiftiError("header has no orientation (sform and qform codes are 0)")
    affine = header.get_best_affine()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise NiftiError("orientation matrix is singular")
    _check_orientations(header)
    return Geometry(shape, affine)


def _check_orientations(header: nib.Nifti1Header) -> None:
    """sform and qform, where a file has both, name the same axes: readers differ in which they believe.

    Raises:
        NiftiError: they contradict each other, and left and right may be exchanged.
    """
    if not (int(header["sform_code"]) and int(header["qform_code"])):
        return
    try:
        said = ["".join(nib.aff2axcodes(matrix)) for matrix in (header.get_sform(), header.get_qform())]
    except (ValueError, TypeError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError) as problem:
        raise NiftiError("qform is no orientation") from problem
    if said[0] != said[1]:
        raise NiftiError(f"sform says {said[0]} and qform {said[1]}: left and right may be exchanged")


def _first_bytes(path: str | os.PathLike, compressed: bool) -> bytes:
    try:
        with open(path, "rb") as stream:
            raw = stream.read(_READ_BYTES)
    except FileNotFoundError as problem:
        raise NiftiError("file is missing") from problem
    except OSError as problem:
        raise NiftiError(f"cannot be read ({problem.strerror})") from problem
    if not raw:
        raise NiftiError("not a readable NIfTI file (empty)")
    for start, why in _KNOWN_IMPOSTORS:
        if raw.lstrip().startswith(start):
            raise NiftiError(f"not a readable NIfTI file ({why})")
    if raw.startswith(b"\x1f\x8b") != compressed:
        raise NiftiError(
            "not a readable NIfTI file (named .gz but not compressed)"
            if compressed
            else "not a readable NIfTI file (compressed but not named .gz)"
        )
    if not compressed:
        return raw[:_HEADER_BYTES]
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, _HEADER_BYTES)
    except zlib.error as problem:
        raise NiftiError("not a readable NIfTI file (damaged compression)") from problem


def _header(raw: bytes) -> nib.Nifti1Header:
    kind = nib.Nifti2Header if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    try:
        header = kind(raw[:size])
        if header["magic"].item() not in (b"n+1", b"n+2"):
            raise NiftiError("not a readable NIfTI file (no NIfTI magic)")
        header.get_data_dtype()
    except (nib.wrapstruct.WrapStructError, nib.spatialimages.HeaderDataError) as problem:
        raise NiftiError(f"not a readable NIfTI file ({problem})") from problem
    return header
