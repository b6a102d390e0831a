"""Does taking away what a map points at change the logit? Occlusion, deletion and insertion."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""`[B, 4, D, H, W] -> [B]`: the probe's logit of each volume."""


def occlusion(score: Score, volume: Tensor, window: int, batch: int = 16) -> np.ndarray:
    """`[D, H, W]`: how much the logit falls when a cube around each voxel is hidden (Zeiler & Fergus 2014).

    Cubes of `window` voxels every half window; hidden voxels become 0, the mean of the brain and the background's
    value. A voxel's number is the mean over the cubes that hide it; cubes without brain are passed over.

    Args:
        volume: `[4, D, H, W]`.
    """
    grid = volume.shape[1:]
    brain = (volume != 0).any(dim=0)
    places = [
        where
        for where in np.ndindex(*(len(_starts(size, window)) for size in grid))
        if brain[_cube(where, grid, window)].any()
    ]
    whole = float(score(volume[None])[0])
    fall, covered = np.zeros(grid), np.zeros(grid)
    for begin in range(0, len(places), batch):
        cubes = [_cube(where, grid, window) for where in places[begin : begin + batch]]
        hidden = volume[None].repeat(len(cubes), 1, 1, 1, 1)
        for i, cube in enumerate(cubes):
            hidden[(i, slice(None), *cube)] = 0
        for cube, logit in zip(cubes, score(hidden).tolist(), strict=True):
            fall[cube] += whole - logit
            covered[cube] += 1
    return fall / np.maximum(covered, 1)


def _starts(size: int, window: int) -> list[int]:
    last = max(size - window, 0)
    return sorted({*range(0, last, max(window // 2, 1)), last})


def _cube(where: tuple[int, ...], grid: tuple[int, ...], window: int) -> tuple[slice, ...]:
    starts = [_starts(size, window)[i] for i, size in zip(where, grid, strict=True)]
    return tuple(slice(start, start + window) for start in starts)


def deletion_and_insertion(score: Score, volume: Tensor, order: np.ndarray, steps: int) -> tuple[float, float]:
    """Mean fall of the logit while the highest voxels of a map are deleted, and mean rise while they are inserted.

    Petsiuk et al. 2018 (RISE), on the logit: the brain's voxels in falling order of `order`, in `steps` equal parts.
    Deletion sets them to 0 one part after the other, insertion starts from an empty volume. High is good for both.

    Args:
        volume: `[4, D, H, W]`. order: `[D, H, W]`, any map; equal values are taken by their place.
    """
    brain = np.flatnonzero((volume != 0).any(dim=0).numpy())
    ranked = brain[np.argsort(-order.ravel()[brain], kind="stable")]
    deleted, inserted = volume.flatten(1).clone(), torch.zeros_like(volume.flatten(1))
    falls, rises = [], []
    ends = score(torch.stack([volume, torch.zeros_like(volume)])).tolist()
    for part in np.array_split(ranked, steps)[:-1]:
        deleted[:, part] = 0
        inserted[:, part] = volume.flatten(1)[:, part]
        logits = score(torch.stack([deleted, inserted]).view(2, *volume.shape)).tolist()
        falls.append(ends[0] - logits[0])
        rises.append(logits[1] - ends[1])
    return float(np.mean(falls)), float(np.mean(rises))


def orders(
    maps: dict[str, np.ndarray], prior: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """The maps to be judged, and the two that any of them must beat: the centre prior and a random order."""
    yield from maps.items()
    yield "centre_prior", prior
    yield "random", random.random(prior.shape)
