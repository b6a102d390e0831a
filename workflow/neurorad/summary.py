"""The end of a run in a few lines: what was made, what was left out, what to look at first."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from neurorad.files import read_table


def summary(results: Path) -> str:
    """What lies in a study's `results` folder, in words; whatever is not there is not spoken of."""
    lines = [*_made(results), *_left_out(results), *_first(results)]
    return "\n".join(lines)


def _made(results: Path) -> list[str]:
    kinds = {
        "encoders": "encoders/*/encoder.safetensors",
        "embeddings": "embeddings/*/*.parquet",
        "figures": "figures/*.svg",
        "tables": "tables/*.csv",
    }
    counts = {kind: len(list(results.glob(pattern))) for kind, pattern in kinds.items()}
    lines = [f"Made: {', '.join(f'{n} {kind}' for kind, n in counts.items() if n)}."] if any(counts.values()) else []
    audit = results / "cohorts" / "leakage_audit.json"
    stamp = (
        json.loads(audit.read_text(encoding="utf-8")).get("stamp") if audit.is_file() and audit.stat().st_size else ""
    )
    return [*lines, f"Mind: {stamp}"] if stamp else lines


def _left_out(results: Path) -> list[str]:
    """Scans and patients that left, by stage, and the cohorts they left from."""
    stages: Counter[str] = Counter()
    cohorts: Counter[str] = Counter()
    for path in sorted(results.glob("cohorts/*/excluded.tsv")):
        if path.stat().st_size:
            for row in read_table(path).itertuples():
                stages[row.stage] += 1
                cohorts[row.cohort] += 1
    if not stages:
        return []
    told = ", ".join(f"{n} at {stage}" for stage, n in stages.items())
    most = ", ".join(f"{cohort} {n}" for cohort, n in cohorts.most_common(3))
    return [
        f"Left out: {stages.total()} entries ({told}), most from {most}; each with its reason in results/cohorts/*/excluded.tsv."
    ]


def _first(results: Path) -> list[str]:
    pages = [path for path in (results / "report.html",) if path.is_file()]
    qc = sorted(results.glob("volumes/*/qc.html"))
    lines = [f"Look first at {results.name}/{page.name}." for page in pages]
    if qc:
        lines.append(
            f"Then at {results.name}/volumes/*/qc.html: every volume of {len(qc)} cohort{'s' * (len(qc) > 1)}."
        )
    return lines
