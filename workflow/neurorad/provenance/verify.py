"""Are the files still the ones the crate lists?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from neurorad.files import sha256
from neurorad.problems import InputError


@dataclass(frozen=True)
class Finding:
    """One file that is `missing` or `changed`; `what` says how."""

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


def _types(entity: dict[str, Any]) -> list[str]:
    types = entity.get("@type", [])
    return [types] if isinstance(types, str) else types
