"""One person's head: the MNI152 tissue maps under a smooth, invertible deformation of their own.

Frames: *template* is MNI152 (ICBM 2009a symmetric) RAS mm; *person* is where this person's tissue lies,
template point = person point x scale + displacement(person point).
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import nibabel as nib
import numpy as np
from scipy.ndimage import (
    binary_closing,
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    generate_binary_structure,
    map_coordinates,
)

CONTROL_ORIGIN = np.array([-130.0, -170.0, -150.0])
CONTROL_STEP = 36.0
CONTROL_SHAPE = (9, 10, 9)
CONTROL_LIMIT = 0.38 * CONTROL_STEP
"""A cubic B-spline deformation is one-to-one if every coefficient is below 0.403 control steps (Choi and Lee 2000)."""

_FIELD_STEP = 6.0
HEAD_PADDING = 48
"""Voxels (mm) added below the template, so that a head has a neck."""


@dataclass(frozen=True)
class Template:
    """The brain: `maps` uint8 [4, X, Y, Z] = fractions of csf, gm, wm, vessel (255 = all), 1 mm voxels.

    `origin` is the template RAS mm of voxel (0, 0, 0); `box` [2, 3] the first and last voxel that holds brain.
    """

    maps: np.ndarray
    origin: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class Head:
    """Around the brain, float32 [X, Y, Z] with 2 mm voxels from `origin` (template RAS mm).

    `outside`: mm outside the hull of the brain; `depth`: mm below the skin, negative in air.
    """

    outside: np.ndarray
    depth: np.ndarray
    origin: np.ndarray


@dataclass(frozen=True)
class Person:
    """Anatomy: `scale` (3,), B-spline `coefficients` [3, 9, 10, 9] mm, `atrophy` = factor on CSF."""

    scale: np.ndarray
    coefficients: np.ndarray
    atrophy: float


def _map(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = files("nilearn.datasets.data") / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.Nifti1Image.from_filename(str(path))
    return np.asarray(image.dataobj), image.affine[:3, 3]


def _hull(t1: np.ndarray) -> np.ndarray:
    """The brain with its sulci and ventricles, bool."""
    ball = generate_binary_structure(3, 1)
    return binary_fill_holes(binary_closing(t1 > 0, ball, iterations=5))


@lru_cache(maxsize=1)
def template(smoothing: float) -> Template:
    """The MNI152 maps of nilearn's wheel, smoothed by a Gaussian of `smoothing` mm SD against aliasing.

    CSF is what the hull of the brain holds beside grey and white matter; veins and choroid plexus, which
    make a contrast-enhanced scan recognisable, are added where they run.
    """
    t1, origin = _map("t1")
    occupied = (
        np.argwhere(t1.any((1, 2)))[[0, -1], 0],
        np.argwhere(t1.any((0, 2)))[[0, -1], 0],
        np.argwhere(t1.any((0, 1)))[[0, -1], 0],
    )
    first = np.array([max(int(axis[0]) - 8, 0) for axis in occupied])
    cut = tuple(slice(a, int(axis[1]) + 9) for a, axis in zip(first, occupied, strict=True))
    origin = origin + first
    hull = _hull(t1[cut])
    gm, wm = _map("gm")[0][cut].astype(np.float32), _map("wm")[0][cut].astype(np.float32)
    csf = np.where(hull, np.clip(255 - gm - wm, 0, 255), 0)
    vessel = _vessels(origin, hull, csf)
    total = np.maximum(csf + gm + wm, 1)
    maps = np.empty((4, *hull.shape), np.uint8)
    for index, tissue in enumerate((csf, gm, wm, None)):
        fraction = vessel if tissue is None else tissue / total * (1 - vessel)
        maps[index] = np.round(gaussian_filter(np.where(hull, fraction, 0).astype(np.float32), smoothing) * 255)
    voxels = np.argwhere(hull)
    return Template(maps, origin, np.array([voxels.min(0), voxels.max(0)]))


def _axes(origin: np.ndarray, shape: tuple[int, ...], step: float) -> list[np.ndarray]:
    """Template mm along x, y, z, shaped to broadcast over `shape`."""
    return [
        (origin[k] + step * np.arange(n)).reshape([-1 if axis == k else 1 for axis in range(3)])
        for k, n in enumerate(shape)
    ]


def _vessels(origin: np.ndarray, hull: np.ndarray, csf: np.ndarray) -> np.ndarray:
    """Fraction of venous blood, choroid plexus and falx, float32 [X, Y, Z] in 0-1.

    Superior sagittal, straight and transverse sinus; plexus in the atria of the lateral ventricles.
    """
    inside = distance_transform_edt(hull[::2, ::2, ::2], sampling=2.0).astype(np.float32)
    inside = inside.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in hull.shape)]
    x, y, z = _axes(origin, hull.shape, 1.0)
    sagittal = (np.abs(x) < 3) & (inside < 6) & hull & (z > 0) & (y < 55)
    straight = (np.abs(x) < 2) & (np.abs(z - 26 - 0.35 * y) < 2) & (y < -45) & (y > -80)
    transverse = (np.abs(z + 14 - 0.02 * np.abs(x)) < 3) & (inside < 4) & hull & (y < -50)
    plexus = (np.hypot(np.abs(x) - 23, np.hypot(y + 42, (z - 12) / 1.5)) < 4) & (csf > 90)
    falx = (np.abs(x) < 0.8) & (inside > 3) & (inside < 22) & (csf > 60) & (z > 10)
    vessel = np.where(sagittal | straight | transverse, np.float32(0.75), np.float32(0))
    return np.where(plexus, np.float32(0.6), np.where(falx, np.float32(0.25), vessel))


@lru_cache(maxsize=1)
def head() -> Head:
    """Scalp, face and neck around the template's brain; no person's, so no face that could be recognised."""
    t1, origin = _map("t1")
    padded = np.pad(_hull(t1)[::2, ::2, ::2], ((0, 0), (0, 0), (HEAD_PADDING // 2, 0)))
    origin = origin - np.array([0, 0, HEAD_PADDING])
    outside = distance_transform_edt(~padded, sampling=2.0)
    x, y, z = _axes(origin, padded.shape, 2.0)
    face = (x / 62) ** 2 + ((y - 20) / 72) ** 2 + ((z + 62) / 58) ** 2 < 1
    neck = ((x / 58) ** 2 + ((y + 38) / 55) ** 2 < 1) & (z < -45)
    skin = gaussian_filter(np.where((outside < 15) | face | neck, 1.0, -1.0), 2.0) > 0
    depth = distance_transform_edt(skin, sampling=2.0) - distance_transform_edt(~skin, sampling=2.0)
    nose = (x / 14) ** 2 + ((y - 58) / 24) ** 2 + ((z + 58) / 20) ** 2 < 1
    throat = (np.hypot(x / 9, (y - 10) / 7) < 1) & (z < -70)
    depth = np.where((nose | throat) & (outside > 3), -4.0, depth)
    return Head(outside.astype(np.float32), depth.astype(np.float32), origin)


def person(rng: np.random.Generator, age: float) -> Person:
    """Draw an anatomy: size +-4 % an axis, displacements of about 3 mm, CSF that grows with age."""
    scale = 1 / np.clip(rng.normal(1.0, 0.025) * rng.normal(1.0, 0.02, 3), 0.9, 1.1)
    coefficients = np.clip(rng.normal(0, 6.5, (3, *CONTROL_SHAPE)), -CONTROL_LIMIT, CONTROL_LIMIT)
    atrophy = float(np.clip(np.exp(0.012 * (age - 50) + rng.normal(0, 0.2)), 0.5, 2.2))
    return Person(scale, coefficients, atrophy)


def displacement(coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """B-spline displacement [3, ...] in mm at person points [3, ...] (RAS mm), from coefficients [3, *CONTROL_SHAPE]."""
    index = (points - CONTROL_ORIGIN.reshape(3, *[1] * (points.ndim - 1))) / CONTROL_STEP
    return np.stack([map_coordinates(c, index, order=3, prefilter=False, mode="nearest") for c in coefficients])


def to_template(someone: Person, points: np.ndarray) -> np.ndarray:
    """Template points [3, N] float32 of person points [3, N].

    The displacement varies over 36 mm, so it is evaluated every 6 mm and interpolated linearly between.
    """
    extent = (np.array(CONTROL_SHAPE) - 1) * CONTROL_STEP
    axes = [
        np.arange(0, length + _FIELD_STEP, _FIELD_STEP) + start
        for start, length in zip(CONTROL_ORIGIN, extent, strict=True)
    ]
    field = displacement(someone.coefficients, np.stack(np.meshgrid(*axes, indexing="ij"))).astype(np.float32)
    index = ((points - CONTROL_ORIGIN[:, None]) / _FIELD_STEP).astype(np.float32)
    moved = np.empty(points.shape, np.float32)
    for axis in range(3):
        moved[axis] = points[axis] * someone.scale[axis] + map_coordinates(field[axis], index, order=1, mode="nearest")
    return moved


def sample(maps: np.ndarray, points: np.ndarray, origin: np.ndarray, step: float, beyond: float = 0.0) -> np.ndarray:
    """`maps` [X, Y, Z] at template points [3, N] by linear interpolation, float32 [N]; `beyond` past the edge."""
    index = (points - origin[:, None].astype(np.float32)) / np.float32(step)
    return map_coordinates(maps, index, output=np.float32, order=1, mode="constant", cval=beyond)
