"""Group-DRO: online exponentiated gradient over groups (Sagawa et al. 2020, arXiv 1911.08731, algorithm 1).

Weights live as logarithms in float64: in float32 they reach denormals, and exp(eta * loss) overflows. The floor is put under
the weights that are used and not into those that are remembered: mixed in at every step, it would forget a gap of losses
after some 1 / floor steps, so that weights settled near eta / floor times the gap, however long the run. The price is the
published algorithm's: what a long run has pushed apart takes as long to come together again.
With a reference, groups are weighted by how far they were above it (excess; after Xie et al. 2023, arXiv 2305.10429). Two
things differ from there, because a run has thousands of steps. The sum over steps is cut at 0 and not each step, so that noise
about the reference cancels: cut in every step, a noisy group gains some 0.4 standard deviations a step by an excess that it
does not have. And the sum forgets, so that neither the losses of the first steps nor the error of the reference, which is itself
an estimate, decide the last ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurorad.problems import InputError

ABSENT = ("zero", "skip", "last", "ema")


@dataclass(frozen=True)
class DroSettings:
    """`eta`: step size. `floor`: share of weight that all groups divide evenly, whatever their losses. `smoothing`: weight of the newest value in the moving
    average of a group's signal (1 = no average). `adjustment`: C of C / sqrt(patients). `warmup`: fraction of steps
    with even weights. `absent`: what a group without samples in the step counts as: `zero`; `skip`, its weight stays;
    `last`, its last value; `ema`, its moving average. A group never seen is skipped by the last two.
    `memory`: steps after which an excess is forgotten; a lasting excess x comes to exp(eta memory x).
    `allow_natural`: train under natural sampling all the same, where weights follow how often a group appears."""

    eta: float
    floor: float
    smoothing: float
    adjustment: float
    warmup: float
    absent: str
    memory: float
    allow_natural: bool

    def __post_init__(self) -> None:
        if self.eta < 0 or self.adjustment < 0 or not 0 <= self.warmup <= 1:
            raise InputError(
                f"dro.eta {self.eta} and adjustment {self.adjustment} must not be negative, "
                f"warmup {self.warmup} lies in [0, 1]"
            )
        if not (0 <= self.floor <= 1 and 0 < self.smoothing <= 1):
            raise InputError(f"dro.floor {self.floor} lies in [0, 1] and smoothing {self.smoothing} in (0, 1]")
        if self.memory < 1:
            raise InputError(f"dro.memory {self.memory} must be at least 1 step")
        if self.absent not in ABSENT:
            raise InputError(f"dro.absent is {self.absent!r}, not one of {', '.join(ABSENT)}")


def group_sums(values: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`[B]` values and `[B]` group codes -> float64 sums `[G]` and counts `[G]`. Sums add up over micro-batches."""
    members = groups[None, :] == torch.arange(count, device=groups.device)[:, None]
    sums = torch.where(members, values.double()[None, :], 0).sum(dim=1)
    return sums, members.sum(dim=1).double()


def robust_loss(loss: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """sum_g q_g l_g with l_g the mean loss of group g in the batch; the gradient flows through l_g only."""
    sums, counts = group_sums(loss, groups, len(weights))
    return (weights.detach().to(loss.device) * sums / counts.clamp_min(1)).sum()


class GroupDRO:
    """Weights q of G groups and the moving averages they follow, in float64 on the device that trains: nothing is
    branched on, so that the host does not wait for the losses."""

    def __init__(
        self,
        patients: Sequence[int],
        settings: DroSettings,
        warmup_steps: int,
        reference: Sequence[float] | None = None,
    ) -> None:
        """`patients`: number of patients in each group. `reference`: signal of each group that counts as reached."""
        count = len(patients)
        self.settings, self.warmup_steps = settings, warmup_steps
        self.reference = None if reference is None else torch.tensor(reference, dtype=torch.float64)
        self.adjustment = settings.adjustment / torch.tensor(patients, dtype=torch.float64).sqrt()
        self.log_weights = torch.full((count,), -torch.log(torch.tensor(float(count))).item(), dtype=torch.float64)
        self.average = torch.full((count,), torch.nan, dtype=torch.float64)
        self.last = torch.full((count,), torch.nan, dtype=torch.float64)
        self.excess = torch.zeros(count, dtype=torch.float64)
        self.updates = 0

    @property
    def weights(self) -> Tensor:
        """`[G]`, add up to 1: (1 - floor) q + floor / G."""
        floor = self.settings.floor
        return (1 - floor) * torch.softmax(self.log_weights, dim=0) + floor / len(self.log_weights)

    def update(self, sums: Tensor, counts: Tensor) -> Tensor:
        """One step from the summed signal and the count of each group; returns the new weights, used in the same step.

        q_g <- q_g exp(eta s_g) / Z, with s_g = a_g + C / sqrt(n_g) and a_g the moving average. With a reference r,
        q_g = exp(eta E_g) / Z, with E_g <- max((1 - 1 / memory) E_g + s_g - r_g, 0).
        """
        self._move(sums.device)
        sums, counts = sums.detach().double(), counts.detach().double()
        present = counts > 0
        value = sums / counts.clamp_min(1)
        rate = self.settings.smoothing
        averaged = torch.where(self.average.isnan(), value, (1 - rate) * self.average + rate * value)
        self.average = torch.where(present, averaged, self.average)
        self.last = torch.where(present, value, self.last)
        self.updates += 1
        if self.updates <= self.warmup_steps:
            return self.weights
        signal, moving = self._signal(present)
        signal = torch.where(moving, signal + self.adjustment, 0)
        if self.reference is not None:
            grown = ((1 - 1 / self.settings.memory) * self.excess + signal).clamp_min(0)
            self.excess = torch.where(moving, grown, self.excess)
            self.log_weights = torch.log_softmax(self.settings.eta * self.excess, dim=0)
            return self.weights
        raised = self.log_weights + self.settings.eta * signal
        # Groups that do not move keep their weight; the others share the rest.
        mass = torch.logsumexp(self.log_weights.masked_fill(~moving, -torch.inf), dim=0)
        shared = torch.log_softmax(raised.masked_fill(~moving, -torch.inf), dim=0) + mass
        self.log_weights = torch.log_softmax(torch.where(moving, shared, raised), dim=0)
        return self.weights

    def _move(self, device: torch.device) -> None:
        """After the first step, and after a checkpoint, whose tensors are on the CPU."""
        if self.log_weights.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))

    def _signal(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Signal of each group, and which groups move."""
        average, last = self._compared(self.average), self._compared(self.last)
        match self.settings.absent:
            case "zero":
                return torch.where(present, average, 0), torch.ones_like(present)
            case "skip":
                return average, present
            case "last":
                return torch.where(present, average, last), ~self.last.isnan()
            case _:
                return average, ~self.average.isnan()

    def _compared(self, values: Tensor) -> Tensor:
        """`values`, or with a reference how far they are above it; 0 where there is none yet."""
        return torch.nan_to_num(values if self.reference is None else values - self.reference)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "log_weights": self.log_weights,
            "average": self.average,
            "last": self.last,
            "excess": self.excess,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        for name in self.state_dict():
            setattr(self, name, state[name])
