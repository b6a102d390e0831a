"""The analysis plan: what a study concludes from, declared in its config, frozen by `neurorad lock-plan` before there are results.

The plan is the config without its paths, and the endpoints with their cut-offs. What differs from the frozen plan later is a
deviation, and every table says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neurorad.endpoints import endpoints
from neurorad.problems import InputError

LOCK = Path("analysis_plan.lock.json")
"""The frozen plan, in the study's folder."""

NOT_LOCKED = "plan not locked"
ROLES = ("primary", "secondary")
PATHS = ("images", "labels", "verdicts", "series", "table", "weights", "file", "freeze")
"""Keys of the config that name files: a study that moved is still the planned one. sha256 sums of files stay in the plan."""


@dataclass(frozen=True)
class Deviation:
    """One thing that is not as planned: a dotted key, its planned and its present value, and the author's reason."""

    item: str
    planned: str
    now: str
    reason: str


def plan_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in a config that decides numbers, and the endpoints with their cut-offs; no path of the machine.

    The reasons given for deviations, the title and how cohorts are cut into jobs are no part of it.
    """
    declared = {key: value for key, value in config.get("analysis_plan", {}).items() if key != "reasons"}
    known = endpoints(config.get("labels", {}))
    kept = {key: value for key, value in config.items() if key not in ("analysis_plan", "title", "phantom")}
    return {
        "declared": declared,
        "endpoints": {name: {"kind": e.kind, "cutoff": e.cutoff} for name, e in known.items()},
        **_without_paths(kept),
    }


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A path is replaced by whether there is one: labels that come or go are a change of the plan.
        return {
            key: True if key in PATHS and isinstance(inner, str) else _without_paths(inner)
            for key, inner in value.items()
            if key != "shards"
        }
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def lock(config: Mapping[str, Any], day: str, results_existed: bool) -> dict[str, Any]:
    """The frozen plan as it is written: plan, day (ISO 8601, UTC), whether results existed by then, sha256 over the three."""
    frozen = {"plan": plan_of(config), "locked": day, "results_existed": results_existed}
    return {**frozen, "sha256": _digest(frozen)}


def _digest(frozen: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()


def read_lock(path: Path) -> dict[str, Any] | None:
    """The frozen plan, or None where there is none.

    Raises:
        InputError: not a frozen plan, or changed after it was frozen.
    """
    if not path.is_file():
        return None
    try:
        frozen = json.loads(path.read_text(encoding="utf-8"))
        held = {key: frozen[key] for key in ("plan", "locked", "results_existed")}
        stated = frozen["sha256"]
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{path}: not a plan made by `neurorad lock-plan` ({problem})") from problem
    if _digest(held) != stated:
        raise InputError(
            f"{path}: was changed after it was locked (its sha256 is not {stated[:12]}…); take back the locked file from "
            "your version control, and state changes in the config, where they are listed as deviations"
        )
    return frozen


def results_exist(study: Path) -> bool:
    """Whether a study's folder holds numbers already: an evaluation or a table."""
    return any(any((study / "results" / name).rglob("*.*")) for name in ("evaluation", "tables"))


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": [1, 2]}}` as `{"a.b": "[1, 2]"}`: what deviations are listed by."""
    if isinstance(value, Mapping) and value:
        return {
            name: text
            for key, inner in value.items()
            for name, text in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: json.dumps(value, sort_keys=True)}


def deviations(frozen: Mapping[str, Any] | None, config: Mapping[str, Any]) -> list[Deviation]:
    """What differs between the frozen plan and the config, by key; empty where nothing is frozen."""
    if frozen is None:
        return []
    planned, now = flat(frozen["plan"]), flat(plan_of(config))
    reasons = config.get("analysis_plan", {}).get("reasons", {})
    return [
        Deviation(item, planned.get(item, "absent"), now.get(item, "absent"), reasons.get(item, "no reason given"))
        for item in sorted({*planned, *now})
        if planned.get(item) != now.get(item)
    ]


def stamp(frozen: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """What stands in every table: `plan 1a2b3c4d5e6f locked 2026-11-26; 2 deviations`, or `plan not locked`."""
    if frozen is None:
        return NOT_LOCKED
    number = len(deviations(frozen, config))
    late = ", after results existed" if frozen["results_existed"] else ""
    changed = f"; {number} deviation{'s' if number > 1 else ''}" if number else ""
    return f"plan {frozen['sha256'][:12]} locked {frozen['locked']}{late}{changed}"


def with_plan(table: pd.DataFrame, text: str, declared: Mapping[str, Any]) -> pd.DataFrame:
    """A table with its plan's stamp in the column `plan` and, where its rows are numbers of an endpoint, whether the plan
    calls each `primary`, `secondary` or (not declared) `exploratory` in `analysis`."""
    table = table.copy()
    if {"endpoint", "metric"} <= set(table.columns):
        table["analysis"] = role_of(table, declared)
    return table.assign(plan=text)


def role_of(rows: pd.DataFrame, declared: Mapping[str, Any]) -> list[str]:
    """`primary`, `secondary` or `exploratory` for each row of a tidy table.

    Args:
        declared: `{"primary": [{"endpoint": [...], "metric": [...], ...}], "secondary": [...]}`. An entry speaks of the rows
            whose columns have one of its values; a column that it does not name may hold anything.
    """
    found = pd.Series("exploratory", index=rows.index)
    for role in reversed(ROLES):
        for entry in declared.get(role, []):
            meant = pd.Series(True, index=rows.index)
            for column, values in entry.items():
                meant &= rows[column].astype(str).isin(map(str, values)) if column in rows else False
            found[meant] = role
    return found.tolist()


def absent(declared: Mapping[str, Any], tables: Iterable[pd.DataFrame]) -> list[Deviation]:
    """Planned numbers of which no table has a single row: each is a deviation too.

    Args:
        tables: tidy tables with endpoint, metric, protocol and so on.
    """
    tables = list(tables)
    missing = []
    for role in ROLES:
        for entry in declared.get(role, []):
            for endpoint in entry["endpoint"]:
                for metric in entry["metric"]:
                    wanted = {role: [{**entry, "endpoint": [endpoint], "metric": [metric]}]}
                    if not any(role in role_of(table, wanted) for table in tables):
                        item = f"declared.{role}: {metric} of {endpoint}"
                        missing.append(Deviation(item, json.dumps(entry, sort_keys=True), "no such number", ""))
    return missing
