"""The cost card of a run: what it needs by arithmetic, and what this machine does with it, measured."""

import time
from dataclasses import replace

import torch

from neurorad.pretraining.arithmetic import SUSTAINED, job_memory_mb, job_minutes, need
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.draws import moved
from neurorad.pretraining.engine import make_batch, sample_seeds, take_step
from neurorad.pretraining.presets import Preset
from neurorad.pretraining.runs import Run, start
from neurorad.pretraining.scans import Scans

PROBE_SAMPLES, PROBE_STEPS = 2, 10
"""Samples on a CPU, where a sample takes the same time in any batch."""


def probe_samples(preset: Preset, method: str, shape: tuple[int, int, int], device: torch.device) -> int:
    """On a GPU those that it holds of a batch: two leave it idle, and would have told seven hours where it needs one."""
    if device.type != "cuda":
        return PROBE_SAMPLES
    room = torch.cuda.get_device_properties(device).total_memory / 1e9
    return need(preset.values, method, shape).samples_at_once(room)


def random_scans(shape: tuple[int, int, int], count: int) -> Scans:
    """Volumes of noise in memory, one group each: time does not depend on what is in them."""
    names = [f"scan-{number}" for number in range(count)]
    voxels = torch.randn(count, 4, *shape, generator=torch.Generator().manual_seed(0)).half().numpy()
    return Scans(names, names, list(range(count)), names, names, (4, *shape), {}, "", dict(enumerate(voxels)))


def probe(
    preset: Preset, method: str, shape: tuple[int, int, int], device: torch.device, seconds: float
) -> tuple[float, int, float] | None:
    """Samples a second, views and optimiser included, over at most `PROBE_STEPS` steps of `probe_samples` samples and
    at most about `seconds`; number of steps; peak bytes of a GPU, or 0. A first step is not counted. None on a GPU that
    does not hold the two samples that a batch has at least."""
    count = probe_samples(preset, method, shape, device)
    if count < 2:
        return None
    scans = random_scans(shape, count)
    preset = replace(preset, training=replace(preset.training, batch_size=count, log_every=10**9))
    run, fabric = Run(method, "dro", 0, preset), make_fabric(device)
    progress = start(run, scans, fabric)
    chosen = list(range(count))
    voxels = torch.stack([torch.from_numpy(scans.volume(scan)) for scan in chosen])
    steps, began = 0, time.perf_counter()
    while progress.step <= PROBE_STEPS:
        seeds = sample_seeds(run, scans, progress.step, chosen)
        batch = make_batch(run, scans, progress.method, moved(voxels, device), chosen, seeds, progress.step)
        take_step(run, scans, progress, [batch], batch.groups, scans.names, fabric)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if progress.step == 1:
            began = now
            continue
        steps += 1
        if now - began > seconds:
            break
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return count * steps / (time.perf_counter() - began), steps, float(peak)


def card(
    preset: Preset,
    method: str,
    shape: tuple[int, int, int],
    device: str,
    measured: tuple[float, int, float] | None,
) -> str:
    """The card as text. `measured`: what `probe` returned."""
    wanted = need(preset.values, method, shape)
    samples = wanted.steps * wanted.batch_size
    lines = [
        f"{method}, preset {preset.name}: {wanted.steps} steps of {wanted.batch_size} samples",
        f"encoder            {wanted.parameters / 1e6:.1f} million parameters",
        f"work               {wanted.flops / 1e12:.2f} TFLOP a step, {wanted.steps * wanted.flops / 1e18:.2f} EFLOP in all",
        f"GPU memory         {wanted.device_bytes() / 1e9:.1f} GB ({wanted.sample_bytes / 1e9:.2f} a sample, "
        f"{wanted.view_bytes / 1e9:.2f} its volumes and views, {wanted.state_bytes / 1e9:.2f} of state); by arithmetic "
        "(bfloat16, heads left out)",
        f"host memory        {job_memory_mb(preset.values, shape)} MB; Snakemake asks for this, and for "
        f"{job_minutes(preset.values, method)} minutes",
    ]
    look = " (dro, excess and worst look at all samples before they learn, and take up to half as long again)"
    for gigabytes, speed in SUSTAINED.items():
        parts = wanted.micro_batches(gigabytes)
        whole = "" if wanted.divisible else ", and cannot be divided by --accumulate"
        fits = f"does not fit{whole}" if parts is None else "" if parts == 1 else f", --accumulate {parts}{look}"
        hours = "" if parts is None else f"{wanted.hours(speed):.1f} h"
        lines.append(f"{gigabytes} GB card         {hours}{fits} (assumed: {speed / 1e12:.0f} TFLOP/s sustained)")
    if measured:
        pace, steps, peak = measured
        memory = f", peak {peak / 1e9:.1f} GB" if peak else ""
        lines.append(
            f"this machine       {pace:.3g} samples/s on {device} ({steps} steps{memory}), so "
            f"{samples / pace / 3600:.3g} h; {pace * wanted.flops / wanted.batch_size / 1e9:.0f} GFLOP/s"
        )
    return "\n".join(lines)
