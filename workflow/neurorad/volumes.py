"""The volume store: one preprocessed scan a file, `[4, D, H, W]` float16 in Blosc2, with its contract beside it."""

import hashlib
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from neurorad.files import atomic, read_json, write_json

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
"""Channel order of every volume (BraTS 2023 names)."""


class VolumeError(Exception):
    """A stored volume is unreadable, or is not what its contract says."""


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
            blocks=(1, *(min(32, n) for n in voxels.shape[1:])),
            urlpath=str(temporary),
            # Read at half of ZSTD's time, for a fifth more room: a pretraining reads a volume hundreds of times.
            cparams=blosc2.CParams(codec=blosc2.Codec.LZ4HC, clevel=5, nthreads=1),
        )
    return digest


def load(path: str | Path, check: bool = False) -> np.ndarray:
    """Return the volume `[4, D, H, W]` as float16; with `check`, its sha256 must equal the card's.

    Raises:
        VolumeError: missing, truncated or altered file.
    """
    try:
        voxels = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))[:]
    except (RuntimeError, OSError, ValueError) as problem:
        raise VolumeError(f"{path}: unreadable volume ({problem})") from problem
    if check and hashlib.sha256(voxels.tobytes()).hexdigest() != load_card(path)["sha256"]:
        raise VolumeError(f"{path}: voxels differ from the sha256 in {card_path(path).name}")
    return voxels


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
