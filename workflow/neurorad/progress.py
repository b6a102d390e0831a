"""What a run is doing: jobs done and left by stage, the time that the rest will take, failures with their logs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neurorad.cli import STAGES

TARGETS = ("all", "embeddings")
"""Rules that only collect."""


def stage_of(rule: str) -> str:
    """The stage whose verb a rule calls: `figure_fig1_flow` calls `figure`, `volumes_index` calls `volumes-index`."""
    for stage, verbs in STAGES.items():
        if rule.replace("_", "-") in verbs or rule.split("_")[0] in verbs:
            return stage
    return "other"


def words_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """`volumes cuimc 0`."""
    return " ".join([rule, *map(str, wildcards.values())])


def duration(seconds: float) -> str:
    """`41 s`, `9 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Progress:
    """State of one run, fed with Snakemake's events.

    Attributes:
        expected: rule -> jobs of this run.
        running: job -> (rule, words, start in seconds).
        done, seconds: rule -> jobs that ended, and what they took together.
        failures: words and logs of failed jobs.
    """

    began: float
    expected: Counter[str] = field(default_factory=Counter)
    running: dict[int, tuple[str, str, float]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def plan(self, counts: Mapping[str, int]) -> None:
        """The jobs of the run by rule, as Snakemake lists them; its `total` and targets are left out."""
        self.expected = Counter({rule: n for rule, n in counts.items() if rule not in (*TARGETS, "total")})

    def start(self, job: int, rule: str, wildcards: Mapping[str, str], now: float) -> None:
        """A job that begins to run, at `now` in seconds."""
        if rule not in TARGETS:
            self.running[job] = (rule, words_of(rule, wildcards), now)

    def end(self, job: int, now: float) -> tuple[str, str, float] | None:
        """Rule, words and seconds of a job that ended; None for a target."""
        if job not in self.running:
            return None
        rule, words, began = self.running.pop(job)
        self.done[rule] += 1
        self.seconds[rule] += now - began
        # A checkpoint may have added jobs to a rule.
        self.expected[rule] = max(self.expected[rule], self.done[rule])
        return rule, words, now - began

    def fail(self, job: int, rule: str, logs: Sequence[str]) -> str:
        """Words of a job that failed."""
        _, words, _ = self.running.pop(job, (rule, rule, 0.0))
        self.failures.append((words, tuple(logs)))
        return words

    @property
    def left(self) -> int:
        """Jobs that have not ended."""
        return sum(self.expected.values()) - sum(self.done.values())

    def remaining(self, now: float) -> float | None:
        """Seconds that the rest will take, from the mean of each rule so far (of all rules, where one has not ended yet)
        and the jobs that ran side by side until now; None while nothing has ended."""
        ended, spent = sum(self.done.values()), sum(self.seconds.values())
        if not ended or now <= self.began:
            return None
        work = sum(
            (self.expected[rule] - self.done[rule])
            * (self.seconds[rule] / self.done[rule] if self.done[rule] else spent / ended)
            for rule in self.expected
        )
        busy = spent + sum(now - began for _, _, began in self.running.values())
        return max(work - sum(now - began for _, _, began in self.running.values()), 0.0) / max(
            busy / (now - self.began), 1.0
        )

    def by_stage(self) -> list[tuple[str, int, int, list[str]]]:
        """Stage, jobs done, jobs expected, and words of those running, in the workflow's order."""
        order = [*STAGES, "other"]
        rows = []
        for stage in sorted({stage_of(rule) for rule in self.expected}, key=order.index):
            rules = [rule for rule in self.expected if stage_of(rule) == stage]
            now = [words for rule, words, _ in self.running.values() if stage_of(rule) == stage]
            rows.append((stage, sum(self.done[r] for r in rules), sum(self.expected[r] for r in rules), now))
        return rows

    def outlook(self, now: float) -> str:
        """`57 of 230 jobs, about 9 min left`."""
        total = sum(self.expected.values())
        seconds = self.remaining(now)
        told = f", about {duration(seconds)} left" if seconds is not None and self.left else ""
        return f"{total - self.left} of {total} jobs{told}"


def last_words(log: str | Path, lines: int = 3) -> list[str]:
    """The last lines of a job's log: a verb's message is its last one."""
    path = Path(log)
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]
