"""Objectives: from one loss a sample to one number a step. It is the one key in which the runs of a method differ.

base      mean over the samples
balanced  the same mean, over batches that hold every group equally often
dro       Group-DRO: groups weighted by exponentiated gradient on their signal (`dro.py`)
excess    Group-DRO on how far each group is above what the base run reached for it
worst     the worst group of each batch, as in the code published with the paper
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurorad.encoder import load_card
from neurorad.files import read_table
from neurorad.pretraining.dro import DroSettings, GroupDRO, robust_loss
from neurorad.pretraining.step import StepResult
from neurorad.problems import InputError

WEIGHTED = ("dro", "excess", "worst")
"""Objectives whose loss is sum_g q_g l_g."""

REFERENCE_SHARE = 0.1
"""The base run's loss of a group is the mean over this last part of its logged steps, ..."""

REFERENCE_ROWS = 5
"""... but of so many at least, where there are."""

STANDARD_ERRORS = 2
"""Added to that mean: what is above it by less may be chance."""


class WorstGroup:
    """All weight on the group with the largest mean of the step, without memory: max_g mean(l_g)."""

    def __init__(self, count: int) -> None:
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64)

    def update(self, sums: Tensor, counts: Tensor) -> Tensor:
        """As `GroupDRO.update`; a group without samples is never the worst."""
        sums, counts = sums.detach().double(), counts.detach().double()
        means = torch.where(counts > 0, sums / counts.clamp_min(1), -torch.inf)
        self.weights = torch.nn.functional.one_hot(means.argmax(), len(means)).double()
        return self.weights

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.weights = state["weights"]


def group_weighting(
    objective: str,
    groups: Mapping[str, int],
    settings: DroSettings,
    warmup_steps: int,
    reference: Mapping[str, float] | None,
) -> GroupDRO | WorstGroup:
    """What turns group sums into weights. `groups`: patients of each group, in the order of the codes.

    Raises:
        InputError: `excess` without the reference of every group.
    """
    if objective == "worst":
        return WorstGroup(len(groups))
    if objective != "excess":
        return GroupDRO(list(groups.values()), settings, warmup_steps)
    known = reference or {}
    missing = sorted(set(groups) - set(known))
    if missing:
        raise InputError(
            f"objective excess: no reference loss of {', '.join(missing)}; give --reference, the folder of the base "
            "encoder of the same method and seed, trained on the same manifest"
        )
    return GroupDRO(list(groups.values()), settings, warmup_steps, [known[group] for group in groups])


def compared(objective: str, result: StepResult) -> Tensor:
    """`[B]`, detached: what groups are compared by. The published maximum is taken over losses, not over signals."""
    return result.loss.detach() if objective == "worst" else result.signal


def total_loss(objective: str, loss: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """`[B] ->` the scalar to minimise; the gradient flows through the losses only."""
    return robust_loss(loss, groups, weights) if objective in WEIGHTED else loss.mean()


def read_reference(
    folder: str | Path, method: str, seed: int, preset: Mapping[str, Any], manifest_sha256: str
) -> dict[str, float]:
    """Signal that the base run in `folder` ended with, of each group, as `final_signals` has it.

    Raises:
        InputError: not a base run of this method, seed, preset and manifest, no groups.csv, or a group without any loss.
    """
    card = load_card(folder)
    expected = {"method": method, "objective": "base", "seed": seed, "manifest_sha256": manifest_sha256}
    differing = [key for key, value in expected.items() if card.get(key) != value]
    trained = card.get("preset")
    if not isinstance(trained, Mapping) or trained.get("values") != preset:
        differing.append("preset")
    if differing:
        raise InputError(
            f"--reference {folder}: differs from this run in {', '.join(differing)}; the reference is the base encoder "
            "of the same method, seed, preset and manifest"
        )
    path = Path(folder) / "groups.csv"
    if not path.is_file():
        raise InputError(f"--reference {folder}: has no groups.csv; make the base encoder again")
    return final_signals(read_table(path, text=("group",)), str(path))


def final_signals(table: pd.DataFrame, where: str) -> dict[str, float]:
    """The end of each group's signal in a groups.csv: the mean over the samples of the last `REFERENCE_SHARE` of the logged
    steps that held the group, and `STANDARD_ERRORS` of it, from how much the steps' means differ.

    Raises:
        InputError: missing columns, cells that are no numbers, or a group never seen.
    """
    missing = [column for column in ("step", "group", "signal", "count") if column not in table]
    if missing:
        raise InputError(f"{where}: lacks the columns {', '.join(missing)}; make the base encoder again")
    numbers = table[["step", "signal", "count"]].apply(pd.to_numeric, errors="coerce").astype(float)
    # A group that is absent from a step has no signal there.
    numbers.loc[numbers["count"] == 0, "signal"] = 0
    if not len(numbers):
        raise InputError(f"{where}: has no rows; make the base encoder again")
    wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1) | table["group"].isna())
    if len(wrong):
        raise InputError(
            f"{where} row {wrong[0] + 2}: group, step, signal or count is none; make the base encoder again"
        )
    table, signals = table.assign(**numbers), {}
    for group, rows in table.sort_values("step", kind="stable").groupby("group"):
        seen = rows[rows["count"] > 0]
        if seen.empty:
            raise InputError(f"{where}: group {group} is in no logged step; lower training.log_every in the preset")
        last = seen.iloc[-max(REFERENCE_ROWS, round(REFERENCE_SHARE * len(seen))) :]
        mean = (last["signal"] * last["count"]).sum() / last["count"].sum()
        error = last["signal"].std() / math.sqrt(len(last)) if len(last) > 1 else 0.0
        signals[str(group)] = float(mean + STANDARD_ERRORS * error)
    return signals
