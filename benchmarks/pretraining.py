"""Speed of pretraining, as ratios measured side by side: `python benchmarks/pretraining.py [--only a b c d e f]`.

Every pair is measured in turns, and the table holds ratios of medians of CPU time (all threads), so that other jobs on
the machine do not count. Only (a)'s waiting and (f), which are about the clock, need a machine of their own. Sizes are
what a small machine can do; each row says which.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from published_pipeline import published_pipeline

from neurorad import RESOURCES, volumes
from neurorad.pretraining import engine
from neurorad.pretraining.devices import keep_freed_memory, make_fabric
from neurorad.pretraining.engine import make_batches, take_step
from neurorad.pretraining.geometry import Crop, brain_share
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Progress, Run, start
from neurorad.pretraining.scans import Scans
from neurorad.pretraining.step import Batch
from neurorad.pretraining.views import make_views

METHODS = ("byol", "dino", "mae", "moco")


def stored_scans(folder: Path, count: int, shape: tuple[int, int, int], groups: int = 4) -> Scans:
    """Smooth noise in an ellipsoid, in the volume store."""
    random = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum((axis / 0.85) ** 2 for axis in axes) < 1
    names, paths = [f"scan-{number}" for number in range(count)], []
    for name in names:
        paths.append(str(folder / f"{name}.b2nd"))
        coarse = torch.from_numpy(random.normal(size=(1, 4, *(n // 4 for n in shape))))
        voxels = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0].numpy() * inside
        volumes.save(paths[-1], voxels, {})
    own = [number % groups for number in range(count)]
    return Scans(names, names, own, [f"g{g}" for g in range(groups)], paths, (4, *shape), {}, "")


def median_of_turns(
    turns: int, *works: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Median seconds of each, of CPU time unless by another clock, one after the other in every turn; a first turn is not
    counted."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 1):
        for own, work in zip(taken, works, strict=True):
            began = clock()
            work()
            if turn:
                own.append(clock() - began)
    return [statistics.median(own) for own in taken]


def small_run(method: str, objective: str = "base", **changed: object) -> Run:
    preset = read_preset(RESOURCES / "presets.yaml", "demo", method)
    training = replace(preset.training, **{"batch_size": 8, "log_every": 10**9, "steps": 10**6, **changed})
    return Run(method, objective, 0, replace(preset, training=training))


def stepper(run: Run, scans: Scans) -> tuple[Progress, Callable[[], object]]:
    fabric = make_fabric(torch.device("cpu"))
    progress = start(run, scans, fabric)
    batches = make_batches(run, scans, progress, fabric)

    def step() -> None:
        take_step(run, scans, progress, *next(batches), fabric)

    return progress, step


def large(run: Run) -> Run:
    """The same method with a resnet50 as in the preset modern, at 64^3 (local crops of DINO: 32^3)."""
    encoder = replace(run.preset.encoder, name="resnet50", width=64, stem_pool=True)
    crops = {
        name: Crop(32 if "local" in name else 64, value.scale)
        for name, value in vars(run.preset.method).items()
        if isinstance(value, Crop)
    }
    method = replace(run.preset.method, **crops, **({"block": 16} if run.method == "mae" else {}))
    return replace(run, preset=replace(run.preset, encoder=encoder, method=method))


def waiting_for_data(folder: Path) -> list[tuple[str, str]]:
    """(a) resnet50 on 64-voxel crops of full volumes, batch 8; and the loader alone against the published pipeline."""
    shape, count = (160, 192, 160), 8
    scans = stored_scans(folder / "a", count, shape)
    run = large(small_run("mae"))
    fabric = make_fabric(torch.device("cpu"))
    progress = start(run, scans, fabric)
    waits, steps, waited = [], [], [0.0]
    real = Scans.ahead

    def ahead(self: Scans, *rest: object, **options: object) -> Iterator[torch.Tensor]:
        source = real(self, *rest, **options)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            waited[0] = time.perf_counter() - began
            if batch is None:
                return
            yield batch

    Scans.ahead = ahead
    try:
        began = time.perf_counter()
        for number, (batches, groups, names) in enumerate(make_batches(run, scans, progress, fabric)):
            take_step(run, scans, progress, batches, groups, names, fabric)
            if number:
                waits.append(waited[0])
                steps.append(time.perf_counter() - began)
            began = time.perf_counter()
            if number == 3:
                break
    finally:
        Scans.ahead = real
    share = statistics.median(wait / step for wait, step in zip(waits, steps, strict=True))
    release = published_pipeline(folder / "nifti")
    same = stored_scans(folder / "same", count, (128, 128, 128))
    chosen = iter(range(10**6))
    fine, coarse, theirs = median_of_turns(
        3,
        lambda: scans.volume(next(chosen) % count),
        lambda: [same.volume(scan) for scan in range(4)],
        release,
    )
    return [
        ("a: share of a step waiting for data (resnet50, 64^3, batch 8)", f"{share:.1%} (at most 5 %)"),
        (
            "a: scans/s of the store, 1 mm, 160 x 192 x 160, over the published pipeline",
            f"{theirs / fine:.0f} x (at least 50); {1 / fine:.1f} and {1 / theirs:.2f} scans/s",
        ),
        (
            "a: scans/s of the store, 2 mm, 128^3, over the published pipeline",
            f"{4 * theirs / coarse:.0f} x (at least 50); {4 / coarse:.1f} and {1 / theirs:.2f} scans/s",
        ),
    ]


def bare_networks(run: Run, progress: Progress) -> Callable[[], object]:
    """Forward, backward and optimiser of the same networks on random tensors of the views' shapes: every network the
    method runs, no losses, no schedules, no momentum, no views."""
    method, optimiser = progress.method, progress.optimiser
    size, device = run.preset.training.batch_size, next(method.parameters()).device
    views = [torch.randn(size, 4, *[crop.size] * 3, device=device) for crop in method.crops]
    precision = Batch(views, torch.empty(0), [], 0, torch.empty(0)).precision

    def outputs() -> list[torch.Tensor]:
        match run.method:
            case "byol":
                outputs = [method.predictor(method.projector(method.encoder(view))) for view in views]
                watched = [(method.target_encoder, method.target_projector, view) for view in views]
            case "dino":
                outputs = [method.head(method.encoder(view)) for view in views]
                watched = [(method.teacher_encoder, method.teacher_head, view) for view in views[:2]]
            case "moco":
                outputs = [method.projector(method.encoder(views[0]))]
                watched = [(method.target_encoder, method.target_projector, views[1])]
            case _:
                outputs, watched = [method.decoder(method.encoder.feature_map(views[0]))], []
        with torch.no_grad():
            for encoder, head, view in watched:
                head(encoder(view))
        return outputs

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with precision():
            learned = outputs()
        sum(output.float().mean() for output in learned).backward()
        optimiser.step()

    return step


def full_steps(
    folder: Path, methods: Sequence[str], turns: int, sizes: Sequence[str], batch: int
) -> list[tuple[str, str]]:
    """(b): views, losses, schedules, momentum networks' update and records over `bare_networks`."""
    scans, rows = stored_scans(folder / "b", 16, (96, 112, 96)), []
    scans.kept.update({number: scans.volume(number) for number in range(16)})
    for size in sizes:
        for name in methods:
            run = small_run(name, batch_size=batch)
            run = large(run) if size == "resnet50" else run
            progress, step = stepper(run, scans)
            full, bare = median_of_turns(turns, step, bare_networks(run, progress))
            what = "resnet50, 64^3" if size == "resnet50" else "resnet10/16, 32^3"
            rows.append(
                (f"b: full step of {name} ({what}, batch {batch}) over its bare networks", f"{full / bare:.3f} x")
            )
    return rows


def with_dro(folder: Path, turns: int = 15) -> list[tuple[str, str]]:
    """(d) the difference of whole steps, and, as that is less than their noise on a shared machine, the time spent in
    the one function that the objectives differ in."""
    scans, weigh, spent = stored_scans(folder / "b", 16, (48, 64, 48)), engine._weigh, [0.0]
    scans.kept.update({number: scans.volume(number) for number in range(16)})

    def timed(*rest: object) -> torch.Tensor:
        began = time.process_time()
        weights = weigh(*rest)
        spent[0] += time.process_time() - began
        return weights

    steps = [stepper(small_run("byol", objective), scans)[1] for objective in ("base", "dro")]
    base, dro = median_of_turns(turns, *steps)
    engine._weigh = timed
    try:
        for _ in range(turns):
            steps[1]()
    finally:
        engine._weigh = weigh
    return [
        ("d: step of byol with Group-DRO over without (resnet10/16, 32^3)", f"{100 * (dro / base - 1):+.1f} %"),
        ("d: time in Group-DRO's weights, of a step (at most 1 %)", f"{100 * spent[0] / turns / base:.2f} %"),
    ]


def views_against_monai(
    folder: Path, device: str = "cpu", clock: Callable[[], float] = time.process_time
) -> list[tuple[str, str]]:
    """(c) eight scans of 96^3 to 64^3: the same geometry and effects with the same probability in MONAI's transforms."""
    from monai import transforms as mt

    source, size = torch.randn(8, 4, 96, 96, 96), 64
    preset = read_preset(RESOURCES / "presets.yaml", "demo", "byol")
    # A sequence that is dropped needs no other change, and MONAI drops none.
    one = replace(preset.intensity, sequence_dropout=0.0)
    each = mt.Compose(
        [
            mt.RandSpatialCrop([48] * 3, max_roi_size=[96] * 3, random_size=True),
            mt.Resize([size] * 3, mode="trilinear"),
            mt.RandFlip(0.5, spatial_axis=0),
            mt.RandAffine(prob=1.0, rotate_range=[0.17] * 3, scale_range=[0.1] * 3, padding_mode="zeros"),
            mt.RandAdjustContrast(0.5, (1 / one.gamma, one.gamma)),
            mt.RandBiasField(prob=0.5, degree=3),
            mt.RandScaleIntensity(one.contrast - 1, prob=0.5),
            mt.RandShiftIntensity(one.brightness, prob=0.5),
            mt.RandGibbsNoise(prob=0.5, alpha=(0.0, one.gibbs)),
            mt.RandGaussianSmooth(*[(0.0, one.blur)] * 3, prob=0.5),
            mt.RandSimulateLowResolution(prob=0.5, zoom_range=(1 / one.low_resolution, 1.0)),
            mt.RandGaussianNoise(prob=0.5, std=one.noise),
        ]
    )
    crops, seeds, share = [Crop(size, (0.5, 1.0))], iter(range(10**6)), brain_share(source)
    there = source.to(device)

    def ours() -> None:
        make_views(there, share, [next(seeds) for _ in range(8)], crops, preset.geometry, one)

    batched, single = median_of_turns(7, ours, lambda: [each(volume) for volume in source], clock=clock)
    return [
        (
            "c: batched views over MONAI per sample (8 of 96^3 to 64^3)",
            f"{single / batched:.2f} x (at least 3); {1000 * batched:.0f} and {1000 * single:.0f} ms",
        )
    ]


def memory_over_steps(folder: Path, steps: int = 2000) -> list[tuple[str, str]]:
    """(e) resident memory after 200 and after all steps, volumes read from the store at every step."""
    scans = stored_scans(folder / "e", 16, (20, 24, 20))
    run = small_run("moco", "dro", batch_size=4, log_every=10)
    method = replace(run.preset.method, crop=Crop(16, (0.5, 1.0)))
    run = replace(run, preset=replace(run.preset, encoder=replace(run.preset.encoder, width=4), method=method))
    _, step = stepper(run, scans)
    seen = {}
    for number in range(1, steps + 1):
        step()
        if number in (200, steps):
            gc.collect()
            seen[number] = psutil.Process().memory_info().rss / 2**20
    growth = seen[steps] - seen[200]
    return [(f"e: resident memory from step 200 to {steps} (moco, dro)", f"{growth:+.1f} MiB of {seen[200]:.0f}")]


def two_ranks(folder: Path) -> list[tuple[str, str]]:
    """(f) samples/s of two ranks of one thread over one such process, batch 8, in turns: one that has the machine for itself,
    and one beside which another has the second core, as two busy cores may be slower than one."""

    def rate(ranks: int, size: str) -> float:
        command = [sys.executable, __file__, "--rank-of", str(ranks), "--sizes", size]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    rows = []
    for size, what in (("resnet10", "resnet10/16, 32^3"), ("resnet50", "resnet50, 64^3")):
        alone, beside, both = [], [], []
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                alone.append(rate(1, size))
                beside += pool.map(rate, (1, 1), (size, size))
                both.append(rate(2, size))
        one, busy, two = (statistics.median(each) for each in (alone, beside, both))
        rows.append(
            (
                f"f: samples/s of two ranks over one process (byol, {what}, batch 8)",
                f"{two / one:.2f} x one alone, {two / busy:.2f} x one beside which another runs (at least 1.6); "
                f"{two:.2f}, {one:.2f} and {busy:.2f}",
            )
        )
    return rows


def samples_per_second(count: int, size: str) -> None:
    fabric = make_fabric(torch.device("cpu"), count)
    torch.set_num_threads(1)
    run, shape, steps = small_run("byol"), (48, 64, 48), 17
    if size == "resnet50":
        run, shape, steps = large(run), (96, 112, 96), 6
    with tempfile.TemporaryDirectory() as name:
        scans = stored_scans(Path(name), 16, shape)
    progress = start(run, scans, fabric)
    scans.kept.update({n: np.random.default_rng(n).normal(size=scans.shape).astype(np.float16) for n in range(16)})
    taken, began = [], time.perf_counter()
    for batches, groups, names in make_batches(run, scans, progress, fabric):
        take_step(run, scans, progress, batches, groups, names, fabric)
        taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        if progress.step == steps:
            break
    if fabric.is_global_zero:
        print(8 / statistics.median(taken[1:]))


PARTS = {
    "a": waiting_for_data,
    "c": views_against_monai,
    "d": with_dro,
    "e": memory_over_steps,
    "f": two_ranks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["b", *PARTS], default=sorted(["b", *PARTS]))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of part b")
    parser.add_argument("--sizes", nargs="+", choices=["resnet10", "resnet50"], default=["resnet10", "resnet50"])
    parser.add_argument("--turns", type=int, default=3, help="of part b")
    parser.add_argument("--batch", type=int, default=8, help="of part b")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.rank_of:
        samples_per_second(args.rank_of, args.sizes[0])
        return
    # As in training, for what it is compared with too.
    keep_freed_memory()
    print(f"{os.cpu_count()} cores, {args.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    for part in args.only:
        with tempfile.TemporaryDirectory() as name:
            for subfolder in ("a", "b", "e", "same"):
                (Path(name) / subfolder).mkdir()
            folder = Path(name)
            rows = (
                full_steps(folder, args.methods, args.turns, args.sizes, args.batch)
                if part == "b"
                else PARTS[part](folder)
            )
            for what, value in rows:
                print(f"{what:80s} {value}", flush=True)


if __name__ == "__main__":
    main()
