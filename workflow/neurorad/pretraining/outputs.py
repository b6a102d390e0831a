"""The encoder folder: weights, card, history and groups; read back and compared before the run counts as done."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from neurorad import __version__
from neurorad.encoder import CARD, Encoder, load_encoder, parameter_count, save_weights
from neurorad.files import write_json, write_table
from neurorad.pretraining.checkpoint import ASIDE, CHECKPOINT
from neurorad.pretraining.runs import Progress, Run
from neurorad.pretraining.scans import Scans
from neurorad.problems import InputError
from neurorad.seeds import seed_of
from neurorad.volumes import SEQUENCES

LAST = "last.safetensors"
"""The weights after the last step, where another step's were chosen from."""

PACKAGES = ("torch", "monai", "numpy", "safetensors")


def encoder_card(run: Run, scans: Scans, encoder: Encoder, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Everything a later reader needs to use and judge the encoder; no clock times, so equal runs give equal bytes.

    `checkpoint`: of `Choice.card`.
    """
    return {
        "architecture": run.preset.values["encoder"],
        "dimension": encoder.dimension,
        "parameters": parameter_count(encoder),
        "method": run.method,
        "objective": run.objective,
        "seed": run.seed,
        "reference": run.reference,
        "checkpoint": checkpoint,
        "preset": {"name": run.preset.name, "values": run.preset.values},
        "sequences": list(SEQUENCES),
        "preprocessing": scans.preprocessing,
        "manifest_sha256": scans.manifest_sha256,
        "scans": len(scans.names),
        "patients": len(set(scans.patients)),
        "groups": scans.group_table(),
        "versions": {
            "neurorad": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }


def write_outputs(run: Run, scans: Scans, progress: Progress, out: Path) -> None:
    """Write the encoder folder, load it back, and only then remove the checkpoints.

    Raises:
        InputError: the stored encoder does not give the features of the trained one.
    """
    encoder = progress.method.exported.cpu().eval()
    choice = progress.choice
    (out / LAST).unlink(missing_ok=True)
    if choice.weights:
        save_weights(out, encoder, LAST)
    if choice.best != choice.steps:
        encoder.load_state_dict(choice.weights)
    save_weights(out, encoder)
    write_json(out / CARD, encoder_card(run, scans, encoder, choice.card()))
    write_table(out / "history.csv", pd.DataFrame(progress.history))
    write_table(out / "groups.csv", pd.DataFrame(progress.groups))
    check_stored(encoder, out)
    for name in (CHECKPOINT, ASIDE):
        (out / name).unlink(missing_ok=True)


@torch.no_grad()
def check_stored(encoder: Encoder, out: Path) -> None:
    """Compare features of the stored encoder with those of the trained one. Raises `InputError` where they differ."""
    stored, _ = load_encoder(out)
    shape = (1, len(SEQUENCES), *[2 * encoder.architecture.stride] * 3)
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(seed_of("load back")))
    if not torch.equal(stored(volume), encoder(volume)):
        raise InputError(f"{out}: the stored encoder differs from the trained one; check the disk and start again")
