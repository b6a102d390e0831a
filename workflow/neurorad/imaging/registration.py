"""Rigid alignment, composed resampling and N4, with ANTs in its deterministic mode."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ants
import numpy as np
from scipy.ndimage import binary_dilation

from neurorad.imaging.quality import similarity
from neurorad.imaging.scan import Image, ScanError

ants.config.set_ants_deterministic(on=True, seed_value=11)


def to_ants(image: Image) -> ants.ANTsImage:
    """An ITK image (LPS) of the same voxels."""
    flip = np.diag([-1.0, -1.0, 1.0])
    direction = flip @ (image.affine[:3, :3] / image.spacing)
    origin = flip @ image.affine[:3, 3]
    return ants.from_numpy(
        image.voxels.astype(np.float32), origin=tuple(origin), spacing=tuple(image.spacing), direction=direction
    )


def grid(spacing: float, shape: Sequence[int], centre: np.ndarray) -> Image:
    """An empty RAS+ image of `shape` voxels at `spacing` mm whose middle lies at `centre` (RAS mm)."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = centre - spacing * (np.asarray(shape) - 1) / 2
    return Image(np.zeros(tuple(shape), np.float32), affine)


WORKING_MM = 2.0
"""Registration works on copies at this spacing; the originals are interpolated once, at the end."""


def working_copy(image: Image) -> Image:
    """An isotropic copy at `WORKING_MM` that covers the non-zero part of the image, for registration only."""
    inside = np.argwhere(image.voxels != 0)
    corners = np.stack([inside.min(axis=0), inside.max(axis=0)]) @ image.affine[:3, :3].T + image.affine[:3, 3]
    extent = np.ptp(corners, axis=0) + 8 * WORKING_MM
    return resample(image, grid(WORKING_MM, np.ceil(extent / WORKING_MM).astype(int), corners.mean(axis=0)), np.eye(4))


MAX_FIELD = 5.0
"""Ratio of the 99.5th to the 0.5th percentile of a bias field that is still one. N4's fields of seven real patients and of
the phantom stay below 2.2; where too few points at the brain's edge hold the spline, it runs away to 50 and more."""


def n4(image: Image, mask: np.ndarray | None = None) -> Image:
    """N4 bias field correction (Tustison 2010), the field estimated at about 9 mm: it is smoother than that.

    Inside a mask it stops when an iteration changes the field by less than 0.05 %: of fields planted at four sites 0.15 to 0.37
    is left then (SD over SD); 0.1 % left more, in half the time. Voxels of 0 do not count: 40 of them in 61,000 made a field of 1.1 run
    away to 7. One that still does is estimated again with more points. A copy for registration (no mask) stops at 0.1 %,
    and 12 mm are enough.

    Raises:
        ScanError: it runs away at every resolution.
    """
    if mask is None:
        return _n4(image, None, 12, 1e-3)
    counted = mask & (image.voxels > 0)
    for detail in (9, 6, 3, 1):
        corrected = _n4(image, counted, detail, 5e-4)
        low, high = np.percentile(image.voxels[counted] / np.maximum(corrected.voxels[counted], 1e-9), [0.5, 99.5])
        if high <= MAX_FIELD * low:
            return corrected
    raise ScanError(f"bias field runs away (from {low:.2g} to {high:.2g} of the intensity)")


def _n4(image: Image, mask: np.ndarray | None, detail: float, tolerance: float) -> Image:
    """N4 on every nth voxel, about `detail` mm apart."""
    shrink = int(np.clip(round(detail / float(image.spacing.min())), 1, min(8, min(image.voxels.shape) // 8)))
    inside = None if mask is None else to_ants(Image(mask.astype(np.float32), image.affine))
    corrected = ants.n4_bias_field_correction(
        to_ants(image), mask=inside, shrink_factor=shrink, convergence={"iters": [50, 50, 30], "tol": tolerance}
    )
    return Image(corrected.numpy(), image.affine)


class Level(NamedTuple):
    """One level of a search: at most so many iterations, at 1 / shrink of the resolution, smoothed by so many voxels."""

    iterations: int
    shrink: int
    smoothing: int


FROM_FAR = (Level(1000, 6, 3), Level(500, 4, 2), Level(250, 2, 1))
"""Down to half the working resolution: on planted motions the last level moved the result by less than 0.1 mm and took
half of the time."""

NEARBY = (Level(500, 3, 2), Level(250, 2, 1))
"""From a start within some mm. A level of 12 mm would leave 900 points inside a brain, too few for mutual information:
it carried six of eight test scans 20 to 60 mm away."""

CLOSE_BY = (Level(250, 2, 1), Level(20, 1, 0))
"""The last level starts within some tenths of a mm: mutual information is flat after some ten steps, and each costs as
much as ten of the level before."""

SAMPLED_INSIDE = 0.2
"""Share of the voxels that count when there is a mask."""


def align(
    fixed: Image,
    moving: Image,
    scratch: Path,
    kind: str = "Rigid",
    inside: np.ndarray | None = None,
    start: np.ndarray | None = None,
    levels: tuple[Level, ...] = FROM_FAR,
) -> np.ndarray:
    """Transform that brings `moving` onto `fixed`, by Mattes mutual information.

    Args:
        kind: `Rigid` (6 parameters) or `Similarity` (7: one scale for all axes).
        inside: boolean mask on the grid of `fixed` of what counts: jaw, neck and fields of view that end elsewhere do
            not move with the brain. On a raw patient with slices of 5.5 mm the mutual information of T2 with T1c inside
            the brain was 0.36 with the brain's mask and 0.12 without, 14 degrees off.
        start: [4, 4] as the result, from which the search begins; else the centres of mass are laid on each other.
        levels: of the search, coarse to fine.

    Returns:
        [4, 4] matrix from fixed RAS mm to moving RAS mm (the direction in which images are resampled).

    Raises:
        ScanError: ANTs did not converge to a usable transform.
    """
    only = {} if inside is None else {"mask": to_ants(Image(inside.astype(np.float32), fixed.affine))}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if start is not None:
            only["initial_transform"] = _write_transform(start, Path(folder) / "start.mat")
        try:
            result = ants.registration(
                to_ants(fixed),
                to_ants(moving),
                type_of_transform=kind,
                aff_iterations=tuple(level.iterations for level in levels),
                aff_shrink_factors=tuple(level.shrink for level in levels),
                aff_smoothing_sigmas=tuple(level.smoothing for level in levels),
                aff_random_sampling_rate=0.1 if inside is None else SAMPLED_INSIDE,
                outprefix=str(Path(folder) / "align-"),
                **only,
            )
        except (RuntimeError, ValueError) as problem:
            raise ScanError(f"registration failed ({str(problem).splitlines()[0][:80]})") from problem
        transform = ants.read_transform(result["fwdtransforms"][0])
    linear = transform.parameters[:9].reshape(3, 3)
    centre = transform.fixed_parameters
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = transform.parameters[9:] + centre - linear @ centre
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix @ flip


def _write_transform(matrix: np.ndarray, path: Path) -> str:
    """A [4, 4] matrix in RAS mm as an ITK file (LPS)."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps = flip @ matrix @ flip
    parameters = np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])
    transform = ants.create_ants_transform("AffineTransform", dimension=3, parameters=parameters)
    ants.write_transform(transform, str(path))
    return str(path)


CLOSE_MM = 6.0
"""How far around the brain the last step looks: to the inside of the skull. At 4 mm, tissue alone, mutual information of T2
with T1c has its optimum 0.6 to 1.2 mm beside the motion planted in phantoms with a head, at 6 mm 0.2 mm; on a raw patient T2
and FLAIR then correlate better with their published versions (0.906 to 0.914 and 0.879 to 0.889)."""


def align_within_session(fixed: Image, moving: Image, brain: np.ndarray, scratch: Path) -> np.ndarray:
    """[4, 4] from fixed to moving RAS mm of two sequences of one session, whose t1c brain is known on `fixed`'s grid.

    First the brain with 2 cm around it: the skull holds even where tissues look alike. Then the brain and what lies close
    to it, as the jaw and the scalp do not move with it. Of both the one is kept that makes the brains more alike.
    """
    around = binary_dilation(brain, iterations=round(20 / WORKING_MM))
    alone = binary_dilation(brain, iterations=round(CLOSE_MM / WORKING_MM))

    def likeness(transform: np.ndarray) -> float:
        return similarity(fixed.voxels[alone], resample(moving, fixed, transform).voxels[alone])

    start = max(_starts(fixed, moving), key=likeness)
    near = align(fixed, moving, scratch, inside=around, start=start, levels=NEARBY)
    fine = align(fixed, moving, scratch, inside=alone, start=near, levels=CLOSE_BY)
    return max((near, fine), key=likeness)


def _starts(fixed: Image, moving: Image) -> tuple[np.ndarray, np.ndarray]:
    """The headers as they are, and the centres of mass laid on each other.

    Within a session headers are right to a few mm, while two fields of view may have centres of mass some cm apart;
    between exports with frames of their own it is the other way.
    """
    centred = np.eye(4)
    centred[:3, 3] = _centre_of_mass(moving) - _centre_of_mass(fixed)
    return np.eye(4), centred


def without_scale(matrix: np.ndarray, fixed: Image) -> np.ndarray:
    """The rigid part of a similarity: its rotation, about the centre of mass of the fixed brain.

    The MNI152 brain is about a fifth larger than a real one, and a rigid fit of brains of two sizes settles on a
    tilt that hides the difference. So the brain is fitted with its scale free, and the scale is then taken out.
    """
    pivot = _centre_of_mass(fixed)
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    rigid[:3, 3] = matrix[:3, :3] @ pivot + matrix[:3, 3] - rigid[:3, :3] @ pivot
    return rigid


def _centre_of_mass(image: Image) -> np.ndarray:
    weights = np.maximum(image.voxels, 0)
    voxel = [np.average(np.arange(n), weights=weights.sum(axis=other)) for n, other in _axes(image.voxels.shape)]
    return image.affine[:3, :3] @ voxel + image.affine[:3, 3]


def _axes(shape: tuple[int, ...]) -> list[tuple[int, tuple[int, int]]]:
    return [(shape[0], (1, 2)), (shape[1], (0, 2)), (shape[2], (0, 1))]


def resample(image: Image, onto: Image, transform: np.ndarray, nearest: bool = False) -> Image:
    """`image` on the grid of `onto`, in one interpolation; `transform` maps onto's RAS mm to image's RAS mm.

    Linear interpolation (nearest neighbour for labels). When the target is coarser than the source, the source is
    smoothed first (Gaussian, sigma = sqrt(target^2 - source^2) / 2.355 mm) so that nothing aliases.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    voxels = image.voxels
    step = np.abs(np.linalg.inv(image.affine)[:3, :3] @ transform[:3, :3] @ onto.affine[:3, :3]).max(axis=1)
    if not nearest and (step > 1.01).any():
        sigma = np.sqrt(np.maximum(step**2 - 1, 0)) / 2.355
        voxels = gaussian_filter(voxels, sigma, truncate=3)
    to_voxels = np.linalg.inv(image.affine) @ transform @ onto.affine
    moved = affine_transform(
        voxels, to_voxels[:3, :3], to_voxels[:3, 3], output_shape=onto.voxels.shape, order=0 if nearest else 1
    )
    return Image(moved.astype(np.float32), onto.affine)


def resample_inside(image: Image, inside: np.ndarray, onto: Image, transform: np.ndarray) -> Image:
    """As `resample`, of the voxels of a boolean mask alone; 0 where none of them is near.

    The weights of the others are left out and the rest scaled up (normalized convolution: Knutsson and Westin 1993, doi
    10.1109/CVPR.1993.341081), so that the edge of a brain is mixed neither with the zeros around a stripped one nor
    with the skull around another: by its edge alone a probe told the two apart.
    """
    weights = resample(Image(inside.astype(np.float32), image.affine), onto, transform).voxels
    summed = resample(Image(np.where(inside, image.voxels, 0).astype(np.float32), image.affine), onto, transform).voxels
    return Image(np.divide(summed, weights, out=np.zeros_like(summed), where=weights > 1e-3), onto.affine)


def resample_mask(mask: np.ndarray, image: Image, onto: Image, transform: np.ndarray) -> np.ndarray:
    """Boolean mask of `image`'s grid on the grid of `onto`, by linear interpolation of the signed distance to its edge.

    Shape-based interpolation (Raya and Udupa 1990, doi 10.1109/42.52980): between slices 5 mm apart the outline
    changes gradually, where nearest neighbour makes stairs.
    """
    from scipy.ndimage import distance_transform_edt

    inside = np.argwhere(mask)
    if not len(inside):
        return np.zeros(onto.voxels.shape, bool)
    # Beyond two voxels of the mask it is surely outside.
    low, high = inside.min(axis=0) - 2, inside.max(axis=0) + 3
    padded = np.pad(mask, 2)[tuple(slice(a + 2, b + 2) for a, b in zip(low, high, strict=True))]
    spacing = image.spacing
    distance = distance_transform_edt(padded, sampling=spacing) - distance_transform_edt(~padded, sampling=spacing)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return resample(Image(distance.astype(np.float32), affine), onto, transform).voxels > 0


def motion(transform: np.ndarray) -> tuple[float, float]:
    """Rotation angle in degrees and length of the translation in mm of a rigid [4, 4] matrix."""
    cosine = np.clip((np.trace(transform[:3, :3]) - 1) / 2, -1, 1)
    return float(np.degrees(np.arccos(cosine))), float(np.linalg.norm(transform[:3, 3]))
