"""Does taking away what a map points at change the score? Occlusion, deletion and insertion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""`[B, 4, D, H, W] -> [B, E]`: what each of E models says of each volume."""
BATCH = 4
"""Changed volumes in one forward pass."""


def occlusion(score: Score, volume: Tensor, window: int) -> np.ndarray:
    """`[E, D, H, W]`: how much each score falls when a cube around a voxel is hidden (Zeiler & Fergus 2014).

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
    whole = score(volume[None])[0].cpu().numpy().astype(float)
    fall, covered = np.zeros((len(whole), *grid)), np.zeros(grid)
    for begin in range(0, len(places), BATCH):
        cubes = [_cube(where, grid, window) for where in places[begin : begin + BATCH]]
        hidden = volume[None].repeat(len(cubes), 1, 1, 1, 1)
        for i, cube in enumerate(cubes):
            hidden[i][(slice(None), *cube)] = 0
        for cube, scores in zip(cubes, score(hidden).cpu().numpy(), strict=True):
            fall[(slice(None), *cube)] += (whole - scores)[:, None, None, None]
            covered[cube] += 1
    return fall / np.maximum(covered, 1)


def _starts(size: int, window: int) -> list[int]:
    last = max(size - window, 0)
    return sorted({*range(0, last, max(window // 2, 1)), last})


def _cube(where: tuple[int, ...], grid: tuple[int, ...], window: int) -> tuple[slice, ...]:
    starts = [_starts(size, window)[i] for i, size in zip(where, grid, strict=True)]
    return tuple(slice(start, start + window) for start in starts)


def deletion_and_insertion(
    score: Score, volume: Tensor, orders: list[np.ndarray], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean fall of each score while the highest voxels of a map are deleted, and mean rise while they are inserted.

    Petsiuk et al. 2018 (RISE), on the logit: the brain's voxels in falling order of a map, in `steps` equal parts.
    Deletion sets them to 0 one part after the other, insertion starts from an empty volume. High is good for both.

    Args:
        volume: `[4, D, H, W]`. orders: O maps `[D, H, W]`; equal values are taken by their place.

    Returns:
        Falls and rises, `[O, E]`.
    """
    brain = np.flatnonzero((volume != 0).any(dim=0).cpu().numpy())
    parts = [np.array_split(brain[np.argsort(-order.ravel()[brain], kind="stable")], steps) for order in orders]
    flat = volume.flatten(1)

    def changed(order: int, step: int, inserted: bool) -> Tensor:
        taken = torch.from_numpy(np.concatenate(parts[order][: step + 1])).to(flat.device)
        if inserted:
            found = torch.zeros_like(flat)
            found[:, taken] = flat[:, taken]
        else:
            found = flat.clone()
            found[:, taken] = 0
        return found.view_as(volume)

    wanted = [(o, step, how) for o in range(len(orders)) for step in range(steps - 1) for how in (False, True)]
    scores = []
    for begin in range(0, len(wanted), BATCH):
        scores.append(score(torch.stack([changed(*each) for each in wanted[begin : begin + BATCH]])))
    found = torch.cat(scores).cpu().numpy().astype(float).reshape(len(orders), steps - 1, 2, -1)
    whole, empty = score(torch.stack([volume, torch.zeros_like(volume)])).cpu().numpy().astype(float)
    return (whole - found[:, :, 0]).mean(axis=1), (found[:, :, 1] - empty).mean(axis=1)
