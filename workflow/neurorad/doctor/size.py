"""How large a study will be: scans, disk, hours. Estimates, each with the assumption it rests on."""

import math
import time
from typing import Any

import torch

from neurorad import RESOURCES
from neurorad.doctor.checks import NOTE, OK, PROBLEM, Finding
from neurorad.encoder import Encoder, choose_device
from neurorad.pretraining.arithmetic import SUSTAINED
from neurorad.pretraining.presets import Preset, read_preset
from neurorad.pretraining.runs import Run, build_method
from neurorad.pretraining.step import Method
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SECONDS_A_SCAN = 8.0
"""Preprocessing of one stripped scan on one CPU core at 2 mm, measured on the phantom study; finer scans take longer."""


def forward_flops(encoder: Encoder, size: int) -> float:
    """FLOP of one view `[1, 4, size, size, size]` through the encoder, counted without computing it."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.to("meta")(torch.empty(1, 4, size, size, size, device="meta"))
    return float(counter.get_total_flops())


def step_flops(preset: Preset, method: Method) -> float:
    """FLOP of one optimiser step: every view costs 3 forward passes (backward is 2), and those that a momentum network
    sees as well (all of the largest size) one more. Heads and MAE's decoder are left out: a few per cent."""
    sizes = [crop.size for crop in method.crops]
    momentum = any("target" in name or "teacher" in name or "key" in name for name, _ in method.named_children())
    passes = [3 + (1 if momentum and size == max(sizes) else 0) for size in sizes]
    each = {size: forward_flops(Encoder(preset.encoder), size) for size in set(sizes)}
    return preset.training.batch_size * sum(each[size] * count for size, count in zip(sizes, passes, strict=True))


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
    return device.type, count * 3 * forward_flops(Encoder(preset.encoder), size) / seconds


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
    work = 0.0
    for name, preset in zip(pretraining["methods"], presets, strict=True):
        method = build_method(Run(name, "base", 0, preset), max(by_role["pretrain"], 2))
        work += runs * preset.training.steps * step_flops(preset, method)
        largest = max(crop.size for crop in method.crops)
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
