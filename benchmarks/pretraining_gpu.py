"""Pretraining on one GPU, the preset `modern` as it is: `python benchmarks/pretraining_gpu.py [--methods moco] [--steps 12]`.

Of each method, with Group-DRO, in seconds a step: the whole of it, volumes read from the store by the job's own loader, none of them
kept in memory; the same with the volumes on the device already; its bare networks, forward, backward and optimiser, on
random tensors. Steps of each kind follow one another without waiting for the device, as in training.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pretraining import METHODS, bare_networks, large, small_run, stored_scans, views_against_monai

from neurorad import RESOURCES
from neurorad.pretraining.arithmetic import need
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.engine import _be_deterministic, make_batch, make_batches, sample_seeds, take_step
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Run, start
from neurorad.pretraining.scans import Scans
from neurorad.pretraining.step import Batch

SHAPE = (160, 192, 160)


def clock() -> float:
    """Seconds, when the device has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def of_one(step: Callable[[], object], steps: int) -> float:
    """Seconds of a step, over `steps` of them after two more."""
    step(), step()
    began = clock()
    for _ in range(steps):
        step()
    return (clock() - began) / steps


def method_row(run: Run, scans: Scans, steps: int, turns: int) -> dict[str, float]:
    fabric = make_fabric(torch.device("cuda"))
    _be_deterministic(fabric.device)
    progress = start(run, scans, fabric)
    batches = make_batches(run, scans, progress, fabric)

    def full() -> None:
        waiting = time.perf_counter()
        data = next(batches)
        waited.append(time.perf_counter() - waiting)
        take_step(run, scans, progress, *data, fabric)

    waited: list[float] = []
    torch.cuda.reset_peak_memory_stats()
    of_one(full, 2)
    peak = torch.cuda.max_memory_allocated() / 1e9
    chosen = list(range(run.preset.training.batch_size))
    resident = torch.stack([torch.from_numpy(scans.volume(scan)) for scan in chosen]).cuda()

    def views() -> Batch:
        seeds = sample_seeds(run, scans, progress.step, chosen)
        return make_batch(run, scans, progress.method, resident, chosen, seeds, progress.step)

    def on_the_device() -> None:
        batch = views()
        take_step(run, scans, progress, [batch], batch.groups, scans.names, fabric)

    works = {
        "full": full,
        "resident": on_the_device,
        "views": views,
        "bare": bare_networks(run, progress),
    }
    waited.clear()
    taken = [{name: of_one(work, steps) for name, work in works.items()} for _ in range(turns)]
    row = {name: float(np.median([turn[name] for turn in taken])) for name in works}
    batches.close()
    return row | {"peak": peak, "waited": float(np.mean(waited))}


def shown(run: Run, row: dict[str, float]) -> str:
    size, wanted = run.preset.training.batch_size, need(run.preset.values, run.method)
    card = (
        f"; {wanted.flops / row['full'] / 1e12:.0f} TFLOP/s; arithmetic {wanted.device_bytes() / 1e9:.1f} GB"
        if size == wanted.batch_size
        else ""
    )
    return (
        f"{1000 * row['full']:.0f} ms = {row['full'] / row['bare']:.2f} x its bare networks ({1000 * row['bare']:.0f} ms); "
        f"waits {row['waited'] / row['full']:.1%} of it for views; without a loader and a second thread "
        f"{1000 * row['resident']:.0f} ms, of which views {1000 * row['views']:.0f} ms; {size / row['full']:.0f} samples/s; "
        f"peak {row['peak']:.1f} GB{card}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--scans", type=int, default=28)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    card = torch.cuda.get_device_properties(0)
    print(
        f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        scans = stored_scans(Path(name), args.scans, SHAPE, 7)
        print(f"{args.scans} volumes written in {time.perf_counter() - began:.0f} s")
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            began = time.perf_counter()
            list(pool.map(scans.volume, range(args.scans)))
            print(f"read by all threads: {args.scans / (time.perf_counter() - began):.0f} scans/s")
        for method in args.methods:
            preset = read_preset(RESOURCES / "presets.yaml", "modern", method)
            modern = Run(method, "dro", 0, replace(preset, training=replace(preset.training, log_every=10**9)))
            for title, run in (("modern", modern), ("resnet50, 64^3, batch 8", large(small_run(method, "dro")))):
                print(f"{method:4s} {title}: {shown(run, method_row(run, scans, args.steps, args.turns))}", flush=True)
        for what, value in views_against_monai(Path(name), "cuda", clock):
            print(what, value)


if __name__ == "__main__":
    main()
