"""The training loop: one run from a seed to the last step, stopped and resumed without a trace."""

import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurorad.encoder import initialised
from neurorad.files import atomic
from neurorad.pretraining.byol import Byol
from neurorad.pretraining.dino import Dino
from neurorad.pretraining.dro import GroupDRO, group_sums
from neurorad.pretraining.gauges import effective_rank, feature_spread
from neurorad.pretraining.mae import Mae
from neurorad.pretraining.moco import Moco
from neurorad.pretraining.objectives import WEIGHTED, WorstGroup, compared, group_weighting, total_loss
from neurorad.pretraining.presets import Preset
from neurorad.pretraining.sampler import make_sampler
from neurorad.pretraining.scans import Scans
from neurorad.pretraining.step import Batch, StepResult, learning_rate
from neurorad.pretraining.views import make_views
from neurorad.problems import InputError
from neurorad.seeds import seed_of

CHECKPOINT = "checkpoint.pt"

PROGRESS_SECONDS = 5.0

COLLAPSED_SPREAD = 1e-3
"""Below this `feature_spread` features point the same way; untrained encoders have about 0.1."""

COLLAPSED_RANK = 1.2

PATIENCE = 3
"""Logged steps in a row that must look collapsed before the run stops."""


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
        """All that a checkpoint must agree with to be resumed."""
        return {
            "method": self.method,
            "objective": self.objective,
            "seed": self.seed,
            "preset": self.preset.values,
            "reference": self.reference,
            "manifest": scans.manifest_sha256,
            "device": device.type,
            "torch": str(torch.__version__),
        }


@dataclass
class Progress:
    """Everything that changes while training; `step` counts finished steps."""

    method: nn.Module
    optimiser: torch.optim.Optimizer
    dro: GroupDRO | WorstGroup
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
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
            case "mae":
                return Mae(encoder, preset.method)
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


def start(run: Run, scans: Scans, device: torch.device) -> Progress:
    training = run.preset.training
    method = build_method(run, len(scans.names)).to(device).train()
    patients = {name: group["patients"] for name, group in scans.group_table().items()}
    warmup = round(run.preset.dro.warmup * training.steps)
    dro = group_weighting(run.objective, patients, run.preset.dro, warmup, run.reference)
    return Progress(method, make_optimiser(method, training.learning_rate, training.weight_decay), dro)


def train(
    run: Run,
    scans: Scans,
    out: Path,
    device: torch.device,
    checkpoint_seconds: float = 300.0,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Progress:
    """Train to the last step, from the checkpoint in `out` if it belongs to this run.

    On SIGTERM or SIGUSR1 the step is finished, the checkpoint written, and SystemExit(128 + signal) raised.

    Raises:
        InputError: loss not finite, features collapsed, or the checkpoint cannot be written.
    """
    training, path, identity = run.preset.training, out / CHECKPOINT, run.identity(scans, device)
    sampler = make_sampler(
        training.sampling,
        run.objective,
        scans.groups,
        scans.patients,
        training.batch_size,
        run.seed,
        run.preset.dro.allow_natural,
    )
    if len(scans.names) < training.batch_size:
        say(f"{len(scans.names)} scans are fewer than the batch size {training.batch_size}: scans repeat in a batch")
    _be_deterministic(device)
    progress = start(run, scans, device)
    resume(progress, path, identity, say)
    meter = _Meter(progress.step, training.steps, training.batch_size, say)
    saved = time.monotonic()
    with stop_signals() as received:
        while progress.step < training.steps:
            batch, groups = make_batch(run, scans, progress, sampler.batch(progress.step), device)
            loss = take_step(run, scans, progress, batch, groups)
            meter.tick(progress.step, loss)
            if received or time.monotonic() - saved >= checkpoint_seconds:
                save_checkpoint(progress, path, identity)
                saved = time.monotonic()
            if received:
                say(f"stopped by {signal.Signals(received[0]).name} at step {progress.step}; start again to continue")
                raise SystemExit(128 + received[0])
    return progress


def _be_deterministic(device: torch.device) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    # MaxPool3d of the stem has no deterministic backward on CUDA: there a warning, elsewhere an error.
    # Unlike torch.use_deterministic_algorithms, it does not import the compiler, which takes 1.5 s.
    torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")


def make_batch(
    run: Run, scans: Scans, progress: Progress, chosen: list[int], device: torch.device
) -> tuple[Batch, torch.Tensor]:
    """The views of the chosen scans, and their group codes `[B]`."""
    occurrence: Counter[int] = Counter()
    seeds = []
    for scan in chosen:
        seeds.append(seed_of(run.seed, "sample", progress.step, scans.names[scan], occurrence[scan]))
        occurrence[scan] += 1
    voxels = scans.voxels[chosen].to(device)
    intensity = run.preset.intensity if progress.method.intensity else None
    views = make_views(voxels, seeds, progress.method.crops, run.preset.geometry, intensity)
    patients = scans.patient_codes[chosen].to(device)
    groups = torch.tensor([scans.groups[scan] for scan in chosen], device=device)
    return Batch(views, patients, seeds, progress.step), groups


def take_step(run: Run, scans: Scans, progress: Progress, batch: Batch, groups: torch.Tensor) -> float:
    """One optimiser step; returns the mean loss of the samples."""
    training, step = run.preset.training, progress.step
    warmup = round(training.warmup * training.steps)
    rate = learning_rate(step, training.steps, warmup, training.learning_rate, training.schedule)
    for parameters in progress.optimiser.param_groups:
        parameters["lr"] = rate
    result = progress.method.step(batch)
    mean = float(result.loss.detach().mean())
    if mean != mean or mean in (float("inf"), float("-inf")):
        raise InputError(
            f"step {step}: the loss is {mean}; lower training.learning_rate or training.clip_norm in the preset"
        )
    signal_sums, counts = group_sums(compared(run.objective, result), groups, len(scans.group_names))
    # The base run follows the same weights without using them, so that both runs report the same columns.
    weights = progress.dro.update(signal_sums, counts)
    objective = total_loss(run.objective, result.loss, groups, weights)
    progress.optimiser.zero_grad(set_to_none=True)
    objective.backward()
    learning = [parameter for parameter in progress.method.parameters() if parameter.requires_grad]
    gradient_norm = nn.utils.clip_grad_norm_(learning, training.clip_norm)
    progress.optimiser.step()
    progress.method.after_step(step)
    progress.step = step + 1
    if step % training.log_every == 0 or progress.step == training.steps:
        _log(run, scans, progress, result, groups, float(objective.detach()), rate, float(gradient_norm))
        _watch(progress, warmup, min(training.batch_size - 1, result.features.shape[1]))
    return mean


def _log(
    run: Run,
    scans: Scans,
    progress: Progress,
    result: StepResult,
    groups: torch.Tensor,
    objective: float,
    rate: float,
    gradient_norm: float,
) -> None:
    step = progress.step - 1
    progress.history.append(
        {
            "step": step,
            "loss": float(result.loss.detach().mean()),
            "objective": objective,
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "feature_spread": feature_spread(result.features),
            "effective_rank": effective_rank(result.features),
            **{name: float(value) for name, value in result.diagnostics.items()},
        }
    )
    count = len(scans.group_names)
    losses, counts = (values.tolist() for values in group_sums(result.loss.detach(), groups, count))
    signals = group_sums(result.signal, groups, count)[0].tolist()
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    weights = progress.dro.weights if run.objective in WEIGHTED else shares
    entropy = float(-torch.xlogy(weights, weights).sum())
    for group, name in enumerate(scans.group_names):
        present = counts[group] > 0
        progress.groups.append(
            {
                "step": step,
                "group": name,
                "loss": losses[group] / counts[group] if present else float("nan"),
                "signal": signals[group] / counts[group] if present else float("nan"),
                "weight": float(weights[group]),
                "count": int(counts[group]),
                "entropy": entropy,
            }
        )


def _watch(progress: Progress, warmup: int, largest_rank: int) -> None:
    """Stop a run whose features have collapsed to a point or a line."""
    recent = [row for row in progress.history if row["step"] >= warmup][-PATIENCE:]
    if len(recent) < PATIENCE:
        return
    point = all(row["feature_spread"] < COLLAPSED_SPREAD for row in recent)
    # With few samples the rank is low without a collapse.
    line = largest_rank >= 4 and all(row["effective_rank"] < COLLAPSED_RANK for row in recent)
    if point or line:
        row = recent[-1]
        raise InputError(
            f"step {row['step']}: features collapsed (spread {row['feature_spread']:.2g}, even is 1, a point 0; "
            f"effective rank {row['effective_rank']:.2f}); lower the learning rate or raise the momentum in the preset"
        )


def save_checkpoint(progress: Progress, path: Path, identity: dict[str, Any]) -> None:
    """Write all state; an older checkpoint stays whole until the new one is on disk."""
    state = {
        "identity": identity,
        "step": progress.step,
        "method": progress.method.state_dict(),
        "optimiser": progress.optimiser.state_dict(),
        "dro": progress.dro.state_dict(),
        "history": progress.history,
        "groups": progress.groups,
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    try:
        with atomic(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as problem:
        raise InputError(
            f"{path}: the checkpoint of step {progress.step} could not be written ({problem}); an older one is "
            "untouched; make room and start again"
        ) from problem


def resume(progress: Progress, path: Path, identity: dict[str, Any], say: Callable[[str], None]) -> None:
    """Continue from the checkpoint at `path`; one that is damaged or of another run is left aside, with the reason."""
    if not path.is_file():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        say(f"{path}: unreadable checkpoint ({type(problem).__name__}); starting at step 0")
        return
    differing = [key for key in identity if state["identity"].get(key) != identity[key]]
    if differing:
        say(f"{path}: checkpoint of another run (differs in {', '.join(differing)}); starting at step 0")
        return
    progress.method.load_state_dict(state["method"])
    progress.optimiser.load_state_dict(state["optimiser"])
    progress.dro.load_state_dict(state["dro"])
    progress.step, progress.history, progress.groups = state["step"], state["history"], state["groups"]
    torch.set_rng_state(state["random"])
    if state["cuda_random"]:
        torch.cuda.set_rng_state_all(state["cuda_random"])
    say(f"resumed at step {progress.step}")


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


class _Meter:
    """A progress line now and then: step, loss, samples a second and the time left."""

    def __init__(self, step: int, steps: int, batch_size: int, say: Callable[[str], None]) -> None:
        self.first, self.steps, self.batch_size, self.say = step, steps, batch_size, say
        self.began = self.told = time.monotonic()

    def tick(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.told < PROGRESS_SECONDS and step < self.steps:
            return
        self.told = now
        pace = (now - self.began) / (step - self.first)
        left = round(pace * (self.steps - step))
        self.say(
            f"step {step}/{self.steps}  loss {loss:.4f}  {self.batch_size / pace:.1f} samples/s  "
            f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        )
