"""Watching a run: rows of its history, progress lines, TensorBoard's files, and when it has to stop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurorad.pretraining.dro import group_sums
from neurorad.pretraining.gauges import effective_rank, feature_spread, group_ranks, group_spreads
from neurorad.pretraining.step import StepResult
from neurorad.problems import InputError

PROGRESS_SECONDS = 5.0

COLLAPSED_SPREAD = 1e-3
"""Below this `feature_spread` features point the same way; untrained encoders have about 0.1."""

COLLAPSED_RANK = 1.2

JUDGED_RANK = 4
"""Where a rank of at least this is possible it is judged; of few samples it is low without a collapse."""

UNIFORM = 0.9995
"""Share of ln K from which DINO's teacher says nothing: every sample is spread evenly over all prototypes."""

DIVERGED = 3.0
"""Times the highest loss among the first `SETTLING` rows. Losses bounded by their queue or by cosine never reach it."""

SETTLING = 10

PATIENCE = 3
"""Logged steps in a row that must look wrong before the run stops."""

EVENTS = "tensorboard"

GROUP_VALUES = ("loss", "weight", "spread", "effective_rank")
"""What TensorBoard shows of each group."""

Row = dict[str, Any]


def history_row(step: int, result: StepResult, objective: float, rate: float, norm: float) -> Row:
    """What history.csv holds of one step."""
    return {
        "step": step,
        "loss": float(result.loss.mean()),
        "objective": objective,
        "learning_rate": rate,
        "gradient_norm": norm,
        "feature_spread": feature_spread(result.features),
        "effective_rank": effective_rank(result.features),
        **{name: float(value) for name, value in result.diagnostics.items()},
    }


def group_rows(
    step: int, result: StepResult, groups: Tensor, names: Sequence[str], weights: Tensor | None
) -> list[Row]:
    """One row a group. `weights` of Group-DRO; without it, a group's share of the batch. Empty cells: group absent,
    or too few samples: two are needed for `spread`, three for `effective_rank` (at most one less than there are)."""
    losses, counts = (values.tolist() for values in group_sums(result.loss, groups, len(names)))
    signals = group_sums(result.signal, groups, len(names))[0].tolist()
    spreads = group_spreads(result.features, groups, len(names))
    ranks = group_ranks(result.features, groups, len(names))
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts) if weights is None else weights
    entropy = float(-torch.xlogy(shares, shares).sum())
    return [
        {
            "step": step,
            "group": name,
            "loss": losses[group] / counts[group] if counts[group] else math.nan,
            "signal": signals[group] / counts[group] if counts[group] else math.nan,
            "weight": float(shares[group]),
            "count": int(counts[group]),
            "spread": spreads[group],
            "effective_rank": ranks[group],
            "entropy": entropy,
        }
        for group, name in enumerate(names)
    ]


def troubles(history: Sequence[Row], groups: Sequence[Row], warmup: int, largest_rank: int) -> list[str]:
    """What is wrong with the newest row: diverged, or features collapsed to a point, a line or for one group."""
    row = history[-1]
    found = []
    early = [earlier["loss"] for earlier in history[:SETTLING]]
    if len(history) > SETTLING and row["loss"] > DIVERGED * max(early) > 0:
        found.append(f"the loss diverged: {row['loss']:.4g}, and at most {max(early):.4g} in the beginning")
    if row["step"] < warmup:
        return found
    if row["feature_spread"] < COLLAPSED_SPREAD or (
        largest_rank >= JUDGED_RANK and row["effective_rank"] < COLLAPSED_RANK
    ):
        found.append(
            f"features collapsed (spread {row['feature_spread']:.2g}, even is 1, a point 0; effective rank "
            f"{row['effective_rank']:.2f} of at most {largest_rank})"
        )
    if row.get("teacher_entropy", 0.0) > UNIFORM * row.get("uniform_entropy", math.inf):
        found.append(f"DINO's teacher is uniform (entropy {row['teacher_entropy']:.4f} = ln K, no prototype preferred)")
    collapsed = [
        group["group"]
        for group in groups
        if group["spread"] < COLLAPSED_SPREAD
        or (group["count"] > JUDGED_RANK and group["effective_rank"] < COLLAPSED_RANK)
    ]
    if collapsed:
        found.append(f"features collapsed within group {', '.join(collapsed)}")
    return found


class Watchdog:
    """Stops a run that looks wrong in `PATIENCE` logged steps in a row."""

    def __init__(self) -> None:
        self.wrong = 0

    def look(self, step: int, found: Sequence[str]) -> None:
        """Raises InputError when it has been wrong too often."""
        self.wrong = self.wrong + 1 if found else 0
        if self.wrong >= PATIENCE:
            raise InputError(
                f"step {step}: {'; '.join(found)}; lower the learning rate or raise the momentum in the preset. The "
                "checkpoint, if there is one, is of before this began"
            )


class Meter:
    """A progress line now and then: step, loss, samples a second and the time left."""

    def __init__(self, step: int, steps: int, batch_size: int, say: Callable[[str], None]) -> None:
        self.first, self.steps, self.batch_size, self.say = step, steps, batch_size, say
        self.began = self.told = time.monotonic()

    def tick(self, step: int, loss: float) -> None:
        """Say speed, loss and time left, every `PROGRESS_SECONDS` and at the end."""
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


@contextmanager
def event_files(out: Path, step: int, writes: bool) -> Iterator[Callable[[Row, Sequence[Row]], None]]:
    """Yield a function that adds a row of the history and its group rows to TensorBoard's files in `out`/tensorboard.

    What a stopped run wrote after its checkpoint of `step` is written again.
    """
    if not writes:
        yield lambda row, groups: None
        return
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(out / EVENTS), purge_step=step)

    def write(row: Row, groups: Sequence[Row]) -> None:
        values = {f"run/{name}": value for name, value in row.items() if name != "step"}
        for group in groups:
            values.update({f"{name}/{group['group']}": group[name] for name in GROUP_VALUES})
        for name, value in values.items():
            if not math.isnan(value):
                writer.add_scalar(name, value, row["step"])

    try:
        yield write
    finally:
        writer.close()
