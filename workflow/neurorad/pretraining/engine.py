"""The training loop: one run from a seed to the last step, on any number of devices, stopped and resumed without a
trace."""

import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from neurorad.pretraining.devices import anywhere, gathered, one_ahead, share, towards_host
from neurorad.pretraining.draws import moved
from neurorad.pretraining.dro import group_sums
from neurorad.pretraining.keeper import Keeper, stop_signals
from neurorad.pretraining.objectives import WEIGHTED, compared, total_loss
from neurorad.pretraining.runs import Progress, Run, start
from neurorad.pretraining.sampler import make_sampler
from neurorad.pretraining.scans import LostVolumeError, Scans
from neurorad.pretraining.step import Batch, Method, StepResult, learning_rate
from neurorad.pretraining.views import make_views
from neurorad.pretraining.watch import Meter, Watchdog, event_files, group_rows, history_row, troubles
from neurorad.problems import InputError
from neurorad.seeds import seed_of


def train(
    run: Run,
    scans: Scans,
    out: Path,
    fabric: Fabric,
    parts: int = 1,
    checkpoint_seconds: float = 300.0,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Progress:
    """Train to the last step, from the checkpoint in `out` if it belongs to this run.

    On SIGTERM or SIGUSR1 the step is finished, the checkpoint written, and SystemExit(128 + signal) raised.

    Args:
        parts: micro-batches that each device divides its samples of a step into, to save memory.
        checkpoint_seconds: between checkpoints.

    Raises:
        InputError: loss or gradient not finite, loss diverged, features collapsed, a volume that cannot be read any
            more, or a checkpoint that cannot be written. The last good checkpoint stays.
    """
    training = run.preset.training
    say = say if fabric.is_global_zero else lambda text: None
    if len(scans.names) < training.batch_size:
        say(f"{len(scans.names)} scans are fewer than the batch size {training.batch_size}: scans repeat in a batch")
    _be_deterministic(fabric.device)
    progress = start(run, scans, fabric, parts)
    keeper = Keeper(out, run.identity(scans, fabric.device), checkpoint_seconds, fabric.is_global_zero, say)
    keeper.resume(progress)
    meter, watchdog = Meter(progress.step, training.steps, training.batch_size, say), Watchdog()
    with stop_signals() as received, event_files(out, progress.step, fabric.is_global_zero) as write_events:
        told, stopping = None, anywhere(fabric, 0)
        try:
            _probe_if_due(progress, fabric)
            for batches, groups, names in make_batches(run, scans, progress, fabric):
                before, told = told, take_step(run, scans, progress, batches, groups, names, fabric)
                # Read one step late, when a GPU has the next step to do, but for the first step and the last.
                late = told if before is None or progress.step == training.steps else before
                late.check()
                meter.tick(progress.step, late.mean_loss)
                if progress.history[-1]["step"] == progress.step - 1:
                    rows = progress.groups[-len(scans.group_names) :]
                    write_events(progress.history[-1], rows)
                    largest_rank = min(training.batch_size - 1, progress.method.exported.dimension)
                    watchdog.look(progress.step - 1, troubles(progress.history, rows, run.warmup, largest_rank))
                if progress.choice.due(progress.step):
                    told.check()
                _probe_if_due(progress, fabric)
                asked, stopping = stopping, anywhere(fabric, received[0] if received else 0)
                # Several processes stop a step late, too, but all at the same step.
                stop = stopping() if fabric.world_size == 1 else asked()
                if stop or keeper.due():
                    told.check()
                keeper.look(progress, healthy=not watchdog.wrong, now=stop > 0)
                if stop:
                    say(f"stopped by {signal.Signals(stop).name} at step {progress.step}; start again to continue")
                    raise SystemExit(128 + stop)
        except LostVolumeError as problem:
            if told:
                told.check()
            keeper.look(progress, healthy=not watchdog.wrong, now=True)
            raise InputError(f"step {progress.step}: {problem}; then start again to continue") from problem
    return progress


def _probe_if_due(progress: Progress, fabric: Fabric) -> None:
    if fabric.is_global_zero and progress.choice.due(progress.step):
        progress.choice.look(progress.step, progress.method.exported)


def _be_deterministic(device: torch.device) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    # Else every tensor is filled before it is written: a thousand kernels a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # On CUDA a warning, elsewhere an error: before 2.14 PyTorch has no deterministic gradient of MaxPool3d there.
    # Unlike torch.use_deterministic_algorithms, it does not import the compiler, which takes 1.5 s.
    torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")


StepData = tuple[list[Batch], Tensor, list[str]]
"""This process's micro-batches; group codes `[B]` and names of all samples."""


def make_batches(run: Run, scans: Scans, progress: Progress, fabric: Fabric) -> Iterator[StepData]:
    """For each step still to do; for a GPU one ahead."""
    made = _make_batches(run, scans, progress, fabric)
    return one_ahead(made, _tensors_of, fabric.device) if fabric.device.type == "cuda" else made


def _tensors_of(data: StepData) -> list[Tensor]:
    batches, groups, _ = data
    return [groups, *(tensor for batch in batches for tensor in (*batch.views, batch.patients, batch.groups))]


def _make_batches(run: Run, scans: Scans, progress: Progress, fabric: Fabric) -> Generator[StepData, None, None]:
    training, device = run.preset.training, fabric.device
    sampler = make_sampler(
        training.sampling,
        run.objective,
        scans.groups,
        scans.patients,
        training.batch_size,
        run.seed,
        run.preset.dro.allow_natural,
    )
    steps = range(progress.step, training.steps)

    def samples(step: int) -> list[list[tuple[int, int]]]:
        chosen = sampler.batch(step)
        return share(list(zip(chosen, sample_seeds(run, scans, step, chosen), strict=True)), fabric, progress.parts)

    own = ([scan for part in samples(step) for scan, _ in part] for step in steps)
    gpu = device.type == "cuda"
    # Two threads make views and give the device its work.
    ahead = scans.ahead(own, max(1, torch.get_num_threads() - 2 * gpu), pin=gpu)
    with closing(ahead):
        for step, voxels in zip(steps, ahead, strict=True):
            batches = []
            for part, some in zip(samples(step), voxels.chunk(progress.parts), strict=True):
                indices, seeds = (list(values) for values in zip(*part, strict=True))
                some = some.to(device, non_blocking=True)
                batches.append(make_batch(run, scans, progress.method, some, indices, seeds, step))
            chosen = sampler.batch(step)
            groups = moved(scans.group_codes[chosen], device)
            yield batches, groups, [scans.names[scan] for scan in chosen]


def make_batch(
    run: Run, scans: Scans, method: Method, voxels: Tensor, indices: Sequence[int], seeds: Sequence[int], step: int
) -> Batch:
    """The batch of the scans `indices`, whose `voxels` `[B, 4, D, H, W]` are on the device, in views by `seeds`."""
    intensity = run.preset.intensity if method.intensity else None
    share = scans.brain_share(indices)
    views = make_views(voxels, share, seeds, method.crops, run.preset.geometry, intensity)
    patients, groups = (moved(codes[indices], voxels.device) for codes in (scans.patient_codes, scans.group_codes))
    return Batch(views, patients, seeds, step, groups)


def sample_seeds(run: Run, scans: Scans, step: int, chosen: Sequence[int]) -> list[int]:
    """One seed a sample: of the run's seed, the step, the scan, and how often the scan is in the batch before it."""
    occurrence: Counter[int] = Counter()
    seeds = []
    for scan in chosen:
        seeds.append(seed_of(run.seed, "sample", step, scans.names[scan], occurrence[scan]))
        occurrence[scan] += 1
    return seeds


def take_step(
    run: Run,
    scans: Scans,
    progress: Progress,
    batches: Sequence[Batch],
    groups: Tensor,
    names: Sequence[str],
    fabric: Fabric,
) -> "Told":
    """One optimiser step; returns what it will tell of itself.

    The objective is a function of the losses of all samples, whose derivative gives each sample its weight; with the
    weights each process differentiates its own samples, one micro-batch after the other. Group weights follow the
    losses of all micro-batches, so robust objectives look at these once without gradient before they learn.
    """
    training, step = run.preset.training, progress.step
    rate = learning_rate(step, training.steps, run.warmup, training.learning_rate, training.schedule)
    for parameters in progress.optimiser.param_groups:
        parameters["lr"] = rate
    progress.optimiser.zero_grad(set_to_none=True)
    weights = None
    if progress.parts > 1:
        with torch.no_grad():
            looked = [_forward(progress, batch) for batch in batches] if run.objective in WEIGHTED else []
        weights = _weigh(run, scans, progress, looked, groups, fabric)
    results = []
    for number, batch in enumerate(batches):
        with fabric.no_backward_sync(progress.forward, enabled=number + 1 < len(batches)):
            result = _forward(progress, batch)
            if weights is None:
                weights = _weigh(run, scans, progress, [result], groups, fabric)
            own = weights[fabric.global_rank :: fabric.world_size].chunk(progress.parts)[number]
            # DDP takes the mean over processes.
            fabric.backward(fabric.world_size * (own * result.loss.double()).sum())
        results.append(result)
    losses = gathered(fabric, [result.loss for result in results])
    norm = fabric.clip_gradients(
        progress.forward, progress.optimiser, max_norm=training.clip_norm, error_if_nonfinite=False
    )
    # Clipping by a norm returns it, and no batch is empty.
    assert norm is not None and weights is not None
    told = Told(step, names, towards_host(torch.cat([losses, norm.detach().reshape(1).to(losses.dtype)])))
    progress.optimiser.step()
    carried = {name: gathered(fabric, [result.carried[name] for result in results]) for name in results[0].carried}
    progress.method.after_step(step, carried)
    progress.step = step + 1
    if step % training.log_every == 0 or progress.step == training.steps:
        told.check()
        whole = _whole(fabric, results)
        objective = float((weights * whole.loss.double()).sum())
        progress.history.append(history_row(step, whole, objective, rate, float(norm)))
        shown = progress.dro.weights if run.objective in WEIGHTED else None
        progress.groups += group_rows(step, whole, groups, scans.group_names, shown)
    return told


def _forward(progress: Progress, batch: Batch) -> StepResult:
    return StepResult(**progress.forward(batch))


def _whole(fabric: Fabric, results: Sequence[StepResult]) -> StepResult:
    """The detached results of all samples on all devices; scalars are averaged."""
    loss, signal, features = (
        gathered(fabric, [getattr(result, name) for result in results]) for name in ("loss", "signal", "features")
    )
    scalars = {}
    for name in results[0].diagnostics:
        values = torch.tensor([float(result.diagnostics[name]) for result in results], dtype=torch.float64)
        scalars[name] = float(gathered(fabric, [values.to(fabric.device)]).mean())
    return StepResult(loss, signal, features, diagnostics=scalars)


def _weigh(
    run: Run, scans: Scans, progress: Progress, results: Sequence[StepResult], groups: Tensor, fabric: Fabric
) -> Tensor:
    """Weight `[B]` of each sample in the objective: the derivative of the objective by the sample's loss."""
    if run.objective not in WEIGHTED:
        return torch.full(groups.shape, 1 / len(groups), dtype=torch.float64, device=groups.device)
    signals = gathered(fabric, [compared(run.objective, result) for result in results])
    losses = gathered(fabric, [result.loss for result in results]).double().requires_grad_()
    group_weights = progress.dro.update(*group_sums(signals, groups, len(scans.group_names)))
    with torch.enable_grad():
        total = total_loss(run.objective, losses, groups, group_weights)
    return torch.autograd.grad(total, losses)[0]


@dataclass(frozen=True)
class Told:
    """The losses `[B]` of a step and its gradient norm, on their way to the host; reading waits for that step."""

    step: int
    names: Sequence[str]
    read: Callable[[], Tensor]

    @property
    def mean_loss(self) -> float:
        """Over the batch."""
        return float(self.read()[:-1].mean())

    def check(self) -> None:
        """Raises InputError if a loss or the gradient is not finite."""
        *losses, norm = self.read().tolist()
        wrong = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
        mend = "lower training.learning_rate or training.clip_norm in the preset"
        if wrong:
            raise InputError(
                f"step {self.step}: the loss of {self.names[wrong[0]]} is {losses[wrong[0]]} ({len(wrong)} of "
                f"{len(losses)} samples are not finite); {mend}"
            )
        if not math.isfinite(norm):
            raise InputError(f"step {self.step}: the gradient is not finite; {mend}")
