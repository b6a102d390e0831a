"""The training loop: one run from a seed to the last step, on any number of devices, stopped and resumed without a
trace."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from neurorad.encoder import initialised
from neurorad.files import write_table
from neurorad.pretraining.byol import Byol
from neurorad.pretraining.checkpoint import ASIDE, CHECKPOINT, CheckpointError, load_checkpoint, save_checkpoint
from neurorad.pretraining.devices import OneStep, anywhere, gathered, share
from neurorad.pretraining.dino import Dino
from neurorad.pretraining.dro import GroupDRO, group_sums
from neurorad.pretraining.mae import Mae
from neurorad.pretraining.mae_feature import FeatureMae
from neurorad.pretraining.moco import Moco
from neurorad.pretraining.moco_v3 import MocoV3
from neurorad.pretraining.objectives import WEIGHTED, WorstGroup, compared, group_weighting, total_loss
from neurorad.pretraining.presets import Preset
from neurorad.pretraining.sampler import make_sampler
from neurorad.pretraining.scans import LostVolumeError, Scans
from neurorad.pretraining.step import Batch, StepResult, learning_rate
from neurorad.pretraining.views import make_views
from neurorad.pretraining.watch import Meter, Watchdog, event_files, group_rows, history_row, troubles
from neurorad.problems import InputError
from neurorad.seeds import seed_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Run:
    """What is trained. Runs that differ in `objective` alone start alike and see the same views in the same order.

    `reference`: for `excess`, the signal of each group that the base run ended with.
    """

    method: str
    objective: str
    seed: int
    preset: Preset
    reference: dict[str, float] | None = None

    def identity(self, scans: Scans, device: torch.device) -> dict[str, Any]:
        """All that a checkpoint must agree with to be resumed. Not the number of devices: a run may change it."""
        return {
            "method": self.method,
            "objective": self.objective,
            "seed": self.seed,
            "preset": self.preset.values,
            "reference": self.reference,
            "manifest": scans.manifest_sha256,
            "preprocessing": scans.preprocessing,
            "device": device.type,
            "torch": str(torch.__version__),
        }

    @property
    def warmup(self) -> int:
        """Steps of rising learning rate."""
        return round(self.preset.training.warmup * self.preset.training.steps)


@dataclass
class Progress:
    """Everything that changes while training; `step` counts finished steps. `forward` is the method's step as Fabric
    wrapped it; `parts`: micro-batches of a step."""

    method: nn.Module
    forward: nn.Module
    optimiser: torch.optim.Optimizer
    dro: GroupDRO | WorstGroup
    parts: int = 1
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)


def build_method(run: Run, scans: int) -> nn.Module:
    """The method with its initial weights; the encoder starts as `initialised(architecture, seed)` for every method."""
    preset, encoder = run.preset, initialised(run.preset.encoder, run.seed)
    steps, batch_size = preset.training.steps, preset.training.batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(run.seed, run.method, "heads"))
        match run.method:
            case "byol":
                return Byol(encoder, preset.method, steps, batch_size)
            case "dino":
                return Dino(encoder, preset.method, steps)
            case "mae" if preset.method.masking == "voxel_feature":
                return FeatureMae(encoder, preset.method)
            case "mae":
                return Mae(encoder, preset.method)
            case "moco" if preset.method.version == 3:
                return MocoV3(encoder, preset.method, steps, batch_size)
            case "moco":
                return Moco(encoder, preset.method, steps, scans)
            case other:
                raise InputError(f"unknown method {other!r}")


def make_optimiser(method: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; biases and norms (all parameters with one axis) do not decay."""
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate,
    )


def start(run: Run, scans: Scans, fabric: Fabric, parts: int = 1) -> Progress:
    training = run.preset.training
    method = _with_common_statistics(build_method(run, len(scans.names)), fabric, training.batch_size, parts)
    method = method.to(fabric.device).train()
    patients = {name: group["patients"] for name, group in scans.group_table().items()}
    warmup = round(run.preset.dro.warmup * training.steps)
    dro = group_weighting(run.objective, patients, run.preset.dro, warmup, run.reference)
    optimiser = make_optimiser(method, training.learning_rate, training.weight_decay)
    forward, optimiser = fabric.setup(OneStep(method), optimiser)
    return Progress(method, forward, optimiser, dro, parts)


def _with_common_statistics(method: nn.Module, fabric: Fabric, batch_size: int, parts: int) -> nn.Module:
    """Batch norm over the samples of all devices. Raises InputError where that cannot be."""
    if not any(isinstance(module, NORMS) for module in method.modules()):
        return method
    if parts > 1:
        raise InputError(
            f"--accumulate {parts}: batch norm would see {batch_size // parts} samples at a time and not "
            f"{batch_size}; use encoder.norm group and training.batch_size below 16 (heads without batch norm), or no "
            "accumulation"
        )
    if fabric.world_size == 1:
        return method
    if fabric.device.type != "cuda":
        raise InputError(
            "batch norm over several processes needs GPUs; use encoder.norm group and training.batch_size below 16 "
            "(heads without batch norm), or --devices 1"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(method)


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
        try:
            for batches, groups, names in make_batches(run, scans, progress, fabric):
                loss = take_step(run, scans, progress, batches, groups, names, fabric)
                meter.tick(progress.step, loss)
                if progress.history[-1]["step"] == progress.step - 1:
                    rows = progress.groups[-len(scans.group_names) :]
                    write_events(progress.history[-1], rows)
                    largest_rank = min(training.batch_size - 1, progress.method.exported.dimension)
                    watchdog.look(progress.step - 1, troubles(progress.history, rows, run.warmup, largest_rank))
                stop = anywhere(fabric, received[0] if received else 0)
                keeper.look(progress, healthy=not watchdog.wrong, now=stop > 0)
                if stop:
                    say(f"stopped by {signal.Signals(stop).name} at step {progress.step}; start again to continue")
                    raise SystemExit(128 + stop)
        except LostVolumeError as problem:
            keeper.look(progress, healthy=not watchdog.wrong, now=True)
            raise InputError(f"step {progress.step}: {problem}; then start again to continue") from problem
    return progress


def _be_deterministic(device: torch.device) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    # MaxPool3d of the stem has no deterministic backward on CUDA: there a warning, elsewhere an error.
    # Unlike torch.use_deterministic_algorithms, it does not import the compiler, which takes 1.5 s.
    torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")


def make_batches(
    run: Run, scans: Scans, progress: Progress, fabric: Fabric
) -> Iterator[tuple[list[Batch], Tensor, list[str]]]:
    """For each step still to do: this process's micro-batches; group codes `[B]` and names of all samples."""
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
    intensity = run.preset.intensity if progress.method.intensity else None
    steps = range(progress.step, training.steps)

    def samples(step: int) -> list[list[tuple[int, int]]]:
        chosen = sampler.batch(step)
        return share(list(zip(chosen, sample_seeds(run, scans, step, chosen), strict=True)), fabric, progress.parts)

    own = ([scan for part in samples(step) for scan, _ in part] for step in steps)
    ahead = scans.ahead(own, torch.get_num_threads(), pin=device.type == "cuda")
    with closing(ahead):
        for step, voxels in zip(steps, ahead, strict=True):
            batches = []
            for part, some in zip(samples(step), voxels.chunk(progress.parts), strict=True):
                indices, seeds = (list(values) for values in zip(*part, strict=True))
                some = some.to(device, non_blocking=True)
                views = make_views(some, seeds, progress.method.crops, run.preset.geometry, intensity)
                patients = scans.patient_codes[indices].to(device)
                own_groups = torch.tensor([scans.groups[scan] for scan in indices], device=device)
                batches.append(Batch(views, patients, seeds, step, own_groups))
            chosen = sampler.batch(step)
            groups = torch.tensor([scans.groups[scan] for scan in chosen], device=device)
            yield batches, groups, [scans.names[scan] for scan in chosen]


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
) -> float:
    """One optimiser step; returns the mean loss of the samples.

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
    _refuse_not_finite(step, losses, names, norm)
    progress.optimiser.step()
    carried = {name: gathered(fabric, [result.carried[name] for result in results]) for name in results[0].carried}
    progress.method.after_step(step, carried)
    progress.step = step + 1
    if step % training.log_every == 0 or progress.step == training.steps:
        whole = _whole(fabric, results)
        objective = float((weights * whole.loss.double()).sum())
        progress.history.append(history_row(step, whole, objective, rate, float(norm)))
        shown = progress.dro.weights if run.objective in WEIGHTED else None
        progress.groups += group_rows(step, whole, groups, scans.group_names, shown)
    return float(losses.mean())


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


def _refuse_not_finite(step: int, losses: Tensor, names: Sequence[str], norm: Tensor) -> None:
    wrong = [name for name, fine in zip(names, losses.isfinite().tolist(), strict=True) if not fine]
    if wrong:
        raise InputError(
            f"step {step}: the loss of {wrong[0]} is {float(losses[names.index(wrong[0])])} ({len(wrong)} of "
            f"{len(names)} samples are not finite); lower training.learning_rate or training.clip_norm in the preset"
        )
    if not bool(norm.isfinite()):
        raise InputError(
            f"step {step}: the gradient is not finite; lower training.learning_rate or training.clip_norm in the preset"
        )


class Keeper:
    """Writes a run's checkpoint now and then, and reads it back. Only the first process writes."""

    def __init__(
        self, out: Path, identity: dict[str, Any], seconds: float, writes: bool, say: Callable[[str], None]
    ) -> None:
        self.out, self.identity, self.seconds, self.writes, self.say = out, identity, seconds, writes, say
        self.path, self.saved = out / CHECKPOINT, time.monotonic()

    def look(self, progress: Progress, healthy: bool, now: bool) -> None:
        """Save if it is time, but never over a good checkpoint once something looks wrong.

        Raises:
            InputError: it could not be written.
        """
        due = now or time.monotonic() - self.saved >= self.seconds
        if not (self.writes and healthy and due):
            return
        state = {
            "identity": self.identity,
            "step": progress.step,
            "method": progress.method.state_dict(),
            "optimiser": progress.optimiser.state_dict(),
            "dro": progress.dro.state_dict(),
            "history": progress.history,
            "groups": progress.groups,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        save_checkpoint(self.path, state)
        # For who watches a run that takes days; the last rows are written with the encoder.
        write_table(self.out / "history.csv", pd.DataFrame(progress.history))
        write_table(self.out / "groups.csv", pd.DataFrame(progress.groups))
        self.saved = time.monotonic()

    def resume(self, progress: Progress) -> None:
        """Continue from the checkpoint; a damaged one is overwritten later, one of another run is put aside."""
        if not self.path.is_file():
            return
        try:
            state = load_checkpoint(self.path)
            differing = [key for key in self.identity if state["identity"].get(key) != self.identity[key]]
        except CheckpointError as problem:
            self.say(f"{self.path}: unreadable checkpoint ({problem}); starting at step 0")
            return
        if differing:
            self.say(
                f"{self.path}: checkpoint of another run (differs in {', '.join(differing)}), kept as {ASIDE} until "
                "this run is done; starting at step 0"
            )
            if self.writes:
                self.path.rename(self.out / ASIDE)
            return
        progress.method.load_state_dict(state["method"])
        progress.optimiser.load_state_dict(state["optimiser"])
        progress.dro.load_state_dict(state["dro"])
        progress.step, progress.history, progress.groups = state["step"], state["history"], state["groups"]
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and len(state["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.say(f"resumed at step {progress.step}")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list to which SIGTERM and SIGUSR1 are added instead of ending the process."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda signum, frame: received.append(signum)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
