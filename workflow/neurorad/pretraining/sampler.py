"""Which scans make up the batch of a step: a pure function of seed and step, so that resuming needs no state."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from neurorad.problems import InputError
from neurorad.seeds import generator, seed_of

SAMPLING = ("balanced", "natural", "by_objective")


class BalancedSampler:
    """Every group equally often, within a group every patient equally often, no patient twice in a batch if possible.

    The draws of all steps form one sequence. Each run of G draws holds every group once, in shuffled order; so the
    c-th draw of a group lies in run c, whatever the batch size. A group walks through its shuffled patients, and a
    patient through their scans. Equal strings in `patients` are one person, also across cohorts.
    """

    def __init__(self, groups: Sequence[int], patients: Sequence[str], batch_size: int, seed: int) -> None:
        """`groups`: code 0..G-1 of each scan. `patients`: of each scan."""
        self.batch_size, self.seed = batch_size, seed
        self.patients = list(patients)
        self.count = max(groups) + 1
        self.scans: list[dict[str, list[int]]] = [{} for _ in range(self.count)]
        for scan, (group, patient) in enumerate(zip(groups, patients, strict=True)):
            self.scans[group].setdefault(patient, []).append(scan)
        self._order = lru_cache(maxsize=4096)(self._shuffled)

    def _shuffled(self, name: str, size: int, turn: int) -> list[int]:
        return generator(self.seed, name, turn).permutation(size).tolist()

    def batch(self, step: int) -> list[int]:
        """Indices of the `batch_size` scans of a step."""
        chosen: dict[str, int] = {}
        scans = []
        for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, position = divmod(draw, self.count)
            group = self._order("groups", self.count, turn)[position]
            patient, visit = self._patient(group, turn, chosen)
            chosen[patient] = chosen.get(patient, 0) + 1
            own = self.scans[group][patient]
            # Repeats in one batch, when a group has too few patients, still take different scans of the patient.
            offset = seed_of(self.seed, "scan", patient) + visit + chosen[patient] - 1
            scans.append(own[offset % len(own)])
        return scans

    def _patient(self, group: int, turn: int, chosen: dict[str, int]) -> tuple[str, int]:
        """The patient of a group's turn and how often the group was walked through before.

        If the patient is in the batch already, the next one in the group's order who is not.
        """
        names = list(self.scans[group])
        visit, position = divmod(turn, len(names))
        order = self._order(f"patients-{group}", len(names), visit)
        candidates = (names[order[(position + shift) % len(names)]] for shift in range(len(names)))
        return next((name for name in candidates if name not in chosen), names[order[position]]), visit


class NaturalSampler:
    """Every scan once per pass, in shuffled order: groups appear as often as they have scans."""

    def __init__(self, scans: int, batch_size: int, seed: int) -> None:
        self.scans, self.batch_size, self.seed = scans, batch_size, seed

    def batch(self, step: int) -> list[int]:
        """Indices of the `batch_size` scans of a step."""
        draws = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        orders = {
            turn: generator(self.seed, "natural", turn).permutation(self.scans) for turn in {*draws // self.scans}
        }
        return [int(orders[draw // self.scans][draw % self.scans]) for draw in draws]


def check_sampling(sampling: str, objective: str, allow_natural: bool) -> None:
    """Refuse what `make_sampler` could make and nobody means.

    Raises:
        InputError: `dro` or `excess` with natural sampling without `allow_natural`, as a group's absence then counts and
            all weight drifts to the largest group; the objective `balanced` where base is balanced already.
    """
    if objective == "balanced" and sampling == "balanced":
        raise InputError(
            "preset: training.sampling is balanced for every objective, so the objective balanced would be base once "
            "more; set training.sampling to by_objective (base natural, the others balanced) or leave balanced out"
        )
    if objective in ("dro", "excess") and sampling == "natural" and not allow_natural:
        raise InputError(
            f"preset: training.sampling is natural and the objective is {objective}: weights would follow how often a "
            "group appears, not its loss; set training.sampling to balanced (or dro.allow_natural to true, knowingly)"
        )


def make_sampler(
    sampling: str,
    objective: str,
    groups: Sequence[int],
    patients: Sequence[str],
    batch_size: int,
    seed: int,
    allow_natural: bool = False,
) -> BalancedSampler | NaturalSampler:
    """The sampler of a run. `sampling`: `balanced` or `natural` for every objective, or `by_objective`: natural for
    `base` and balanced for the others. The objective `balanced` is always sampled so.

    Raises:
        InputError: as `check_sampling`.
    """
    check_sampling(sampling, objective, allow_natural)
    natural = sampling == "natural" or (sampling == "by_objective" and objective == "base")
    if objective == "balanced" or not natural:
        return BalancedSampler(groups, patients, batch_size, seed)
    return NaturalSampler(len(patients), batch_size, seed)
