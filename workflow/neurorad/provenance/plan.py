"""What Snakemake would run, in words: from the text of its dry run and the benchmark files of earlier runs."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

WORDS = {
    "Missing output files": "not made yet",
    "Updated input files": "an input changed",
    "Params have changed": "its settings, its code or the files of its cohort changed",
    "Code has changed": "its command changed",
    "Set of input files has changed": "it has other inputs",
    "Software environment definition has changed": "its environment changed",
    "Incomplete files": "an earlier run was killed while it wrote",
    "Forced execution": "forced",
}
"""How Snakemake's reasons begin, and what they mean to a user. `Input files updated by another job` is no cause."""

MAYBE = {
    "pretrain": "only if the audit changes the content of results/cohorts/pretraining_manifest.tsv",
    "volumes": "only the shards whose scans changed",
}
"""Rules whose jobs are decided once a checkpoint before them has run; a dry run lists all of them."""


@dataclass
class Planned:
    """The jobs of one rule. `causes`: why, for those not merely behind another job; `example`: the first of them."""

    jobs: int = 0
    behind: int = 0
    causes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    example: str = ""


def read_plan(told: str) -> dict[str, Planned]:
    """Rule -> its planned jobs, in the order of the dry run's text `told`; without the target rule `all`."""
    plan: dict[str, Planned] = {}
    for block in re.split(r"^(?=(?:local)?(?:rule|checkpoint) \w+:$)", told, flags=re.MULTILINE)[1:]:
        rule = block.partition(":")[0].split()[-1]
        if rule == "all":
            continue
        planned = plan.setdefault(rule, Planned())
        planned.jobs += 1
        reason = re.search(r"^    reason: (.*)$", block, re.MULTILINE)
        causes = [words for begin, words in WORDS.items() if reason and begin in reason[1]]
        if not causes:
            planned.behind += 1
        for words in causes:
            planned.causes[words] += 1
        wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        if causes and not planned.example and wildcards:
            planned.example = wildcards[1]
    return plan


def seconds_of(benchmarks: Path) -> dict[str, float]:
    """Rule -> mean wall seconds of its jobs, from Snakemake's benchmark files of earlier runs."""
    measured = defaultdict(list)
    for path in sorted(benchmarks.rglob("*.tsv")):
        lines = path.read_text(encoding="utf-8").splitlines()
        cells = lines[1].split("\t")[0] if len(lines) > 1 else ""
        if re.fullmatch(r"[0-9.]+", cells):
            measured[_rule_of(path.relative_to(benchmarks))].append(float(cells))
    return {rule: sum(values) / len(values) for rule, values in measured.items()}


def _rule_of(path: Path) -> str:
    kinds = {"figures": "figure_", "tables": "table_"}
    if path.parts[0] in kinds:
        return kinds[path.parts[0]] + path.stem
    return path.parts[0] if len(path.parts) > 1 else path.stem


def in_words(plan: dict[str, Planned], seconds: dict[str, float]) -> str:
    """The plan as text: what and why, what follows from it, what is not decided yet, and what it costs."""
    if not plan:
        return "Nothing would run: every file is up to date.\n"
    lines = [f"{sum(planned.jobs for planned in plan.values())} jobs would run at most."]
    causes = {rule: planned for rule, planned in plan.items() if planned.causes}
    lines += ["", "Because"] + [
        f"  {rule}: {planned.jobs - planned.behind} of {planned.jobs} jobs"
        + (f" ({planned.example}{', ...' if planned.jobs - planned.behind > 1 else ''})" if planned.example else "")
        + f": {' and '.join(planned.causes)}{_cost(rule, planned.jobs, seconds)}"
        for rule, planned in causes.items()
    ]
    followers = {rule: planned for rule, planned in plan.items() if rule not in causes}
    decided = {rule: planned for rule, planned in followers.items() if rule not in MAYBE}
    if decided:
        lines += ["", "which they read, and so"] + [
            f"  {rule}: {planned.jobs} jobs{_cost(rule, planned.jobs, seconds)}" for rule, planned in decided.items()
        ]
    if maybe := [rule for rule in followers if rule in MAYBE]:
        lines += ["", "Not decided before the run"] + [
            f"  {rule}: up to {plan[rule].jobs} jobs, {MAYBE[rule]}{_cost(rule, plan[rule].jobs, seconds)}"
            for rule in maybe
        ]
    known = [planned.jobs * seconds[rule] for rule, planned in plan.items() if rule in seconds]
    unknown = sorted(rule for rule in plan if rule not in seconds)
    lines += ["", f"Together at most {duration(sum(known))} of jobs' time, as measured in earlier runs."]
    if unknown:
        lines.append(f"Never measured here: {', '.join(unknown)}.")
    return "\n".join(lines) + "\n"


def _cost(rule: str, jobs: int, seconds: dict[str, float]) -> str:
    return f"; about {duration(jobs * seconds[rule])}" if rule in seconds else ""


def duration(seconds: float) -> str:
    """`"2 h 5 min"`, `"3 min"`, `"12 s"`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
