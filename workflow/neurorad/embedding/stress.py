"""Volumes as another scanner would have made them: noise, bias field, blur, gamma, and every subset of sequences.

A shift is made inside the brain and the sequence is z-scored again, as preprocessing would; the background stays 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from neurorad.embedding.scans import load_checked, with_identity
from neurorad.encoder import Encoder
from neurorad.problems import InputError
from neurorad.seeds import generator
from neurorad.volumes import SEQUENCES

LEVELS = {
    "noise": (0.1, 0.25, 0.5),
    "bias": (1.2, 1.6, 2.4),
    "blur": (2.0, 4.0, 6.0),
    "gamma": (1.2, 1.6, 2.4),
}
"""What severities 1, 2 and 3 of a shift are. noise: SD of Gaussian noise, the brain's own being 1. bias: brightest over
darkest factor of a smooth multiplicative field. blur: full width at half maximum in mm. gamma: exponent of the intensities,
which run from 0 to 1 between the brain's darkest and brightest voxel."""
MISSING = "missing"
"""The shift that leaves a subset of the sequences; the others are 0, as preprocessing makes an absent one."""
KINDS = (*LEVELS, MISSING)


def subsets() -> list[tuple[str, ...]]:
    """All 15 subsets of the four sequences that hold one at least, the whole first."""
    return [kept for size in range(len(SEQUENCES), 0, -1) for kept in combinations(SEQUENCES, size)]


def shifts(kinds: Sequence[str], severities: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Kind and level of every shift: the severity, or the sequences that are left, joined by +.

    Raises:
        InputError: an unknown kind, or a severity other than 1, 2 and 3.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"--shifts: unknown shift {kind!r}; known: {', '.join(KINDS)}")
    for severity in severities:
        if severity not in (1, 2, 3):
            raise InputError(f"--severities {severity}: must be 1, 2 or 3")
    for kind in kinds:
        levels = ["+".join(kept) for kept in subsets()[1:]] if kind == MISSING else [str(each) for each in severities]
        yield from ((kind, level) for level in levels)


def standardised(values: np.ndarray) -> np.ndarray:
    """`[n]` with mean 0 and SD 1; zeros if it is constant."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-6 else np.zeros_like(values)


def shifted(volume: np.ndarray, kind: str, level: str, spacing: float, random: np.random.Generator) -> np.ndarray:
    """`[4, D, H, W]` float32 of the volume under one shift.

    Args:
        volume: `[4, D, H, W]`, z-scored in the brain, background exactly 0. level: of `shifts`. spacing: edge of a voxel in mm.
    """
    brain = (volume != 0).any(axis=0)
    found = np.zeros(volume.shape, dtype=np.float32)
    kept = level.split("+") if kind == MISSING else SEQUENCES
    for channel, (name, image) in enumerate(zip(SEQUENCES, volume.astype(np.float64), strict=True)):
        # An absent sequence has nothing to shift.
        if name not in kept or not image.any():
            continue
        found[channel, brain] = image[brain]
        if kind != MISSING:
            found[channel, brain] = standardised(
                _changed(image, brain, kind, LEVELS[kind][int(level) - 1], spacing, random)
            )
    return found


def _changed(
    image: np.ndarray, brain: np.ndarray, kind: str, level: float, spacing: float, random: np.random.Generator
) -> np.ndarray:
    """Intensities `[voxels of the brain]` before they are z-scored again."""
    inside = image[brain]
    if kind == "noise":
        return inside + random.normal(0, level * inside.std(), inside.shape)
    if kind == "blur":
        # Of the brain alone: the background would darken its rim.
        sigma = level / np.sqrt(8 * np.log(2)) / spacing
        weight = gaussian_filter(brain.astype(float), sigma)[brain]
        return gaussian_filter(np.where(brain, image, 0.0), sigma)[brain] / weight
    light = inside - inside.min()
    if kind == "gamma":
        return (light / max(light.max(), 1e-12)) ** level
    places = np.stack(
        [axis[brain] for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in brain.shape), indexing="ij")]
    )
    # Linear and quadratic terms: the smoothness of a coil's sensitivity.
    terms = np.concatenate([places, places**2, places[[0, 0, 1]] * places[[1, 2, 2]]])
    field = random.normal(size=len(terms)) @ terms
    field = (field - field.min()) / max(np.ptp(field), 1e-12)
    return light * level**field


@torch.no_grad()
def embed_shifted(
    encoder: Encoder,
    table: pd.DataFrame,
    contract: Mapping[str, Any],
    device: torch.device,
    wanted: Sequence[tuple[str, str]],
    seed: int,
) -> pd.DataFrame:
    """Every volume under every shift: identity, `shift`, `level` and e0 ... e{d-1}; each volume is read once.

    Noise and fields depend on scan, shift and seed alone, so that every encoder sees the same.

    Args:
        table: rows of `scans.read_usable`. contract: `preprocessing` of the encoder's card. wanted: of `shifts`.
    """
    encoder = encoder.to(device).eval()
    spacing = float(contract["spacing_mm"])
    features = []
    for row in table.itertuples():
        volume = load_checked(row, contract)
        for begin in range(0, len(wanted), 4):
            batch = [
                shifted(volume, kind, level, spacing, generator(seed, "stress", row.cohort, row.scan, kind, level))
                for kind, level in wanted[begin : begin + 4]
            ]
            features.append(encoder(torch.from_numpy(np.stack(batch)).to(device)).cpu().numpy())
    rows = table.loc[table.index.repeat(len(wanted))].reset_index(drop=True)
    made = with_identity(rows, np.concatenate(features))
    made.insert(4, "shift", [kind for kind, _ in wanted] * len(table))
    made.insert(5, "level", [level for _, level in wanted] * len(table))
    return made
