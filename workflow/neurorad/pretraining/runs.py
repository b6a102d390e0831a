"""A run of pretraining: what is trained, with which networks, and all that changes while it trains."""

from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from neurorad.encoder import initialised
from neurorad.fingerprint import fingerprint
from neurorad.pretraining.arithmetic import HEAD_NORM_SAMPLES
from neurorad.pretraining.byol import Byol
from neurorad.pretraining.choice import Choice
from neurorad.pretraining.devices import OneStep
from neurorad.pretraining.dino import Dino
from neurorad.pretraining.dro import GroupDRO
from neurorad.pretraining.mae import Mae
from neurorad.pretraining.mae_feature import FeatureMae
from neurorad.pretraining.moco import Moco
from neurorad.pretraining.moco_v3 import MocoV3
from neurorad.pretraining.objectives import WorstGroup, group_weighting
from neurorad.pretraining.presets import Preset
from neurorad.pretraining.scans import Scans
from neurorad.pretraining.step import Method
from neurorad.problems import InputError
from neurorad.seeds import seed_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Run:
    """What is trained. Runs that differ in `objective` alone start alike and see the same views in the same order.

    `reference`: for `excess`, the signal of each group that the base run ended with. `checkpoint`: of `choice.RULES`.
    """

    method: str
    objective: str
    seed: int
    preset: Preset
    reference: dict[str, float] | None = None
    checkpoint: str = "last"

    def identity(self, scans: Scans, device: torch.device) -> dict[str, Any]:
        """All that a checkpoint must agree with to be resumed: half a run of other code is a run of neither. Of the code
        what a step computes, not what is said of it; not the number of devices: a run may change it."""
        return {
            "code": fingerprint(
                "pretraining.engine:take_step", "pretraining.engine:make_batches", "pretraining.runs:start"
            ),
            "method": self.method,
            "objective": self.objective,
            "seed": self.seed,
            "preset": self.preset.values,
            "reference": self.reference,
            "checkpoint": self.checkpoint,
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

    method: Method
    forward: Any
    optimiser: torch.optim.Optimizer
    dro: GroupDRO | WorstGroup
    choice: Choice
    parts: int = 1
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)


def build_method(run: Run, scans: int) -> Method:
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
        # One pass over the weights and not a dozen: a fifth of the time on a CPU.
        fused=True,
    )


def start(run: Run, scans: Scans, fabric: Fabric, parts: int = 1) -> Progress:
    """A run at step 0. Raises `InputError` for an accumulation that would change what the method sees, or for scans that the
    method cannot learn from."""
    training = run.preset.training
    if parts > 1 and run.method == "moco" and run.preset.method.version == 3:
        raise InputError(
            f"--accumulate {parts}: MoCo version 3 takes its negatives from the batch, of which a micro-batch is a part; "
            "use moco.version 2 with its queue, more --devices, or no accumulation"
        )
    if run.method == "moco":
        _check_negatives(run, scans)
    method = _with_common_statistics(build_method(run, len(scans.names)), fabric, training.batch_size, parts)
    method = method.to(fabric.device).train()
    patients = {name: group["patients"] for name, group in scans.group_table().items()}
    warmup = round(run.preset.dro.warmup * training.steps)
    dro = group_weighting(run.objective, patients, run.preset.dro, warmup, run.reference)
    optimiser = make_optimiser(method, training.learning_rate, training.weight_decay)
    forward, optimiser = fabric.setup(OneStep(method), optimiser)
    choice = Choice(run.checkpoint, scans, run.seed, training.steps)
    return Progress(method, forward, optimiser, dro, choice, parts)


def _check_negatives(run: Run, scans: Scans) -> None:
    """Raises InputError for scans without any negatives: keys of their own patient are none, and their loss would be 0."""
    of_group, size = run.preset.method.negatives == "group", run.preset.training.batch_size
    if of_group and run.preset.method.version == 3 and size < 2 * len(scans.group_names):
        raise InputError(
            f"moco version 3 with negatives group takes them from the samples of a group in the batch, and training.batch_size "
            f"{size} has fewer than two of each of {len(scans.group_names)} groups; set moco.negatives to all, or use version 2"
        )
    patients: dict[int, set[str]] = {}
    for group, patient in zip(scans.groups, scans.patients, strict=True):
        patients.setdefault(group if of_group else 0, set()).add(patient)
    alone = [scans.group_names[group] for group, members in sorted(patients.items()) if len(members) < 2]
    if alone:
        told = f"group {', '.join(alone)} has one patient; set moco.negatives to all or join it with others"
        raise InputError(
            "moco takes its negatives from other patients, and "
            + (told if of_group else "the manifest has one patient; add scans of others, or use another method")
        )


def _with_common_statistics(method: Method, fabric: Fabric, batch_size: int, parts: int) -> Method:
    """Batch norm over the samples of all devices. Raises InputError where that cannot be."""
    if not any(isinstance(module, NORMS) for module in method.modules()):
        return method
    without = f"use encoder.norm group and training.batch_size below {HEAD_NORM_SAMPLES} (heads without batch norm)"
    if parts > 1:
        raise InputError(
            f"--accumulate {parts}: batch norm would see {batch_size // parts} samples at a time and not {batch_size}; "
            f"{without}, or no accumulation"
        )
    if fabric.world_size == 1:
        return method
    if fabric.device.type != "cuda":
        raise InputError(f"batch norm over several processes needs GPUs; {without}, or --devices 1")
    return nn.SyncBatchNorm.convert_sync_batchnorm(method)
