"""Exams that two pretraining cohorts hold: no leakage, but counted twice.

BraTS 2024 post-treatment took in cases of MU-Glioma-Post under ids of its own, so an exam may be pretrained on twice, and
its patient stand in the manifest as two. The audit lists such pairs and leaves the manifest as it is.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from neurorad.likeness import residuals

BLOCK = 512
"""Scans compared at once: 7,400 thumbnails fit in memory as float16, their float32 products need not (11 s, 0.5 GiB)."""


def double_scans(scans: pd.DataFrame, thumbnails: np.ndarray | None, alike: float) -> pd.DataFrame:
    """Pairs of scans of different cohorts that are one exam, sorted by cohorts and scans.

    Args:
        scans: `cohort scan person sha256` of the scans that are pretrained on.
        thumbnails: `[n, 4, ...]`, one a row of `scans`; without them only voxels are compared.
        alike: likeness from which two scans are one exam.

    Returns:
        `cohort scan other_cohort other_scan likeness same_voxels same_patient`, the cohort first that sorts first;
        `likeness` is missing where nothing was compared, `same_patient` says whether the ids link them.
    """
    cohort, scan, person, voxels = (scans[name].to_numpy() for name in ("cohort", "scan", "person", "sha256"))
    found = {pair: np.nan for pair in _same_voxels(voxels) if cohort[pair[0]] != cohort[pair[1]]}
    if thumbnails is not None and len(scans):
        found |= {(a, b): r for a, b, r in _alike(thumbnails, alike) if cohort[a] != cohort[b]}
    rows = []
    for (a, b), likeness in found.items():
        first, second = sorted((a, b), key=lambda i: (cohort[i], scan[i]))
        same = (voxels[a] == voxels[b], person[a] == person[b])
        rows.append((cohort[first], scan[first], cohort[second], scan[second], likeness, *same))
    columns = ["cohort", "scan", "other_cohort", "other_scan", "likeness", "same_voxels", "same_patient"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)


def _same_voxels(voxels: np.ndarray) -> Iterator[tuple[int, int]]:
    for places in pd.Series(range(len(voxels))).groupby(voxels).agg(list):
        yield from itertools.combinations(places, 2)


def _alike(thumbnails: np.ndarray, alike: float) -> Iterator[tuple[int, int, float]]:
    """Row, later row and likeness of every pair that reaches `alike`."""
    mean = thumbnails.mean(axis=0, dtype=np.float32)
    starts = range(0, len(thumbnails), BLOCK)
    own = [residuals(thumbnails[start : start + BLOCK], mean).astype(np.float16) for start in starts]
    for i, start in enumerate(starts):
        rows = own[i].astype(np.float32)
        for later, columns in zip(starts[i:], own[i:], strict=True):
            likeness = rows @ columns.astype(np.float32).T
            for a, b in np.argwhere(likeness >= alike):
                if start + a < later + b:
                    yield int(start + a), int(later + b), float(likeness[a, b])
