"""Crop, mirror, stretch and rotation of a view by one linear map, sampled by two interpolations.

A voxel of the view is interpolated within the slices of the volume (axes 1 and 2), then between the slices, along the
line through it that the view's own axis 0 follows. Unlike one trilinear interpolation this is all two-dimensional, for
which PyTorch has vectorised kernels on the CPU too: there it takes a quarter of the time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from neurorad.pretraining.draws import moved
from neurorad.problems import InputError

CELLS = 8
"""The volume is divided into 8 x 8 x 8 cells; a crop is centred in a cell that holds brain."""

DRAWS = 12
"""Random numbers of a placement: edge 1, stretch 3, centre 4, angles 3, mirror 1."""


@dataclass(frozen=True)
class Crop:
    """`size`: voxels along an edge of the view. `scale`: the range of the cube's edge in the volume, as a fraction
    of the volume's shortest axis."""

    size: int
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop size {self.size} must be at least 8 and scale {self.scale} within (0, 1]")


@dataclass(frozen=True)
class Geometry:
    """`flip`: probability of a left-right mirror. `rotation`: largest angle about each axis in degrees, at most 45.
    `stretch`: largest relative change of the edge of the crop, each axis on its own."""

    flip: float
    rotation: float
    stretch: float

    def __post_init__(self) -> None:
        # The view's axis 0 must run through the slices, not along them.
        if not (0 <= self.rotation <= 45 and 0 <= self.stretch < 1):
            raise InputError(
                f"geometry.rotation {self.rotation} must lie in [0, 45] degrees and stretch {self.stretch} in [0, 1)"
            )


def brain_share(volumes: Tensor) -> Tensor:
    """`[B, C, D, H, W] -> [B, CELLS ** 3]`: the part of each cell that is brain, where any sequence is not 0; judged by
    every second voxel an axis."""
    some = (volumes[:, :, ::2, ::2, ::2] != 0).any(dim=1, keepdim=True)
    return functional.adaptive_avg_pool3d(some.float(), CELLS).flatten(1)


def placed(share: Tensor, draws: Tensor, shape: Sequence[int], crop: Crop, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Where views lie: a cube about a point in the brain, moved so that the unrotated cube lies in the volume; then
    mirrored, stretched and rotated about its centre.

    Args:
        share: `[B, CELLS ** 3]`, of `brain_share`. draws: `[B, DRAWS]` in [0, 1). shape: of a volume.

    Returns:
        Centre `[B, 3]` and axes `[B, 3, 3]`: the point u in [-1, 1]^3 of the view lies at centre + axes u, in voxels
        from the volume's corner.
    """
    low, high = crop.scale
    half = ((low + (high - low) * draws[:, :1]) * (min(shape) / 2)).expand(-1, 3)
    stretch = 1 + geometry.stretch * (2 * draws[:, 1:4] - 1)
    angles = math.radians(geometry.rotation) * (2 * draws[:, 8:11] - 1)
    # Axis 0 runs from left to right.
    mirror = torch.where(draws[:, 11:] < geometry.flip, -1.0, 1.0)
    signs = functional.pad(mirror, (0, 2), value=1.0)
    centre = _point_in_brain(share, draws[:, 4:8], shape)
    centre = torch.stack(
        [torch.minimum(torch.maximum(c, h), n - h) for c, h, n in zip(centre.T, half.T, shape, strict=True)], dim=1
    )
    return centre, rotations(angles) * (half * stretch * signs)[:, None, :]


def box_seen(centre: Tensor, axes: Tensor, shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Of each view the part of the volume that it is interpolated from, along each axis."""
    reach = axes.abs().sum(dim=2)
    # Neighbours, and within a slice where the lines between slices end beyond the view: at most 1.71 voxels, with three angles of
    # 45 degrees.
    margin = torch.tensor([1, 3, 3])
    first, last = (centre - reach).floor().long() - margin, (centre + reach).ceil().long() + margin
    return [
        tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, shape, strict=True))
        for low, high in zip(first.tolist(), last.tolist(), strict=True)
    ]


def rotations(angles: Tensor) -> Tensor:
    """`[B, 3]` radians about axes 0, 1, 2 -> `[B, 3, 3]` rotation matrices."""
    product = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis, (i, j) in enumerate([(1, 2), (0, 2), (0, 1)]):
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        matrix = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        matrix[:, i, i] = matrix[:, j, j] = cosine
        matrix[:, i, j], matrix[:, j, i] = -sine, sine
        product = product @ matrix
    return product


def _point_in_brain(share: Tensor, draws: Tensor, shape: Sequence[int]) -> Tensor:
    """`[B, 3]` voxel coordinates in a cell of which at least a tenth is brain; draws `[B, 4]`."""
    rank = (share >= 0.1).long().cumsum(dim=1)
    wanted = (draws[:, :1] * rank[:, -1:]).long() + 1
    cell = torch.searchsorted(rank, wanted).clamp_max(CELLS**3 - 1)
    corner = torch.cat([cell // CELLS**2, cell // CELLS % CELLS, cell % CELLS], dim=1)
    return torch.stack([(corner + draws[:, 1:])[:, axis] * (n / CELLS) for axis, n in enumerate(shape)], dim=1)


class Sampler:
    """Samples one view of a size from each volume of a batch; large buffers are used again for every sample."""

    def __init__(self, centre: Tensor, axes: Tensor, shape: Sequence[int], size: int, device: torch.device) -> None:
        """`centre` `[B, 3]` and `axes` `[B, 3, 3]` of `placed`. `shape`: (D, H, W) of a volume. `size`: of the view.

        `grid_sample` counts from -1 to 1 and wants the last axis first. In slice x the first coordinate of the view is
        u0 = (x - c0 - a01 u1 - a02 u2) / a00, so coordinate i of the volume is there
        c_i + a_i0 u0 + a_i1 u1 + a_i2 u2 = start_i + along_i x + over_i1 u1 + over_i2 u2.
        """
        self.seen = box_seen(centre, axes, shape)
        scale = 2 / torch.tensor(shape)
        along = (axes[:, 1:, 0] / axes[:, :1, 0] * scale[1:]).flip(1)
        over = (axes[:, 1:, 1:] * scale[1:, None]).flip(1) - along[:, :, None] * axes[:, :1, 1:]
        start = (centre[:, 1:] * scale[1:] - 1).flip(1) - along * centre[:, :1]
        between, height = (moved(part * scale[0], device) for part in (axes[:, 0], centre[:, 0]))
        along, over, start = (moved(part.contiguous(), device) for part in (along, over, start))
        steps = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
        places = (torch.arange(shape[0], device=device) + 0.5)[:, None]
        # Of each sample by slice `[D, 2 s]`, the same for all places along axis 2, and by place along axes 1 and 2 `[s, 2 s]`:
        # their sum is twice as fast as over a last axis of 2 numbers.
        self.by_slice = (places * along[:, None] + start[:, None]).repeat(1, 1, size)
        by_place = steps[:, None, None] * over[:, None, None, :, 0] + steps[:, None] * over[:, None, None, :, 1]
        self.by_place = by_place.flatten(2)
        # The coordinate across the slices seen: `[s, s, 1]` by place along axes 1 and 0, `[s]` along axis 2.
        line = steps[:, None] * between[:, 1, None, None] + steps * between[:, 0, None, None]
        self.by_line = (line + height[:, None, None])[..., None]
        self.by_last = steps * between[:, 2:]
        counts = [(box[0].stop - box[0].start, box[0].start) for box in self.seen]
        self.across = [(shape[0] / count, 2 * first / count + 1) for count, first in counts]
        self.places = torch.empty(size, size, size, 2, device=device)
        self.places[..., 0] = steps

    def within(self, sample: int, slices: Tensor, first: int) -> Tensor:
        """`[n, C, H, W] -> [n, C, s, s]`: slices of a sample, from its slice `first` on, by the view's axes 1 and 2; 0 outside
        the volume."""
        places = self.by_slice[sample, first : first + len(slices), None] + self.by_place[sample]
        return functional.grid_sample(slices, places.unflatten(-1, (-1, 2)), align_corners=False)

    def between(self, sample: int, within: Tensor, part: slice) -> Tensor:
        """A `part` of the view along its axis 1, of p places: `[n, C, p, s]` of what `within` makes of all slices seen
        `-> [C, s, p, s]`; 0 outside the volume."""
        factor, offset = self.across[sample]
        places = self.places[: within.shape[2]]
        torch.add(self.by_line[sample, part] * factor - offset, self.by_last[sample] * factor, out=places[..., 1])
        # Images of slices and places along axis 2, one for each place along axis 1.
        images = functional.grid_sample(within.permute(2, 1, 0, 3), places, align_corners=False)
        return images.permute(1, 2, 0, 3)
