"""A few small volumes on disk with their cards, their table, and a tumour mask for some."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neurorad.files import read_table, write_table
from neurorad.volumes import load_card, save

SHAPE = (24, 28, 20)
CONTRACT = {
    "sequences": ["t1n", "t1c", "t2w", "t2f"],
    "axes": "RAS",
    "spacing_mm": 4.0,
    "shape": list(SHAPE),
    "atlas": "MNI152 ICBM 2009a symmetric, rigid",
    "interpolation": "linear, of voxels of the brain alone",
    "n4": True,
    "normalisation": "z-score inside the brain, background 0",
    "missing_sequence": "exclude",
}


def brain(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """An ellipsoid, off centre by design: boolean `[D, H, W]`."""
    places = np.indices(shape).transpose(1, 2, 3, 0)
    return (((places - np.array(shape) * 0.48) / (np.array(shape) * 0.4)) ** 2).sum(axis=-1) < 1


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """`[4, D, H, W]` float32, z-scored in the brain, 0 outside."""
    random = np.random.default_rng(seed)
    inside = brain(shape)
    voxels = random.normal(size=(4, *shape)) + random.normal(size=(4, 1, 1, 1)) * np.indices(shape)[0] / shape[0]
    scored = (voxels - voxels[:, inside].mean(1)[:, None, None, None]) / voxels[:, inside].std(1)[:, None, None, None]
    return np.where(inside, scored, 0).astype(np.float32)


def tumour(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    centre = np.array(shape) * 0.45 + np.random.default_rng(seed).integers(-2, 3, 3)
    places = np.indices(shape).transpose(1, 2, 3, 0)
    return ((places - centre) ** 2).sum(axis=-1) < 9


def store(folder: Path, cohort: str, scans: int, masks: bool, contract: dict | None = None) -> Path:
    """`folder/cohort/volumes.tsv` of `scans` volumes."""
    rows = []
    for i in range(scans):
        scan = f"{cohort}-{i}"
        path = folder / cohort / f"{scan}.b2nd"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, volume(i + 100 * len(cohort)), {"preprocessing": contract or CONTRACT})
        if masks:
            np.save(path.with_suffix(".tumour.npy"), tumour(i).astype(np.uint8))
        who = {"cohort": cohort, "scan": scan, "patient": f"p{i}", "session": "1"}
        rows.append({**who, "volume": str(path), "sha256": load_card(path)["sha256"], "status": "ok", "reason": ""})
    write_table(folder / cohort / "volumes.tsv", pd.DataFrame(rows))
    return folder / cohort / "volumes.tsv"


@pytest.fixture
def volumes(tmp_path) -> Path:
    return store(tmp_path, "here", 3, masks=True)


def features(path: Path) -> np.ndarray:
    table = read_table(path)
    names = sorted((c for c in table if c[:1] == "e" and c[1:].isdigit()), key=lambda c: int(c[1:]))
    return table[names].to_numpy(float)
