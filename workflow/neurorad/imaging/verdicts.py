"""The verdicts of those who looked at the QC page: read strictly, and applied to a cohort's index."""

import csv
import difflib
from datetime import date
from pathlib import Path

import pandas as pd

from neurorad.problems import InputError

REQUIRED = ("scan", "verdict", "comment", "who", "when")
OPTIONAL = ("sha256",)
"""sha256 of the volume that was looked at; the QC page exports it, so that a verdict on an older volume is seen as one."""

NO_VERDICTS = pd.DataFrame(columns=[*REQUIRED, *OPTIONAL, "row"])


def read_verdicts(path: Path) -> pd.DataFrame:
    """A verdict file: TSV with `REQUIRED` and, in any order, `OPTIONAL` columns, one row a scan.

    `verdict` is `pass`, `fail` or empty (a comment alone), `who` the reader's initials, `when` the day (YYYY-MM-DD).

    Raises:
        InputError: naming file, row and value.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            header, *rows = list(csv.reader(stream, delimiter="\t", strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(
            f"verdicts {path}: cannot be read ({problem}); export it from the cohort's qc.html"
        ) from problem
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        wrong = f"column {missing[0]!r} is missing" if missing else f"column {unknown[0]!r} is unknown"
        raise InputError(f"verdicts {path}: {wrong}; a tab-separated table with {', '.join((*REQUIRED, *OPTIONAL))}")
    seen: dict[str, int] = {}
    verdicts = []
    for number, cells in enumerate(rows, start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"verdicts {path}: row {number} has {len(cells)} cells, the header {len(header)}")
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        if wrong := _problem(row):
            raise InputError(f"verdicts {path}: row {number}: {wrong}")
        if row["scan"] in seen:
            raise InputError(f"verdicts {path}: row {number}: scan {row['scan']!r} is in row {seen[row['scan']]} too")
        seen[row["scan"]] = number
        verdicts.append({"sha256": "", **row, "row": number})
    return pd.DataFrame(verdicts, columns=NO_VERDICTS.columns)


def _problem(row: dict[str, str]) -> str:
    if not row["scan"]:
        return "no scan"
    if row["verdict"] not in ("pass", "fail", ""):
        return f"verdict {row['verdict']!r} is none of pass, fail or nothing"
    if not row["verdict"] and not row["comment"]:
        return "neither a verdict nor a comment"
    if not row["who"]:
        return "nobody gave this verdict; put the reader's initials into `who`"
    try:
        date.fromisoformat(row["when"])
    except ValueError:
        return f"when {row['when']!r} is no day written YYYY-MM-DD"
    return ""


def check_scans(verdicts: pd.DataFrame, volumes: pd.DataFrame, path: Path | None) -> None:
    """Every verdict is about a scan of the cohort.

    Raises:
        InputError: naming file, row and scan, and the scan that may be meant.
    """
    known = set(volumes["scan"])
    for row in verdicts.itertuples():
        if row.scan not in known:
            near = difflib.get_close_matches(row.scan, sorted(known), 1)
            hint = f"; is {near[0]!r} meant?" if near else "; scans.tsv lists the cohort's scans"
            raise InputError(f"verdicts {path}: row {row.row}: the cohort has no volume of scan {row.scan!r}{hint}")


def apply_verdicts(volumes: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The index with status `failed` and the comment as reason where a usable volume failed; a pass changes nothing."""
    failed = verdicts[verdicts["verdict"] == "fail"].set_index("scan")["comment"]
    out = volumes["scan"].isin(failed.index) & (volumes["status"] == "ok")
    reasons = [f"failed by eye: {failed[scan]}".removesuffix(": ") for scan in volumes.loc[out, "scan"]]
    applied = volumes.assign(reason=volumes["reason"].astype(object))
    applied.loc[out, "status"] = "failed"
    applied.loc[out, "reason"] = reasons
    return applied
