"""The volume store: one preprocessed scan a file, `[4, D, H, W]` float16 in Blosc2, with its contract beside it."""

import hashlib
import math
import threading
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from neurorad.files import atomic, read_json, write_json

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
"""Channel order of every volume (BraTS 2023 names)."""

BLOCK_VOXELS = 2**17
"""At most, of a block: 256 KiB. A slice is one at least."""

LAZY = 0x08
"""Bit of the flags in byte 31 of a Blosc2 chunk: what follows is only where the chunk is."""

# Threads read different volumes at once.
blosc2.set_releasegil(True)


class VolumeError(Exception):
    """A stored volume is unreadable, or is not what its contract says."""


class ShapeError(VolumeError):
    """A stored volume has another shape than it should have."""


def card_path(path: str | Path) -> Path:
    """The JSON file beside a volume."""
    return Path(path).with_suffix(".json")


def save(path: str | Path, volume: np.ndarray, card: dict[str, Any]) -> str:
    """Store `volume` and its card; return the sha256 of the voxels.

    Args:
        path: `.b2nd` file; the card goes to the same name with `.json`.
        volume: `[4, D, H, W]` in `SEQUENCES` order, RAS+ axes, z-scored in the brain, background exactly 0.
        card: spacing, normalisation, QC numbers and transforms. `sha256` and `shape` are added.

    Raises:
        VolumeError: wrong number of axes or channels, or a value that float16 cannot hold.
    """
    if volume.ndim != 4 or volume.shape[0] != len(SEQUENCES):
        raise VolumeError(f"{path}: expected [4, D, H, W], got {list(volume.shape)}")
    voxels = np.ascontiguousarray(volume, dtype=np.float16)
    if not np.isfinite(voxels).all():
        raise VolumeError(f"{path}: not finite as float16")
    digest = hashlib.sha256(voxels.tobytes()).hexdigest()
    write_json(card_path(path), {**card, "sha256": digest, "shape": list(voxels.shape), "sequences": list(SEQUENCES)})
    with atomic(path) as temporary:
        temporary.unlink()
        blosc2.asarray(
            voxels,
            chunks=(1, *voxels.shape[1:]),
            # Whole slices, without padding, about as many as a core's cache holds: a chunk unpacks into an array as it is.
            blocks=(1, _slices_a_block(voxels.shape), *voxels.shape[2:]),
            urlpath=str(temporary),
            # Read at half of ZSTD's time, for a fifth more room: a pretraining reads a volume hundreds of times.
            cparams=blosc2.CParams(codec=blosc2.Codec.LZ4HC, clevel=5, nthreads=1),
        )
    return digest


def load(path: str | Path, check: bool = False, out: np.ndarray | None = None) -> np.ndarray:
    """Return the volume `[4, D, H, W]` as float16; with `check`, its sha256 must equal the card's.

    Args:
        out: filled and returned, if given.

    Raises:
        VolumeError: missing, truncated or altered file.
        ShapeError: a file of another shape than `out`.
    """
    try:
        array = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
        if len(array.shape) != 4 or min(array.shape) < 1:
            raise ValueError(f"shape {array.shape}")
        if array.dtype != np.float16 or array.blocks != (1, _slices_a_block(array.shape), *array.shape[2:]):
            raise ValueError(f"blocks {array.blocks} of {array.dtype}; make it again with this version")
        voxels = np.empty(array.shape, np.float16) if out is None else out
        if voxels.shape != array.shape:
            raise ShapeError(f"{path}: shape {list(array.shape)} and not {list(voxels.shape)}")
        with open(path, "rb", buffering=0) as stream:
            for whole, number in zip(voxels, range(array.schunk.nchunks), strict=True):
                chunk = _chunk(stream, array.schunk.get_lazychunk(number))
                # As many bytes as its header says are written.
                if blosc2.get_cbuffer_sizes(chunk)[0] != whole.nbytes:
                    raise ValueError("a chunk of another size")
                blosc2.decompress2(chunk, dst=whole, nthreads=1)
    except VolumeError:
        raise
    # A damaged header fails anywhere inside blosc2: AttributeError, SyntaxError, ZeroDivisionError, MemoryError, ...
    except Exception as problem:
        raise VolumeError(f"{path}: unreadable volume ({problem or type(problem).__name__})") from problem
    if check and hashlib.sha256(voxels.tobytes()).hexdigest() != load_card(path)["sha256"]:
        raise VolumeError(f"{path}: voxels differ from the sha256 in {card_path(path).name}")
    return voxels


def _slices_a_block(shape: Sequence[int]) -> int:
    """Of a volume `[4, D, H, W]`: a divisor of D."""
    most = max(1, BLOCK_VOXELS // math.prod(shape[2:]))
    return max(n for n in range(1, min(most, shape[1]) + 1) if shape[1] % n == 0)


_ROOM = threading.local()


def _chunk(stream: RawIOBase, lazy: bytes) -> np.ndarray | bytes:
    """A chunk of a file, from its lazy form, which ends in the place of the chunk and the sizes of its blocks (format: Blosc2,
    README_CHUNK_FORMAT, lazy chunks). A chunk of one value has no other form.

    `array[:]` reads and unpacks too, but meanwhile no other Python thread runs: sixteen readers were as slow as one. And it
    is read into memory that this thread keeps: memory that is new for every volume takes longer to get than to fill.
    """
    if not lazy[31] & LAZY:
        return lazy
    size, packed, block = blosc2.get_cbuffer_sizes(lazy)
    sizes = 4 * math.ceil(size / block)
    stream.seek(int.from_bytes(lazy[-sizes - 8 : -sizes], "little"))
    if packed > len(getattr(_ROOM, "chunk", ())):
        _ROOM.chunk = np.empty(packed, np.uint8)
    chunk = _ROOM.chunk[:packed]
    if stream.readinto(chunk.data) != packed:
        raise ValueError("the file ends in a chunk")
    return chunk


def load_listed(path: str | Path, sha256: str, listing: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The volume that a table (`listing`, for the message) lists with its sha256, checked, and its card.

    Raises:
        VolumeError: missing, truncated or altered file, or another volume than the listed one; with what to make again.
    """
    try:
        voxels, card = load(path, check=True), load_card(path)
    except (VolumeError, OSError) as problem:
        raise VolumeError(f"{problem}; make the volume again") from problem
    if card["sha256"] != sha256:
        raise VolumeError(f"{path} is not the volume that {listing} lists; make {listing} again")
    return voxels, card


def load_card(path: str | Path) -> dict[str, Any]:
    """The JSON contract stored beside the volume."""
    return read_json(card_path(path))
