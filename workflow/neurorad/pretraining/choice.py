"""Which weights of a run become its encoder: the last ones, or the best by a probe of the worst group.

A self-supervised loss never chooses: the loss of a collapsing network is low, DINO's favours peaked outputs and a feature
MAE's favours shrinking ones. The probe needs no label of any patient, and its target does not depend on the cohort: which of
the four sequences is it, given that one alone in the place of all four? It is asked of every group by a ridge regression
that saw the other groups, so a group counts for which features do not carry over. The scans are those of the pretraining.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neurorad.encoder import Encoder
from neurorad.pretraining.gauges import effective_rank
from neurorad.pretraining.scans import Scans
from neurorad.seeds import generator

RULES = ("last", "worst_group")

LOOKS = 20
"""Times a run is probed, evenly spread, the last step included; and once before the first step."""

SCANS = 16
"""Most scans of a group that are probed, each of another patient."""

RANK_SHARE = 0.5
"""The gate: features of all scans, and of each group's, keep this share of the effective rank that they had untrained."""

PENALTY = 1e-3
"""Of the ridge regression, on features of total variance 1."""

ALL = "all groups"


class Choice:
    """Follows a run. `looks`: one entry a probe; `weights`: of the encoder at the best of them so far."""

    def __init__(self, rule: str, scans: Scans, seed: int, steps: int) -> None:
        self.rule, self.scans, self.steps = rule, scans, steps
        self.chosen = probe_scans(scans.groups, scans.patients, seed) if rule == "worst_group" else []
        self.looks: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}

    def due(self, step: int) -> bool:
        """Whether the encoder is probed after `step` finished steps."""
        if self.rule == "last" or (self.looks and self.looks[-1]["step"] >= step):
            return False
        return step * LOOKS // self.steps > (step - 1) * LOOKS // self.steps or step in (0, self.steps)

    def look(self, step: int, encoder: Encoder) -> None:
        """Probe the encoder, and keep its weights if it is the best so far; of equals the later one."""
        whole, single, present = probe_features(encoder, self.scans, self.chosen)
        groups = torch.tensor([self.scans.groups[scan] for scan in self.chosen])
        names = self.scans.group_names
        ranks = {name: effective_rank(whole[groups == code]) for code, name in enumerate(names)}
        probes = dict(zip(names, sequence_probe(single, present, groups), strict=True))
        self.looks.append({"step": step, "probe": probes, "effective_rank": {ALL: effective_rank(whole), **ranks}})
        if self.best == step:
            self.weights = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}

    @property
    def best(self) -> int:
        """The step whose weights become the encoder: the last where nothing else is asked for, or nothing passes the gate."""
        passed = [look for look in self.looks if look["step"] > 0 and passes(look, self.looks[0])]
        if not passed:
            return self.steps
        return max(passed, key=lambda look: (min(look["probe"].values()), look["step"]))["step"]

    def card(self) -> dict[str, Any]:
        """For the encoder's card: the rule, the step it chose, and what it saw."""
        return {"rule": self.rule, "step": self.best, "last": self.steps, "looks": self.looks}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"looks": self.looks, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.looks, self.weights = state["looks"], state["weights"]


def passes(look: dict[str, Any], untrained: dict[str, Any]) -> bool:
    """Whether no rank fell below `RANK_SHARE` of what it was untrained."""
    return all(rank >= RANK_SHARE * untrained["effective_rank"][name] for name, rank in look["effective_rank"].items())


def probe_scans(groups: Sequence[int], patients: Sequence[str], seed: int) -> list[int]:
    """At most `SCANS` scans of each group, of a patient one, drawn by the seed; in the order of the manifest."""
    chosen: dict[int, set[str]] = {group: set() for group in groups}
    scans = []
    for scan in generator(seed, "probe scans").permutation(len(groups)).tolist():
        own = chosen[groups[scan]]
        if patients[scan] not in own and len(own) < SCANS:
            own.add(patients[scan])
            scans.append(scan)
    return sorted(scans)


@torch.no_grad()
def probe_features(encoder: Encoder, scans: Scans, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, float64 on the CPU, of whole volumes as the finished encoder will see them.

    Returns:
        `[n, d]` of the scans; `[n, 4, d]` of each sequence in the place of all four; `[n, 4]` whether the scan has it.
    """
    was_training = encoder.training
    device = next(encoder.parameters()).device
    encoder.eval()
    features, present = [], []
    for scan in chosen:
        volume = torch.from_numpy(scans.volume(scan)).to(device).float()
        alone = volume[:, None].expand(-1, len(volume), -1, -1, -1)
        features.append(encoder(torch.cat([volume[None], alone])).double().cpu())
        present.append((volume != 0).flatten(1).any(dim=1).cpu())
    encoder.train(was_training)
    stacked = torch.stack(features)
    return stacked[:, 0], stacked[:, 1:], torch.stack(present)


def sequence_probe(features: Tensor, present: Tensor, groups: Tensor) -> list[float]:
    """Of each group, how well a regression that saw the other groups tells its sequences apart: R^2 of the indicators of
    the four, 1 at best, 0 for one that always answers the training groups' shares. A single group is halved.

    Args:
        features: `[n, 4, d]`. present: `[n, 4]`; absent sequences are left out. groups: `[n]` codes 0..G-1.
    """
    n, kinds, _ = features.shape
    parts = groups if groups.max() > 0 else torch.arange(n) % 2
    targets = torch.eye(kinds, dtype=torch.float64).expand(n, -1, -1)
    scores = []
    for part in range(int(parts.max()) + 1):
        test = parts == part
        seen, asked = present & ~test[:, None], present & test[:, None]
        expected = ridge(features[seen], targets[seen], features[asked])
        error = (targets[asked] - expected).square().sum()
        scores.append(float(1 - error / (targets[asked] - targets[seen].mean(dim=0)).square().sum()))
    return scores if groups.max() > 0 else [sum(scores) / len(scores)]


def ridge(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Ridge regression of `y` `[n, k]` on standardised `x` `[n, d]`, at `asked` `[m, d]`: `[m, k]`. In its dual form, as
    there are fewer scans than features."""
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-9 * mean.abs(), deviation, torch.inf) * x.shape[1] ** 0.5
    z, average = (x - mean) / scale, y.mean(dim=0)
    kernel = z @ z.T + PENALTY * len(z) * torch.eye(len(z), dtype=z.dtype)
    return average + (asked - mean) / scale @ z.T @ torch.linalg.solve(kernel, y - average)
