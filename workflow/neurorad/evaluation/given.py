"""The files that a verb of evaluation is given: read and checked, in a fixed order, refused by name."""

from pathlib import Path
from typing import Any


def read_all(paths: list[Path], flag: str, needed: tuple[str, ...]) -> list:
    """Tables in a fixed order whatever the order on the command line.

    Raises:
        InputError: a file is missing or lacks a column.
    """
    from neurorad.files import read_table
    from neurorad.problems import InputError

    tables = []
    for path in sorted(paths):
        if not path.is_file():
            raise InputError(f"{flag} {path}: no such file")
        table = read_table(path)
        missing = [column for column in needed if column not in table]
        if missing:
            raise InputError(f"{flag} {path}: lacks the columns {', '.join(missing)}")
        tables.append(table)
    return tables


def read_patients(paths: list[Path]) -> Any:
    """The patients of all cohorts in one table, their labels checked against the declared endpoints."""
    import pandas as pd

    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import check_labels

    tables = read_all(paths, "--patients", ("cohort", "patient"))
    return check_labels(pd.concat([table for table in tables if len(table)] or tables, ignore_index=True), endpoints())


def read_folds(path: Path) -> Any:
    """folds.parquet, checked. Raises `InputError` where it is none."""
    from neurorad.evaluation.folds import check_folds

    return check_folds(read_all([path], "--folds", ())[0])


def read_embeddings(paths: list[Path], encoder: str, flag: str = "--embeddings") -> Any:
    """The embeddings of one encoder, a table a cohort. Raises `InputError` for those of another."""
    from neurorad.encoder_names import encoder_parts
    from neurorad.evaluation.features import Embeddings
    from neurorad.problems import InputError

    encoder_parts(encoder)
    tables = read_all(paths, flag, ("cohort", "scan", "patient"))
    for path, table in zip(sorted(paths), tables, strict=True):
        if "encoder" in table and set(table["encoder"]) - {encoder}:
            raise InputError(f"--embeddings {path}: made by {table['encoder'].iloc[0]}, not by {encoder}")
    return Embeddings(tables, encoder)


def read_stamp(path: Path) -> str:
    """The leakage stamp of the audit: empty where nothing leaks. Raises `InputError` where the file is no audit."""
    from neurorad.files import read_json
    from neurorad.problems import InputError

    if not path.is_file():
        raise InputError(f"--leakage {path}: no such file; it is made by the leakage audit")
    audit = read_json(path)
    if "stamp" not in audit:
        raise InputError(f"--leakage {path}: has no `stamp`; give the leakage_audit.json of the audit")
    return str(audit["stamp"])
