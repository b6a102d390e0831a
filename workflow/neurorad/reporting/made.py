"""How a figure was made: verb, files with their checksums, code. Written into the SVG, so that it travels with it."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from neurorad import __version__
from neurorad.files import sha256
from neurorad.fingerprint import fingerprint
from neurorad.reporting.inputs import SOURCES
from neurorad.reporting.registry import FIGURES


def how_made(args: Namespace) -> str:
    """JSON: figure, version, code (fingerprint of what draws it), inputs ([flag, path, sha256]) as given to the verb."""
    draw = FIGURES[args.name].draw
    entry = f"{draw.__module__.removeprefix('neurorad.')}:{draw.__qualname__}"
    files = [(flag, path) for flag in (*SOURCES, "maps") for path in getattr(args, flag) or []]
    if args.audit:
        files.append(("audit", args.audit))
    made = {
        "figure": args.name,
        "version": __version__,
        "code": fingerprint(entry, "reporting.inputs:read_tables", "reporting.theme:write_figure")[:12],
        "inputs": [[flag, shown_path(path), sha256(path)] for flag, path in files],
    }
    return json.dumps(made, sort_keys=True)


def shown_path(path: Path) -> str:
    """A path as it may be shown: what lies outside the study's folder without the folders of the machine."""
    inside = path if not path.is_absolute() else None
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        inside = path.relative_to(Path.cwd())
    return str(inside) if inside is not None else "/".join(("…", *path.parts[-2:]))


def read_made(text: str) -> dict[str, Any]:
    """What `how_made` wrote; nothing for a figure of an earlier version."""
    return json.loads(text) if text else {}
