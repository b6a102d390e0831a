"""Random views of a batch of volumes, made on the device that trains; each sample has its own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurorad.pretraining.draws import uniforms
from neurorad.pretraining.geometry import DRAWS, Crop, Geometry, Sampler, placed
from neurorad.pretraining.intensity import Intensity, change_intensity
from neurorad.seeds import seed_of

CACHED = 2**18
"""Numbers that a CPU works on at a time, so that they stay in its cache: a sequence of a view of 64^3, or some slices of a
volume. A GPU works on all at once."""


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
            change_intensity(view, brain, view_seeds, intensity, None if view.is_cuda else CACHED)
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
    together = shape[0] if device.type == "cuda" else max(1, CACHED // ((channels + 1) * shape[1] * shape[2]))
    slices = torch.zeros(together, channels + 1, *shape[1:], device=device)
    for sample, volume in enumerate(volumes):
        seen = [sampler.seen[sample] for sampler in samplers]
        # Of every volume only the box that the views see is filled in.
        box = [slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*seen, strict=True)]
        within: list[list[Tensor]] = [[] for _ in samplers]
        for first in range(box[0].start, box[0].stop, together):
            last = min(first + together, box[0].stop)
            _fill(slices[: last - first, :, *box[1:]], volume[:, first:last, *box[1:]])
            for sampler, parts, (along, *_) in zip(samplers, within, seen, strict=True):
                start, stop = max(first, along.start), min(last, along.stop)
                if start < stop:
                    parts.append(sampler.within(sample, slices[start - first : stop - first], start))
        for sampler, parts, (view, brain) in zip(samplers, within, views, strict=True):
            found = sampler.between(sample, parts[0] if len(parts) == 1 else torch.cat(parts))
            coverage = found[-1:]
            # Above a half.
            torch.round(coverage, out=brain[sample])
            # Dividing by the coverage keeps the background out of the interpolated brain edge.
            torch.mul(found[:-1], brain[sample] / coverage.clamp_min(0.5), out=view[sample])
    return views


def _fill(slices: Tensor, volume: Tensor) -> None:
    """`[n, C + 1, h, w]` of a volume `[C, n, h, w]`; the last channel is the brain, where any sequence is not 0."""
    slices[:, :-1] = volume.transpose(0, 1)
    squares = slices[:, 0].square()
    for channel in range(1, len(volume)):
        squares.addcmul_(slices[:, channel], slices[:, channel])
    torch.sign(squares, out=slices[:, -1])
