"""How large a study will be: scans, disk, hours. Estimates, each with the assumption it rests on."""

import math
import time
from typing import Any

import torch

from neurorad import RESOURCES
from neurorad.doctor.checks import NOTE, OK, PROBLEM, Finding
from neurorad.encoder import Encoder, choose_device
from neurorad.pretraining.arithmetic import SUSTAINED, learning_flops, need, views
from neurorad.pretraining.presets import Preset, read_preset
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SECONDS_A_SCAN = 8.0
"""Preprocessing of one stripped scan on one CPU core at 2 mm, measured on the phantom study; finer scans take longer."""


def measured_speed(preset: Preset, size: int) -> tuple[str, float]:
    """Device, and FLOP/s of one forward and backward pass of the bare encoder on it (the second of two passes)."""
    device = choose_device("auto")
    # Two would leave a GPU idle.
    count = 16 if device.type == "cuda" else 2
    encoder = Encoder(preset.encoder).to(device)
    view = torch.randn(count, 4, size, size, size, device=device)
    for _ in range(2):
        begin = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            encoder(view).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    return device.type, count * learning_flops(preset.values["encoder"], size) / seconds


def check_size(config: dict[str, Any], scans: dict[str, int]) -> list[Finding]:
    """Scans, disk and hours of a study; `scans`: complete ones by cohort."""
    imaging, pretraining = config["imaging"], config["pretraining"]
    total = sum(scans.values())
    by_role = {
        role: sum(n for cohort, n in scans.items() if role in config["cohorts"][cohort]["role"])
        for role in ("pretrain", "test")
    }
    voxels = len(SEQUENCES) * math.prod(imaging["shape"])
    hours = total * SECONDS_A_SCAN / 3600
    preprocessing = f"{hours:.1f} CPU-hours" if hours >= 1 else f"{math.ceil(60 * hours)} CPU-minutes"
    findings = [
        (
            OK,
            f"{total} scans: {by_role['pretrain']} for pretraining before the leakage audit, {by_role['test']} to test",
        ),
        (
            OK,
            f"volumes: at most {max(total * voxels * 2 / 2**30, 0.1):.1f} GiB on disk, and pretraining holds its share in memory",
        ),
        (
            NOTE,
            f"preprocessing: about {preprocessing} ({SECONDS_A_SCAN:.0f} s a stripped scan)",
        ),
    ]
    if pretraining.get("freeze"):
        return [*findings, (OK, "pretraining: nothing, encoders are frozen")]
    try:
        presets = [
            read_preset(RESOURCES / "presets.yaml", pretraining["preset"], name) for name in pretraining["methods"]
        ]
    except InputError as problem:
        return [*findings, (PROBLEM, str(problem))]
    runs = len(pretraining["objectives"]) * len(pretraining["seeds"])
    named = list(zip(pretraining["methods"], presets, strict=True))
    work = sum(runs * preset.training.steps * need(preset.values, name).flops for name, preset in named)
    largest = max(views(presets[0].values, pretraining["methods"][0]))
    device, speed = measured_speed(presets[0], largest)
    count = runs * len(presets)
    return [
        *findings,
        (
            NOTE,
            f"pretraining: {count} encoders, {work:.2g} FLOP; {work / SUSTAINED[80] / 3600:.2g} GPU-hours at an assumed "
            f"{SUSTAINED[80] / 1e12:.0f} TFLOP/s of a card of 80 GB; {work / speed / 3600:.2g} hours on this machine's "
            f"{device} one after another (measured {speed / 1e9:.0f} GFLOP/s of the bare network)",
        ),
    ]
