"""From a result back to the files of the study's data: the chain of jobs, as Snakemake recorded it when they ran."""

from __future__ import annotations

import json
import os
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neurorad.files import folder_sha256, read_table, sha256
from neurorad.problems import InputError
from neurorad.volumes import VolumeError, load, load_card

CELL = ("encoder", "endpoint", "protocol", "site")
"""The columns that say which patients a number was counted on."""


@dataclass(frozen=True)
class Step:
    """One file of the chain. `record` is None for a file that no job of the study made: a source."""

    path: str
    depth: int
    record: dict[str, Any] | None
    inputs: tuple[str, ...] = ()


def record_of(study: Path, path: str) -> dict[str, Any] | None:
    """What Snakemake recorded when it made `path` (relative to the study's folder): rule, input, shellcmd, starttime,
    endtime, input_checksums; None if no job did. Long names lie in folders whose names begin with @."""
    folder = study / ".snakemake" / "metadata"
    longest = os.pathconf(folder, "PC_NAME_MAX") if folder.is_dir() else 255
    code = urlsafe_b64encode(path.encode()).decode()
    parts = [code[i : i + longest - 1] for i in range(0, len(code), longest - 1)]
    place = folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])
    if not place.is_file():
        return None
    return json.loads(place.read_text(encoding="utf-8"))


def trace(study: Path, path: str, names: Collection[str] = ()) -> list[Step]:
    """The file, what it was made of, what that was made of, and so on, each once, down to source files.

    Args:
        names: an encoder's and a cohort's name. Among inputs made by the same rule, where some lie in a folder or file of
            such a name, the others are left out: they have no part in a row about it.

    Raises:
        InputError: no such file, or no job of this study made it.
    """
    if not (study / path).exists():
        raise InputError(f"{path}: no such file below {study.resolve().name}; paths are relative to the study's folder")
    if record_of(study, path) is None:
        raise InputError(f"{path}: no job of this study made it, or its record in .snakemake/metadata is gone")
    steps: list[Step] = []
    seen: set[str] = set()
    ahead = [(path, 0)]
    while ahead:
        current, depth = ahead.pop()
        if current in seen:
            continue
        seen.add(current)
        record = record_of(study, current)
        inputs = tuple(_of_interest(record["input"], names)) if record else ()
        steps.append(Step(current, depth, record, inputs))
        ahead += [(name, depth + 1) for name in reversed(inputs)]
    return steps


def _of_interest(inputs: list[str], names: Collection[str]) -> list[str]:
    kept = inputs
    for name in names:
        about = {path for path in kept if name in _words(path)}
        kinds = {_kind(path, name) for path in about}
        kept = [path for path in kept if path in about or not any(_alike(path, kind) for kind in kinds)]
    return kept


def _words(path: str) -> set[str]:
    return {part.split(".")[0] for part in Path(path).parts}


def _kind(path: str, name: str) -> tuple[tuple[str, ...], int]:
    """The parts of a path with the named one left open, and which one that is."""
    parts = Path(path).parts
    place = next(i for i, part in enumerate(parts) if part.split(".")[0] == name)
    return parts, place


def _alike(path: str, kind: tuple[tuple[str, ...], int]) -> bool:
    """The same path but for the open part."""
    parts, (pattern, place) = Path(path).parts, kind
    if len(parts) != len(pattern):
        return False
    same_end = ".".join(parts[place].split(".")[1:]) == ".".join(pattern[place].split(".")[1:])
    return same_end and all(i == place or mine == its for i, (mine, its) in enumerate(zip(parts, pattern, strict=True)))


def in_words(study: Path, steps: list[Step]) -> str:
    """The chain as text: each file indented below what was made of it, with rule, moment, seconds and checksum."""
    recorded: dict[str, str] = {}
    for step in steps:
        recorded |= step.record.get("input_checksums") or {} if step.record else {}
    lines = []
    for step in steps:
        indent = "  " * step.depth
        if step.record is None:
            lines.append(f"{indent}{step.path}  source{_checksum(study, step.path, recorded)}")
            continue
        began, ended = step.record["starttime"], step.record["endtime"]
        listed = " (its rows name the files of each scan)" if step.record["rule"] == "inventory" else ""
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began))
        lines.append(
            f"{indent}{step.path}  by {step.record['rule']}, {moment}, {ended - began:.1f} s"
            f"{_checksum(study, step.path, recorded)}{listed}"
        )
    sources = [step.path for step in steps if step.record is None]
    made = {step.record["rule"] for step in steps if step.record}
    lines.append(f"{len(steps)} files of {len(made)} rules; {len(sources)} are sources")
    return "\n".join(lines) + "\n"


def _checksum(study: Path, path: str, recorded: dict[str, str]) -> str:
    """sha256 of a file, and whether it is still the one that was read when the next file was made. Of a folder, over its
    files, and only if that was recorded."""
    place = study / path
    if place.is_dir() and path not in recorded:
        return ""
    if not place.exists():
        return ", MISSING NOW"
    found = folder_sha256(place) if place.is_dir() else sha256(place)
    then = recorded.get(path, "").removeprefix("sha256:")
    return f", sha256 {found[:12]}" + (", CHANGED SINCE" if then and then != found else "")


def scans_in_words(study: Path, steps: list[Step], row: Mapping[str, str]) -> str:
    """The scans that a row of numbers was counted on, down to the raw files: each volume, what it was read from, and whether
    that is still what it was. Empty where the chain holds no prediction of the row's encoder, endpoint, protocol and site.

    Raises:
        InputError: a damaged file on the way.
    """
    cell = [row.get(name, "") for name in CELL]
    lines = []
    for path in _predictions(steps, cell[0]):
        scored = read_table(study / path)
        scored = scored[(scored[list(CELL)].astype(str) == cell).all(axis=1)]
        if len(scored):
            lines.append(f"{len(scored)} scans, scored in {path}")
        for cohort, scans in scored.groupby("cohort")["scan"]:
            table = f"results/cohorts/{cohort}/scans.tsv"
            listed = read_table(study / table).set_index("scan")
            for scan in scans:
                volume = f"results/volumes/{cohort}/{scan}.b2nd"
                gone = [f"  {volume}  NOT IN {table} NOW"]
                lines += _scan_lines(study, volume, listed.loc[scan]) if scan in listed.index else gone
    return "".join(f"{line}\n" for line in lines)


def _predictions(steps: list[Step], encoder: str) -> list[str]:
    """What the jobs of a chain that judged an encoder predicted, whichever of their files the chain holds."""
    judged = {f"results/evaluation/{kind}/{encoder}" for kind in ("probe", "survival")}
    stems = {re.sub(r"(\.predictions)?\.parquet$", "", step.path) for step in steps}
    return [f"{stem}.predictions.parquet" for stem in sorted(judged & stems)]


def _scan_lines(study: Path, volume: str, listed: pd.Series) -> list[str]:
    try:
        load(study / volume, check=True)
        card = load_card(study / volume)
    except (VolumeError, OSError):
        return [f"  {volume}  CHANGED SINCE OR MISSING NOW"]
    lines = [f"  {volume}  sha256 of the voxels {card['sha256'][:12]}, made of"]
    for name, digest in card["made_from"]["sources"].items():
        source = str(listed[name])
        lines.append(f"    {source}{_checksum(study, source, {source: digest})}")
    return lines
