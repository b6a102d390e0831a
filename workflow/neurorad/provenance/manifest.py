"""What made every file of a study: rule, code, settings, inputs, versions, device and times, from the records of its jobs."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neurorad.files import read_json, sha256
from neurorad.job_record import record_path
from neurorad.problems import InputError
from neurorad.provenance.trace import record_of

JOBS = Path("results/provenance/jobs")
"""Where the workflow lets its commands write what they ran on."""

UNKNOWN = "not recorded"


def manifest(study: Path, files: Iterable[str]) -> dict[str, Any]:
    """Every file of `files`, and every file that they were made of, down to the sources.

    Args:
        study: the study's folder. files: paths relative to it, of results that jobs made.

    Returns:
        `made`: path -> rule, code (fingerprint of the source that made it), command's verb and settings, packages, device,
        started, ended (ISO 8601, UTC), seconds, sha256, bytes, inputs (path -> sha256 when read, or as it is now
        where Snakemake did not sum a large one). `sources`: path -> sha256
        of files that no job made; a folder has none. Of paths outside the study the last part alone is told.
    """
    made: dict[str, dict[str, Any]] = {}
    sources: dict[str, str | None] = {}
    ahead = list(files)
    seen: set[str] = set()
    while ahead:
        path = ahead.pop()
        if path in seen:
            continue
        seen.add(path)
        record = record_of(study, path)
        if record is None:
            sources[_told(path)] = sha256(study / path) if (study / path).is_file() else None
            continue
        made[_told(path)] = _entry(study, path, record)
        ahead += record["input"]
    for entry in made.values():
        # Snakemake sums small inputs alone; a large one is known by what its own job made.
        entry["inputs"] = {
            name: digest or made.get(name, {}).get("sha256") or sources.get(name)
            for name, digest in entry["inputs"].items()
        }
    return {"made": dict(sorted(made.items())), "sources": dict(sorted(sources.items()))}


def _told(path: str) -> str:
    """A path as it may be published: relative to the study; of one that lies elsewhere the last part, told apart by a hash."""
    if not (Path(path).is_absolute() or path.startswith("..")):
        return path
    return f"elsewhere-{hashlib.sha256(path.encode()).hexdigest()[:8]}/{Path(path).name}"


def _entry(study: Path, path: str, record: dict[str, Any]) -> dict[str, Any]:
    place = study / path
    arguments = command(record.get("shellcmd") or "")
    ran = record_path(study / JOBS, arguments) if arguments else None
    known = read_json(ran) if ran is not None and ran.is_file() else {}
    sums = record.get("input_checksums") or {}
    return {
        "rule": record["rule"],
        "code": code_of(record),
        "verb": arguments[0] if arguments else UNKNOWN,
        "settings": known.get("settings", UNKNOWN),
        "packages": {"neurorad": known["neurorad"], "python": known["python"], **known["packages"]}
        if known
        else UNKNOWN,
        "device": known.get("device", UNKNOWN),
        "started": moment(record["starttime"]),
        "ended": moment(record["endtime"]),
        "seconds": round(record["endtime"] - record["starttime"], 1),
        "sha256": sha256(place) if place.is_file() else None,
        "bytes": place.stat().st_size if place.is_file() else None,
        "inputs": {_told(name): sums.get(name, "").removeprefix("sha256:") or None for name in record["input"]},
    }


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def command(shellcmd: str) -> list[str]:
    """The arguments that a rule's command gave to `neurorad`, without what the shell did with its output."""
    words = shlex.split(shellcmd.split(" 2> >(")[0], comments=False)
    return words[1:] if words[:1] == ["neurorad"] else []


def code_of(record: dict[str, Any]) -> str:
    """The fingerprint of the code that a job ran, which rules hand over as a parameter."""
    for text in record.get("params") or []:
        found = re.search(r'\[\\*"([0-9a-f]{64})\\*"', text)
        if found:
            return found[1]
    return UNKNOWN


def first_moment(made: dict[str, Any]) -> str:
    """When the first of a manifest's files was begun."""
    return min(entry["started"] for entry in made["made"].values())


def last_moment(made: dict[str, Any]) -> str:
    """When the last of a manifest's files was finished."""
    return max(entry["ended"] for entry in made["made"].values())


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest written by `neurorad manifest`.

    Raises:
        InputError: it is none.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["made"] and held["sources"] is not None:
            return held
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{path}: not a manifest made by `neurorad manifest` ({problem})") from problem
    raise InputError(f"{path}: a manifest of no file")
