"""Pictures of a volume for the eye: the sheet of a scan on the QC page with its outlines, and `neurorad view`."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import binary_dilation

MOSAIC, PLANES = 8, 3
"""Columns of a sheet: a mosaic, then the three planes after registration, then the same before it."""

TILE_PX = 96
"""Tiles of a sheet are about this large: 2 mm a pixel on a 1 mm volume. A page of 1,500 scans is then about 80 MB."""

WEBP_QUALITY = 60
MASK, ATLAS = (230, 159, 0), (86, 180, 233)
"""Colours of the outlines of the brain mask and of the atlas: Okabe and Ito's orange and sky blue."""


def sheet(voxels: np.ndarray, before: Sequence[np.ndarray], atlas: np.ndarray) -> dict[str, bytes]:
    """The two layers of a scan's picture: `.qc.webp`, grey, and `.qc.png`, outlines on nothing.

    Rows: the four sequences, then the atlas. Columns: `MOSAIC` slices (six axial from the base up, coronal, sagittal), the
    three planes through the middle of the grid, and the same planes of `before`. The atlas has the three planes only.

    Args:
        voxels: [4, D, H, W], z-scored, background 0.
        before: the middle planes of such a volume where the headers put the images: [4, 1, H, W], [4, D, 1, W], [4, D, H, 1].
        atlas: [D, H, W], background 0.
    """
    shrink = max(1, round(max(voxels.shape[1:]) / TILE_PX))
    brain = (voxels != 0).any(axis=0)
    picked = _slices(brain)
    planes = [(axis, (voxels.shape[axis + 1] - 1) // 2) for axis in range(3)]
    grey, marks = [], []
    size = max(voxels.shape[1:])
    atlas_tiles = [_tile(np.where(atlas > 0, atlas / atlas.max() * 6 - 2.5, 0), at) for at in planes]
    atlas_marks = [_outline(_small(_framed(_tile(atlas > 0, at), size), shrink) >= 0.5) for at in planes]
    mask_marks = [_outline(_small(_framed(_tile(brain, at), size), shrink) >= 0.5) for at in picked]
    for position, channel in enumerate(voxels):
        tiles = [_tile(channel, at) for at in (*picked, *planes)]
        tiles += [_tile(plane[position], (axis, 0)) for axis, plane in enumerate(before)]
        grey.append([_grey(_small(_framed(tile, size), shrink)) for tile in tiles])
        marks.append([*(mark * 1 for mark in mask_marks), *(mark * 2 for mark in atlas_marks * 2)])
    empty = np.zeros_like(grey[0][0])
    shown = [_grey(_small(_framed(tile, size), shrink)) for tile in atlas_tiles]
    grey.append([*[empty] * MOSAIC, *shown, *[empty] * PLANES])
    marks.append([*[empty] * MOSAIC, *(mark * 2 for mark in atlas_marks), *[empty] * PLANES])
    return {".qc.webp": _webp(np.block(grey)), ".qc.png": _palette(np.block(marks).astype(np.uint8))}


def view(voxels: np.ndarray, tumour: np.ndarray | None = None) -> bytes:
    """PNG of a volume [4, D, H, W] at its full resolution: a row a sequence, six axial slices from the base up, a
    coronal and a sagittal one; the tumour [D, H, W], where there is one, outlined."""
    picked = _slices((voxels != 0).any(axis=0))
    size = max(voxels.shape[1:])
    grey = np.block([[_grey(_framed(_tile(channel, at), size)) for at in picked] for channel in voxels])
    coloured = np.repeat(grey[..., None], 3, axis=2)
    if tumour is not None:
        row = [_outline(_framed(_tile(tumour > 0, at), size) > 0) for at in picked]
        coloured[np.block([row] * len(voxels))] = MASK
    return _encoded(Picture.fromarray(coloured), format="PNG", optimize=True)


def _slices(brain: np.ndarray) -> list[tuple[int, int]]:
    """(axis, index) of the slices of a mosaic, spread over the brain."""
    along = [np.flatnonzero(brain.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    low, high = (np.array([positions[end] for positions in along]) for end in (0, -1))
    axial = np.linspace(low[2] + 0.18 * (high[2] - low[2]), high[2] - 0.12 * (high[2] - low[2]), 6).astype(int)
    middle = (low + high) // 2
    return [*((2, int(k)) for k in axial), (1, int(middle[1])), (0, int(middle[0]))]


def _tile(voxels: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """One slice, with anterior or superior up and the patient's left (or posterior) on the left."""
    return np.flipud(np.take(voxels, at[1], axis=at[0]).T)


def _framed(tile: np.ndarray, size: int) -> np.ndarray:
    framed = np.zeros((size, size), np.float32)
    top, left = (size - tile.shape[0]) // 2, (size - tile.shape[1]) // 2
    framed[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return framed


def _small(tile: np.ndarray, shrink: int) -> np.ndarray:
    """Mean of blocks of `shrink` x `shrink` pixels; a rest at the far edges, which is background, is cut off."""
    rows, columns = (n // shrink for n in tile.shape)
    return tile[: rows * shrink, : columns * shrink].reshape(rows, shrink, columns, shrink).mean(axis=(1, 3))


def _grey(tile: np.ndarray) -> np.ndarray:
    """z-scores from -2.5 to 3.5 as grey; background black, and no voxel of the brain quite as dark."""
    return np.where(tile == 0, 0, np.clip((tile + 2.5) / 6, 0.05, 1) * 255).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels just outside a mask, so that what lies at its edge stays visible."""
    return binary_dilation(mask) & ~mask


def _webp(grey: np.ndarray) -> bytes:
    return _encoded(Picture.fromarray(grey), format="WEBP", quality=WEBP_QUALITY, method=4)


def _palette(marks: np.ndarray) -> bytes:
    """0: nothing, 1: brain mask, 2: atlas."""
    picture = Picture.fromarray(marks, mode="P")
    picture.putpalette([0, 0, 0, *MASK, *ATLAS])
    return _encoded(picture, format="PNG", optimize=True, transparency=0, bits=2)


def _encoded(picture: Picture.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **options)
    return stream.getvalue()
