"""Random views of a batch of volumes, made on the device that trains; each sample has its own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurorad.pretraining.draws import uniforms
from neurorad.pretraining.geometry import DRAWS, Crop, Geometry, Sampler, placed
from neurorad.pretraining.intensity import Intensity, change_intensity
from neurorad.seeds import seed_of

CACHED = 2**20
"""Numbers that a CPU changes at a time: a view of four sequences of 64^3, so that they stay in its cache. A GPU changes
the whole batch at once."""


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
            together = len(view) if view.is_cuda else max(1, CACHED // view[0].numel())
            for start in range(0, len(view), together):
                part = slice(start, start + together)
                change_intensity(view[part], brain[part], view_seeds[part], intensity)
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
    # Of every volume only the box that the views see is filled in.
    slices = torch.zeros(shape[0], channels + 1, *shape[1:], device=device)
    for sample, volume in enumerate(volumes):
        boxes = [sampler.seen[sample] for sampler in samplers]
        box = [slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)]
        part = slices[box[0], :, box[1], box[2]]
        part[:, :-1] = volume[:, *box].transpose(0, 1)
        # The last channel is the brain, where any sequence is not 0.
        squares = part[:, 0].square()
        for channel in range(1, channels):
            squares.addcmul_(part[:, channel], part[:, channel])
        part[:, -1] = squares.sign_()
        for sampler, (view, brain) in zip(samplers, views, strict=True):
            found = sampler.view(sample, slices)
            coverage = found[-1:]
            # Above a half.
            torch.round(coverage, out=brain[sample])
            # Dividing by the coverage keeps the background out of the interpolated brain edge.
            torch.mul(found[:-1], brain[sample] / coverage.clamp_min(0.5), out=view[sample])
    return views
