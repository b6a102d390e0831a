"""Random views of a batch of volumes, made on the device that trains; each sample has its own seed."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from neurorad.pretraining.draws import uniforms
from neurorad.pretraining.geometry import DRAWS, Crop, Geometry, Sampler, placed
from neurorad.pretraining.intensity import Intensity, change_intensity
from neurorad.seeds import seed_of

CACHED = 2**19
"""Numbers that a thread works on at a time, so that they stay in its core's cache: some slices of a volume, or sequences of a
view (at least one of either). A GPU works on all at once."""


@torch.no_grad()
def make_views(
    volumes: Tensor,
    share: Tensor,
    seeds: Sequence[int],
    crops: Sequence[Crop],
    geometry: Geometry,
    intensity: Intensity | None,
) -> list[Tensor]:
    """`[B, 4, D, H, W] -> [B, 4, s, s, s]` float32 for each crop; without `intensity` only the geometry is random.

    `share`: of `brain_share`, on the CPU, where all places and strengths are decided. Background, and what lies outside the volume, is exactly 0. A sequence that a scan lacks (all 0) stays all 0.
    """
    own = [[seed_of(seed, "view", number) for seed in seeds] for number in range(len(crops))]
    views = sampled(volumes, share, own, crops, geometry)
    if intensity is not None:
        for (view, brain), view_seeds in zip(views, own, strict=True):
            change_intensity(view, brain, view_seeds, intensity, _at_a_time(view.device))
    return [view for view, _ in views]


def sampled(
    volumes: Tensor, share: Tensor, seeds: Sequence[Sequence[int]], crops: Sequence[Crop], geometry: Geometry
) -> list[tuple[Tensor, Tensor]]:
    """Of each crop the view `[B, C, s, s, s]` and its brain `[B, 1, s, s, s]`, 1 or 0. `seeds`: B of each crop.

    Sample by sample, so that only one volume at a time is there in float32.
    """
    count, channels, *shape = volumes.shape
    device = volumes.device
    samplers, views = [], []
    for crop, own in zip(crops, seeds, strict=True):
        places = placed(share, uniforms(own, "geometry", (DRAWS,)), shape, crop, geometry)
        samplers.append(Sampler(*places, shape, crop.size, device))
        view, brain = (torch.empty(count, c, *[crop.size] * 3, device=device) for c in (channels, 1))
        views.append((view, brain))
    depth, height, width = shape
    together = max(1, _at_a_time(device) // ((channels + 1) * height * width))
    slices = torch.zeros(min(depth, together), channels + 1, height, width, device=device)
    for sample, volume in enumerate(volumes):
        within = _within(sample, volume, samplers, slices)
        for sampler, slabs, (view, brain) in zip(samplers, within, views, strict=True):
            _between(sample, sampler, slabs, view[sample], brain[sample])
    return views


def _at_a_time(device: torch.device) -> int:
    """Numbers."""
    return sys.maxsize if device.type == "cuda" else CACHED * torch.get_num_threads()


def _within(sample: int, volume: Tensor, samplers: Sequence[Sampler], slices: Tensor) -> list[list[Tensor]]:
    """Of each sampler the slices of the volume that it sees, sampled, as many at a time as `slices` has room for."""
    seen = [sampler.seen[sample] for sampler in samplers]
    # Only the box that the views see is filled in.
    box = [slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*seen, strict=True)]
    slabs: list[list[Tensor]] = [[] for _ in samplers]
    for first in range(box[0].start, box[0].stop, len(slices)):
        last = min(first + len(slices), box[0].stop)
        _fill(slices[: last - first, :, *box[1:]], volume[:, first:last, *box[1:]])
        for sampler, found, (along, *_) in zip(samplers, slabs, seen, strict=True):
            start, stop = max(first, along.start), min(last, along.stop)
            if start < stop:
                found.append(sampler.within(sample, slices[start - first : stop - first], start))
    return slabs


def _between(sample: int, sampler: Sampler, slabs: Sequence[Tensor], view: Tensor, brain: Tensor) -> None:
    """Fill `view` `[C, s, s, s]` and `brain` `[1, s, s, s]`."""
    channels, size, *_ = view.shape
    line = sum(len(slab) for slab in slabs) * (channels + 1) * size
    together = max(1, _at_a_time(view.device) // line)
    for first in range(0, size, together):
        part = slice(first, first + together)
        lines = [slab[:, :, part] for slab in slabs]
        found = sampler.between(sample, lines[0] if len(lines) == 1 else torch.cat(lines), part)
        coverage = found[-1:]
        # Above a half.
        covered = torch.round(coverage, out=brain[:, :, part])
        # Dividing by the coverage keeps the background out of the interpolated brain edge.
        torch.mul(found[:-1], covered / coverage.clamp_min(0.5), out=view[:, :, part])


def _fill(slices: Tensor, volume: Tensor) -> None:
    """`[n, C + 1, h, w]` of a volume `[C, n, h, w]`; the last channel is the brain, where any sequence is not 0."""
    slices[:, :-1] = volume.transpose(0, 1)
    squares = slices[:, 0].square()
    for channel in range(1, len(volume)):
        squares.addcmul_(slices[:, channel], slices[:, channel])
    torch.sign(squares, out=slices[:, -1])
