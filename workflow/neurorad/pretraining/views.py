"""Random views of a batch of volumes, made on the device that trains; each sample has its own seed.

Every random number of a sample comes from its seed, so a view depends neither on the other samples of the batch
nor on the number of workers. Effects that a sample does not get are drawn as the identity: no branch, no host sync.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from neurorad.pretraining.artefacts import along_axes, blur_matrix, gibbs_matrix, low_resolution_matrix
from neurorad.problems import InputError
from neurorad.seeds import seed_of

CELLS = 8
"""The volume is divided into 8 x 8 x 8 cells; a crop is centred in a cell that holds brain."""

BIAS_KNOTS = 4
"""Knots of the bias field along an axis."""


@dataclass(frozen=True)
class Crop:
    """`size`: voxels along an edge of the view. `scale`: the range of the cube's edge in the volume, as a fraction
    of the volume's shortest axis."""

    size: int
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"preset: crop size {self.size} must be at least 8 and scale {self.scale} within (0, 1]")


@dataclass(frozen=True)
class Geometry:
    """`flip`: probability of a left-right mirror. `rotation`: largest angle about each axis in degrees.
    `stretch`: largest relative change of the edge of the crop, each axis on its own."""

    flip: float
    rotation: float
    stretch: float


@dataclass(frozen=True)
class Intensity:
    """`probability` holds for each effect and sequence. `gamma`, `contrast`: largest factor g, drawn log-uniformly in
    [1/g, g]. `brightness`: largest shift as a fraction of the intensity range. `bias`: standard deviation of the log
    of the bias field. `blur`: largest sigma in voxels. `low_resolution`: largest factor by which voxels grow. `gibbs`:
    largest part of k-space cut off along each axis. `noise`: largest standard deviation in units of the z-score.
    `sequence_dropout`: probability that a sequence is absent; one always stays."""

    probability: float
    gamma: float
    brightness: float
    contrast: float
    bias: float
    blur: float
    low_resolution: float
    gibbs: float
    noise: float
    sequence_dropout: float

    def __post_init__(self) -> None:
        if self.gamma < 1 or self.contrast < 1 or self.low_resolution < 1 or not 0 <= self.gibbs < 1:
            raise InputError(
                "preset: intensity.gamma, contrast and low_resolution are factors of at least 1, gibbs lies in [0, 1)"
            )


def uniforms(seeds: Sequence[int], name: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """`[B, *shape]` in [0, 1), drawn on the CPU so that every device sees the same numbers."""
    rows = [torch.rand(*shape, generator=torch.Generator().manual_seed(seed_of(seed, name))) for seed in seeds]
    return torch.stack(rows).to(device)


def noises(seeds: Sequence[int], name: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """`[B, *shape]` standard normal, drawn on the device: too many numbers to move."""
    rows = [
        torch.randn(*shape, generator=torch.Generator(device).manual_seed(seed_of(seed, name)), device=device)
        for seed in seeds
    ]
    return torch.stack(rows)


@torch.no_grad()
def make_views(
    volumes: Tensor, seeds: Sequence[int], crops: Sequence[Crop], geometry: Geometry, intensity: Intensity | None
) -> list[Tensor]:
    """`[B, 4, D, H, W] -> [B, 4, s, s, s]` float32 for each crop; without `intensity` only the geometry is random.

    Background, and what lies outside the volume, is exactly 0. A sequence that a scan lacks (all 0) stays all 0.
    """
    brain = (volumes != 0).any(dim=1, keepdim=True)
    masked = torch.cat([volumes, brain], dim=1).float()
    views = []
    for number, crop in enumerate(crops):
        own = [seed_of(seed, "view", number) for seed in seeds]
        view, inside = _crop(masked, own, crop, geometry)
        views.append(view if intensity is None else _changed(view, inside, own, intensity))
    return views


def _crop(masked: Tensor, seeds: Sequence[int], crop: Crop, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """View and its brain, from volumes whose last channel is the brain, by one interpolation."""
    grid = sampling_grid(masked[:, -1:], seeds, crop, geometry)
    sampled = functional.grid_sample(masked, grid, align_corners=False)
    coverage = sampled[:, -1:]
    inside = coverage > 0.5
    # Dividing by the coverage keeps the background out of the interpolated brain edge.
    return torch.where(inside, sampled[:, :-1] / coverage.clamp_min(0.5), 0), inside


def _changed(view: Tensor, inside: Tensor, seeds: Sequence[int], intensity: Intensity) -> Tensor:
    present = (view != 0).any(dim=(2, 3, 4), keepdim=True)
    kept = keep_sequences(seeds, view.shape[1], intensity.sequence_dropout, view.device)
    return torch.where(inside & present & kept, change_intensity(view, inside, seeds, intensity), 0)


def sampling_grid(brain: Tensor, seeds: Sequence[int], crop: Crop, geometry: Geometry) -> Tensor:
    """`[B, 1, D, H, W] -> [B, s, s, s, 3]`: where each voxel of the view lies, in the coordinates of `grid_sample`.

    A cube about a point in the brain, moved so that the unrotated cube lies in the volume; then mirrored, stretched
    and rotated about its centre.
    """
    device, shape = brain.device, torch.tensor(brain.shape[2:], device=brain.device, dtype=torch.float32)
    draws = uniforms(seeds, "geometry", (12,), device)
    low, high = crop.scale
    edge = (low + (high - low) * draws[:, :1]) * shape.min()
    half = (edge / 2).expand(-1, 3)
    stretch = 1 + geometry.stretch * (2 * draws[:, 1:4] - 1)
    centre = _point_in_brain(brain, draws[:, 4:8], shape)
    centre = torch.minimum(torch.maximum(centre, half), shape - half)
    angles = math.radians(geometry.rotation) * (2 * draws[:, 8:11] - 1)
    # Axis 0 runs from left to right.
    mirror = torch.where(draws[:, 11] < geometry.flip, -1.0, 1.0)
    signs = torch.stack([mirror, torch.ones_like(mirror), torch.ones_like(mirror)], dim=1)

    steps = (torch.arange(crop.size, device=device) + 0.5) / crop.size * 2 - 1
    cube = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).view(1, -1, 3)
    offsets = cube * (half * stretch * signs)[:, None, :] @ rotations(angles).transpose(1, 2)
    positions = (centre[:, None, :] + offsets) / shape * 2 - 1
    # grid_sample wants the last axis of the volume first.
    return positions.flip(-1).view(-1, crop.size, crop.size, crop.size, 3)


def rotations(angles: Tensor) -> Tensor:
    """`[B, 3]` radians about axes 0, 1, 2 -> `[B, 3, 3]` rotation matrices."""
    cosines, sines = angles.cos(), angles.sin()
    product = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis, (i, j) in enumerate([(1, 2), (0, 2), (0, 1)]):
        matrix = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        matrix[:, i, i] = matrix[:, j, j] = cosines[:, axis]
        matrix[:, i, j], matrix[:, j, i] = -sines[:, axis], sines[:, axis]
        product = product @ matrix
    return product


def _point_in_brain(brain: Tensor, draws: Tensor, shape: Tensor) -> Tensor:
    """`[B, 3]` voxel coordinates in a cell of which at least a tenth is brain; draws `[B, 4]`."""
    share = functional.adaptive_avg_pool3d(brain, CELLS).flatten(1)
    rank = (share >= 0.1).long().cumsum(dim=1)
    wanted = (draws[:, :1] * rank[:, -1:]).long() + 1
    cell = torch.searchsorted(rank, wanted).clamp_max(CELLS**3 - 1)
    corner = torch.cat([cell // CELLS**2, cell // CELLS % CELLS, cell % CELLS], dim=1)
    return (corner + draws[:, 1:]) * shape / CELLS


def change_intensity(view: Tensor, inside: Tensor, seeds: Sequence[int], intensity: Intensity) -> Tensor:
    """Gamma, bias field, contrast, brightness, Gibbs ringing, blur, low resolution and noise, in this order; each
    sequence `[B, C]` with numbers of its own.

    Gamma and bias act on intensities scaled to [0, 1] over the brain, because z-scores are negative in half of it.
    """
    channels = view.shape[1]
    draws = uniforms(seeds, "intensity", (2, 8, channels), view.device)
    applied = (draws[:, 0] < intensity.probability).float()
    strength = (applied * (2 * draws[:, 1] - 1))[..., None, None, None]
    gamma, contrast, brightness = (strength[:, effect] for effect in range(3))
    bias, noise = applied[:, 3, :, None, None, None], strength[:, 5].abs()
    blur, low_resolution, gibbs = (strength[:, effect, :, 0, 0, 0].abs() for effect in (4, 6, 7))

    low = torch.where(inside, view, torch.inf).amin(dim=(2, 3, 4), keepdim=True)
    high = torch.where(inside, view, -torch.inf).amax(dim=(2, 3, 4), keepdim=True)
    low, span = torch.nan_to_num(low, posinf=0), torch.nan_to_num((high - low).clamp_min(1e-6), neginf=1, posinf=1)
    scaled = ((view - low) / span).clamp(0, 1) ** (intensity.gamma**gamma)
    knots = noises(seeds, "bias", (channels, BIAS_KNOTS, BIAS_KNOTS, BIAS_KNOTS), view.device)
    field = functional.interpolate(knots, size=view.shape[2:], mode="trilinear", align_corners=True)
    scaled = scaled * torch.exp(intensity.bias * bias * field)
    weight = inside.float()
    mean = (scaled * weight).sum(dim=(2, 3, 4), keepdim=True) / weight.sum(dim=(2, 3, 4), keepdim=True).clamp_min(1)
    scaled = (scaled - mean) * intensity.contrast**contrast + mean + intensity.brightness * brightness
    changed = (scaled * span + low) * weight

    size = view.shape[-1]
    artefacts = low_resolution_matrix(size, 1 + (intensity.low_resolution - 1) * low_resolution)
    artefacts = artefacts @ blur_matrix(size, intensity.blur * blur) @ gibbs_matrix(size, intensity.gibbs * gibbs)
    # The background is 0, the mean of the brain, so blurring across the edge pulls towards the mean only.
    changed = along_axes(changed, artefacts)
    return changed + intensity.noise * noise * noises(seeds, "noise", view.shape[1:], view.device)


def keep_sequences(seeds: Sequence[int], channels: int, dropout: float, device: torch.device) -> Tensor:
    """`[B, C, 1, 1, 1]` bool: False = dropped. If all were dropped, the one with the largest draw stays."""
    draws = uniforms(seeds, "sequences", (channels,), device)
    kept = (draws >= dropout) | (draws == draws.amax(dim=1, keepdim=True))
    return kept[:, :, None, None, None]
