"""What a method is handed at a step and what it returns; schedules and momentum networks, shared by the methods."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from neurorad.encoder import Encoder, group_norm
from neurorad.pretraining.arithmetic import HEAD_NORM_SAMPLES
from neurorad.pretraining.geometry import Crop

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Batch:
    """The samples of one step. `views`: one `[B, 4, s, s, s]` tensor per crop of the method, `patients` and
    `groups`: `[B]` codes, `seeds`: B integers that depend on (seed, step, scan) alone, `step`: from 0."""

    views: Sequence[Tensor]
    patients: Tensor
    seeds: Sequence[int]
    step: int
    groups: Tensor

    def precision(self) -> torch.autocast:
        """bfloat16 on CUDA, float32 elsewhere; for networks only, losses are computed outside of it in float32."""
        device = self.views[0].device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


@dataclass(frozen=True)
class StepResult:
    """`loss` `[B]` float32, differentiable. `signal` `[B]` float32, detached: what Group-DRO compares groups by.
    `features` `[B, d]`, detached: of the network that will be exported. `carried`: `[B, ...]` each, detached: what
    `after_step` is handed of the whole batch, when all its parts on all devices are done. `diagnostics`: scalars for
    the history."""

    loss: Tensor
    signal: Tensor
    features: Tensor
    carried: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, float | Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """A method of pretraining: its networks, and what a step of it is.

    crops: the views that it is shown, one size each. intensity: whether these differ in intensity too.
    """

    crops: list[Crop]
    intensity: bool

    @property
    def exported(self) -> Encoder:
        """The encoder that is stored."""
        raise NotImplementedError

    def step(self, batch: Batch) -> StepResult:
        """Loss and all that is told of one batch."""
        raise NotImplementedError

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        """What follows the optimiser's step: a momentum network, a queue, a centre. Nothing, if there are none."""


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at the last step, along half a cosine."""
    progress = min(1.0, step / max(1, steps - 1))
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(step: int, steps: int, warmup: int, peak: float, schedule: str = "cosine") -> float:
    """Linear warm-up over `warmup` steps (the first step already learns), then half a cosine to 0, or `constant`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def momentum_copy(network: Network) -> Network:
    """A copy with the same weights that receives no gradient."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target = momentum * target + (1 - momentum) * online for weights; buffers (norm statistics) are copied."""
    # One kernel for all of them on a GPU.
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
    if buffers := list(target.buffers()):
        torch._foreach_copy_(buffers, list(online.buffers()))


def head(widths: Sequence[int], batch_size: int) -> nn.Sequential:
    """Linear, norm, ReLU, ..., Linear.

    With fewer samples than batch norm needs for usable statistics the norm is a group norm.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        norm = nn.BatchNorm1d(outputs) if batch_size >= HEAD_NORM_SAMPLES else group_norm(outputs)
        layers += [nn.Linear(inputs, outputs, bias=False), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
