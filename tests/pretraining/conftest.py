"""A small synthetic study: ellipsoid brains with a bright blob, seven groups that differ in noise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from neurorad import RESOURCES, volumes
from neurorad.files import write_table
from neurorad.seeds import generator

CONTRACT = {"spacing": [3.0, 3.0, 3.0], "normalisation": "z-score in brain", "atlas": "none"}


def brain(seed: int, shape: tuple[int, int, int], noise: float) -> np.ndarray:
    """`[4, D, H, W]`, z-scored in the brain, 0 outside."""
    random = generator("brain", seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum((axis / 0.85) ** 2 for axis in axes) < 1
    blob = np.exp(
        -sum((axis - centre) ** 2 for axis, centre in zip(axes, random.uniform(-0.4, 0.4, 3), strict=True)) / 0.05
    )
    volume = np.stack([random.normal(0, noise, shape) + random.uniform(1, 3) * blob + axes[2] for _ in range(4)])
    values = volume[:, inside]
    scored = (volume - values.mean(1)[:, None, None, None]) / values.std(1)[:, None, None, None]
    return scored * inside


def write_study(
    folder: Path,
    scans: int = 14,
    groups: int = 7,
    shape: tuple[int, int, int] = (20, 24, 20),
    contract: dict = CONTRACT,
) -> Path:
    """Volumes and a manifest; two scans of a patient follow each other in every fourth patient."""
    rows = []
    for number in range(scans):
        group, patient = number % groups, number // groups - (number // groups) // 4
        path = folder / "volumes" / f"scan-{number}.b2nd"
        digest = volumes.save(path, brain(number, shape, 0.2 + 0.1 * group), {"preprocessing": contract})
        rows.append((f"cohort-{group}", f"scan-{number}", f"p{group}-{patient}", f"group-{group}", str(path), digest))
    manifest = folder / "pretraining_manifest.tsv"
    columns = ["cohort", "scan", "patient", "group", "volume", "sha256"]
    write_table(manifest, pd.DataFrame(rows, columns=columns))
    return manifest


def write_tiny_presets(path: Path, **training: object) -> Path:
    """The demo preset shrunk until a step takes milliseconds; `training` overrides its section."""
    preset = yaml.safe_load((RESOURCES / "presets.yaml").read_text())["demo"]
    preset["encoder"]["width"] = 4
    preset["training"].update({"steps": 5, "batch_size": 4, "log_every": 1, **training})
    preset["dro"].update({"warmup": 0.0})
    for method in ("byol", "mae", "moco"):
        preset[method]["crop"]["size"] = 16
    preset["dino"]["global_crop"]["size"], preset["dino"]["local_crop"]["size"] = 16, 8
    for method in ("byol", "dino", "moco"):
        preset[method]["hidden"] = 16
    preset["byol"]["output"] = preset["moco"]["output"] = preset["dino"]["bottleneck"] = 8
    preset["dino"]["prototypes"] = 16
    path.write_text(yaml.safe_dump({"tiny": preset}))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks this small lose more to threads than they win."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 14 scans in 7 groups."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def tiny_presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_presets(tmp_path_factory.mktemp("presets") / "presets.yaml")
