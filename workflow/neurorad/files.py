"""Atomic files: an output is written whole or not at all."""

import hashlib
import heapq
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from neurorad.problems import InputError

PARTIAL = ".writing-"
"""What the name of a file or folder begins with until it is whole."""

MADE_AGAIN = "delete it and give the same command again: the run makes it anew"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    The temporary name keeps the suffixes of `path`, so writers that choose a format by suffix
    (nibabel, matplotlib) work on it. On any exception nothing is left behind and an older file
    at `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(folder: str | Path) -> None:
    """Delete what killed jobs left half-written below `folder`.

    For the start of a run, while none of its jobs is at work. A job of an earlier run that still is cannot
    rename its file any more and fails, rather than overwriting what this run makes.
    """
    for path in [*Path(folder).rglob(f"{PARTIAL}*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def date_back(folder: str | Path) -> int:
    """Give what is dated in the future below `folder` the present time, and count it.

    For the start of a run. A clock that ran ahead, here or on a file server, would otherwise make every job that reads
    such a file fail until the clock has caught up: Snakemake wants outputs newer than inputs.
    """
    now, changed = time.time(), 0
    for path in Path(folder).rglob("*"):
        if path.lstat().st_mtime > now:
            os.utime(path, (now, now), follow_symlinks=False)
            changed += 1
    return changed


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON. NaN is refused: a missing number is `null`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises InputError for a file that is no JSON, as a truncated one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as problem:
        raise InputError(f"{path}: damaged file ({problem}); {MADE_AGAIN}") from problem


class _EachKeyOnce(yaml.SafeLoader):
    """YAML forbids a key twice in a mapping; PyYAML takes the last one without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"found the key {key.value!r} twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


def read_yaml(path: str | Path) -> Any:
    """Raises InputError for a file that cannot be read, or is no YAML in UTF-8 with every key once."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem.strerror}); give the path of a YAML file") from problem
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: not UTF-8 ({problem}); save it again as UTF-8") from problem
    # Dates and numbers that are none are plain errors of Python's.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as problem:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from problem


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table by suffix: `.tsv`, `.csv` or `.parquet`; missing values are empty cells."""
    with atomic(path) as temporary:
        match Path(path).suffix:
            case ".tsv":
                table.to_csv(temporary, sep="\t", index=False, lineterminator="\n")
            case ".csv":
                table.to_csv(temporary, index=False, lineterminator="\n")
            case ".parquet":
                table.to_parquet(temporary, index=False, write_page_checksum=True)
            case other:
                raise InputError(f"{path}: a table is written as .tsv, .csv or .parquet, not {other!r}")


def read_table(path: str | Path, text: tuple[str, ...] = ("patient", "session", "scan")) -> pd.DataFrame:
    """Read a table written by `write_table`; identifiers named in `text` stay strings ("007"). Only an empty cell is missing:
    a patient may be called NA, and a session None.

    Raises:
        InputError: another suffix, an empty table, or a `.parquet` whose bytes are not those that were written (its pages
            carry checksums).
    """
    try:
        match Path(path).suffix:
            case ".tsv" | ".csv" as suffix:
                separator = "\t" if suffix == ".tsv" else ","
                as_text = dict.fromkeys(text, str)
                return pd.read_csv(path, sep=separator, dtype=as_text, keep_default_na=False, na_values=[""])
            case ".parquet":
                return pd.read_parquet(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as problem:
        raise InputError(f"{path}: damaged file ({problem}); {MADE_AGAIN}") from problem
    raise InputError(f"{path}: a table is read from .tsv, .csv or .parquet, not {Path(path).suffix!r}")


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: str | Path) -> str:
    """Over the sha256 of each of a folder's `visible_files`, in the order of their paths.

    Raises:
        InputError: a folder that cannot be opened.
    """
    digest = hashlib.sha256()
    for path in visible_files(folder):
        digest.update(sha256(path).encode())
    return digest.hexdigest()


def visible_files(folder: str | Path) -> list[Path]:
    """Files at any depth, sorted. Hidden names, of folders too, are passed over. Links are followed, but no folder is entered
    twice: as itself rather than by a link, as scans are called by the folders on the way to them.

    Raises:
        InputError: a folder that cannot be opened: what it holds would be missing without a word.
    """
    found: list[Path] = []
    entered = set()
    pending = [(False, str(folder))]
    while pending:
        _, at = heapq.heappop(pending)
        if (real := os.path.realpath(at)) in entered:
            continue
        entered.add(real)
        try:
            names = [name for name in os.listdir(at) if not name.startswith(".")]
        except OSError as problem:
            raise InputError(f"{at} cannot be read ({problem.strerror}); mend its permissions") from problem
        for path in (os.path.join(at, name) for name in names):
            if os.path.isdir(path):
                heapq.heappush(pending, (os.path.islink(path), path))
            elif os.path.isfile(path):
                found.append(Path(path))
    return sorted(found)
