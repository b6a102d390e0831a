"""The tables that figures and tables are drawn from: one set of flags, read once, joined by name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad.files import read_json, read_table
from neurorad.problems import InputError

SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "scans": ("scans.tsv, one a cohort", ("cohort", "scan", "patient", "problem")),
    "patients": ("patients.tsv, one a cohort", ("cohort", "patient", "age", "sex", "left_open")),
    "decisions": ("decisions.tsv, one a cohort", ("cohort", "decision", "choice", "column", "value", "patients")),
    "volumes": ("volumes.tsv, one a cohort", ("cohort", "scan", "status")),
    "excluded": ("excluded.tsv, one or more", ("cohort", "scan", "stage", "reason")),
    "manifest": ("pretraining_manifest.tsv", ("cohort", "scan", "patient")),
    "history": ("results/encoders/ENCODER/history.csv, one an encoder", ("step", "loss")),
    "groups": ("results/encoders/ENCODER/groups.csv, one an encoder", ("step", "group", "weight")),
    "probe": ("probe results, one an encoder", ("encoder", "site", "endpoint", "protocol", "metric", "value")),
    "rivals": ("rivals.tsv", ("encoder", "pretrained_elsewhere", "reason")),
    "survival": ("survival results, one an encoder", ("encoder", "site", "protocol", "metric", "value")),
    "curves": ("Kaplan-Meier curves, one an encoder", ("site", "stratum", "time", "survival", "at_risk")),
    "invariance": ("invariance results, one an encoder", ("encoder", "metric", "value")),
    "coordinates": ("t-SNE coordinates, one an encoder", ("encoder", "cohort", "x", "y")),
    "comparison": ("comparison.parquet", ("site", "endpoint", "metric", "value", "ci_low", "ci_high")),
    "clean": ("clean.parquet", ("encoder", "site", "endpoint", "metric", "patients", "value")),
    "reliability": ("reliability.parquet", ("encoder", "endpoint", "protocol", "metric", "value", "at", "stratum")),
    "stress": ("stress results, one an encoder", ("encoder", "site", "endpoint", "metric", "shift", "level", "value")),
    "agreement": ("agreement.parquet of an explanation", ("encoder", "endpoint", "scan", "mass", "prior_mass")),
    "checks": ("checks.parquet of an explanation", ("encoder", "endpoint", "protocol", "metric", "value", "n")),
}
"""Flag -> (what it holds, columns without which nothing can be drawn)."""

ENCODER_IN_FOLDER = ("history", "groups")
"""Tables that pretraining writes into the encoder's own folder, whose name is the encoder's."""


@dataclass
class Tables:
    """Everything a figure may be drawn from; None where the flag was not given."""

    scans: pd.DataFrame | None = None
    patients: pd.DataFrame | None = None
    decisions: pd.DataFrame | None = None
    volumes: pd.DataFrame | None = None
    excluded: pd.DataFrame | None = None
    manifest: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    groups: pd.DataFrame | None = None
    probe: pd.DataFrame | None = None
    rivals: pd.DataFrame | None = None
    survival: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    invariance: pd.DataFrame | None = None
    coordinates: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    clean: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None
    stress: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    checks: pd.DataFrame | None = None
    maps: list[dict[str, np.ndarray]] | None = None
    audit: dict[str, Any] | None = None

    def table(self, name: str) -> pd.DataFrame:
        """A table that what is drawn or written cannot do without. Raises `InputError` where it was not given."""
        require(self, name)
        return getattr(self, name)

    @property
    def leakage(self) -> str:
        """The stamp for the footer: from the audit, or else from the tables' own `leakage` column."""
        if self.audit is not None:
            return str(self.audit["stamp"])
        for table in (getattr(self, name) for name in SOURCES):
            if table is not None and "leakage" in table:
                stamps = sorted(set(table["leakage"].dropna().astype(str)) - {""})
                if stamps:
                    return stamps[0]
        return ""


def add_flags(parser: ArgumentParser) -> None:
    """A flag for each table that may be drawn from."""
    for name, (what, _) in SOURCES.items():
        parser.add_argument(f"--{name}", nargs="+", type=Path, metavar="FILE", help=what)
    parser.add_argument("--maps", nargs="+", type=Path, metavar="FILE", help="maps.npz of explanations")
    parser.add_argument("--audit", type=Path, metavar="FILE", help="leakage_audit.json, for the stamp")


def read_tables(args: Namespace) -> Tables:
    """Read every file named by a flag.

    Raises:
        InputError: no such file, or it lacks a column, naming file, columns and what is there.
    """
    tables = Tables()
    for name in SOURCES:
        paths = getattr(args, name)
        if paths:
            setattr(tables, name, read_source(name, paths))
    if args.maps:
        tables.maps = [read_maps(path) for path in args.maps]
    if args.audit:
        tables.audit = read_audit(args.audit)
    return tables


def given(path: Path) -> Path:
    """The path of a file that exists.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def read_audit(path: Path) -> dict[str, Any]:
    """leakage_audit.json. Raises `InputError` where it has no stamp."""
    audit = read_json(given(path))
    if "stamp" not in audit:
        raise InputError(f"{path}: has no `stamp`; give the leakage_audit.json of the audit")
    return audit


def read_source(name: str, paths: Iterable[Path]) -> pd.DataFrame:
    """The rows of all files of one flag under one header."""
    what, needed = SOURCES[name]
    parts = []
    for path in paths:
        part = read_table(given(path))
        if name in ENCODER_IN_FOLDER and "encoder" not in part:
            part = part.assign(encoder=path.resolve().parent.name)
        missing = [column for column in needed if column not in part]
        if missing:
            raise InputError(
                f"{path}: --{name} needs the columns {', '.join(missing)}; it has {', '.join(map(str, part.columns))}. "
                f"Give the file of {what}."
            )
        parts.append(part)
    full = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(full, ignore_index=True)


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """What `neurorad explain` kept of each scan, but for the whole maps: figures show their planes."""
    with np.load(given(path), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files if key not in ("maps", "against")}


def require(tables: Tables, *names: str) -> None:
    """Raise `InputError` naming the flags that were not given."""
    missing = [f"--{name}" for name in names if getattr(tables, name) is None]
    if missing:
        raise InputError(f"this needs {', '.join(missing)}: give the file or files")
