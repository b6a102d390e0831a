"""Are the files still the ones the crate lists, and are there others among them?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from neurorad.files import sha256
from neurorad.problems import InputError
from neurorad.provenance.trace import record_of


@dataclass(frozen=True)
class Finding:
    """One file that is `missing`, `changed` or `foreign`; `what` says how."""

    path: str
    kind: str
    what: str


def verify(metadata: dict[str, Any], folder: Path) -> tuple[int, list[Finding]]:
    """Hash every listed file again.

    Args:
        metadata: a crate's JSON-LD.
        folder: where the metadata lies; ids of files are relative to it.

    Returns:
        Number of files listed, and what is wrong with them, by path.

    Raises:
        InputError: not a crate, or a file without a checksum in it.
    """
    if "@graph" not in metadata:
        raise InputError("not an RO-Crate: no @graph")
    listed = [entity for entity in metadata["@graph"] if "File" in _types(entity)]
    without = [entity["@id"] for entity in listed if "sha256" not in entity]
    if without:
        raise InputError(f"the crate lists {without[0]} without sha256; make it again with `neurorad crate`")
    findings = []
    for entity in sorted(listed, key=lambda e: e["@id"]):
        name = unquote(entity["@id"])  # An id is a URI reference: a space is written %20.
        path = folder / name
        if not path.is_file():
            findings.append(Finding(name, "missing", "no such file"))
        elif (found := sha256(path)) != entity["sha256"]:
            findings.append(Finding(name, "changed", f"sha256 {found[:12]}…, listed {entity['sha256'][:12]}…"))
    return len(listed), findings


RESULTS = ("tables", "figures", "embeddings", "evaluation", "encoders", "explanation")
"""Folders beside the crate's own in which every file is some job's output."""


def foreign(folder: Path, metadata: dict[str, Any]) -> list[Finding]:
    """Files among a study's results that the crate does not list and no job made, by path.

    Args:
        folder: where the metadata lies, `results/provenance` of a study. TensorBoard's records and hidden files are nobody's output.

    A study that was moved without Snakemake's records is only known by its crate.
    """
    study = folder.parent.parent
    listed = {(folder / unquote(entity["@id"])).resolve() for entity in metadata["@graph"] if "File" in _types(entity)}
    present = (path for name in RESULTS for path in sorted((folder.parent / name).rglob("*")) if path.is_file())
    return [
        Finding(Path(os.path.relpath(path, folder)).as_posix(), "foreign", "no job of this study made it")
        for path in present
        if path.resolve() not in listed
        and not path.name.startswith((".", "events.out.tfevents"))
        # A job's output may be a whole folder, as the maps on the scanner's grids are.
        and not any(record_of(study, place.relative_to(study).as_posix()) for place in (path, path.parent))
    ]


def _types(entity: dict[str, Any]) -> list[str]:
    types = entity.get("@type", [])
    return [types] if isinstance(types, str) else types
