"""A small phantom study through the real verbs, started, killed, finished and compared by its files."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]


def phantom_cohort(name: str, role: str, **labels: str) -> dict:
    images = f"results/phantom/{name}"
    return {"release": name, "role": [role], "images": images} | {k: f"{images}/{v}" for k, v in labels.items()}


STUDY = {
    "phantom": {"seed": 0, "scale": 0.15, "spacing": 4.0},
    "cohorts": {
        "brats-gli-pre": phantom_cohort("brats-gli-pre", "pretrain"),
        "brats-ped": phantom_cohort("brats-ped", "pretrain"),
        "ucsf-pdgm": phantom_cohort("ucsf-pdgm", "test", labels="UCSF-PDGM-metadata_v5.csv"),
        "cuimc": phantom_cohort("cuimc", "test", labels="cuimc.csv"),
    },
    "labels": {"unknown": "quarantine"},
    "leakage": {
        "crosswalks": [
            {
                "table": str(ROOT / "resources" / "phantom_crosswalk.csv"),
                "covers": ["brats-gli-pre", "ucsf-pdgm"],
            }
        ]
    },
    "imaging": {"spacing": 4, "shape": [40, 48, 40], "n4": True, "brain_mask": {"method": "deepbet"}},
    "pretraining": {
        "methods": ["byol"],
        "objectives": ["base", "dro"],
        "seeds": [0],
        "preset": "demo",
        "groups": "cohort",
        "min_patients": 1,
    },
    "evaluation": {"folds": 2, "repeats": 1, "bootstrap": 100, "seed": 0},
    "explanation": {"endpoints": ["idh1", "os"], "patients": 2, "layer": "layer3", "native": "t1c"},
}


def command(folder: Path, *arguments: str) -> list[str]:
    tool = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*tool, "--configfile", str(folder / "study.yaml"), "--scheduler", "greedy", *arguments]


def new_study(folder: Path, config: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    return folder


def finish(folder: Path) -> str:
    done = subprocess.run(
        command(folder, "--cores", "2", "--rerun-incomplete"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def start(folder: Path, log: Path, *arguments: str) -> subprocess.Popen:
    """The study in the background, in a session of its own; what it prints is added to `log`."""
    with open(log, "ab") as stream:
        return subprocess.Popen(
            command(folder, "--cores", "2", "--rerun-incomplete", *arguments),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def kill(run: subprocess.Popen) -> None:
    """SIGKILL to Snakemake and every job of it: no process gets to say goodbye."""
    for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    run.wait()


def unlock(folder: Path) -> None:
    subprocess.run(command(folder, "--unlock"), capture_output=True, check=True)


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    results = folder / "results"
    # TensorBoard's records of a training hold the time of day: the folder is no part of what must be equal.
    paths = sorted(path for pattern in patterns for path in results.glob(pattern) if path.is_file())
    assert paths
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


RESULTS = (
    *("tables/*", "figures/*", "embeddings/*/*", "evaluation/**/*.parquet", "encoders/*/*", "cohorts/**/*.tsv"),
    "explanation/*/*/native/*",
)
"""What must be equal, byte by byte, whatever happened on the way."""
