"""Label tables as text cells, and the dictionaries that explain them.

A dictionary is a document of `resources/labels/{release}.yaml`, one a table that the release ships:

    sheet            the sheet of an Excel workbook, by name or position; absent if the table is text (CSV, TSV)
    code_sheet       the sheet that explains the integer codes
    id               column, pattern (groups patient, session), one_row (what a row is: patient or exam), example;
                     write: the patient as the images' folders spell it; renamed: old name -> [patient, session];
                     private: names are replaced by pseudonyms
    aliases          column -> pattern and missing spellings of the patient's names elsewhere; may be absent
    every_exam       what the release's documentation says of all exams and no column repeats
    survival_from    time points whose survival time counts from the start that the cohort's times count from
    implies          column -> spelling -> values that it implies: another column that says otherwise is a problem
    columns          our column -> rule:
        column       the header, or its spellings in several versions of the table
        first_of     several headers, of which a row fills at most one
        optional     true: the table may lack the column
        values       spelling -> value;  decided: spelling -> decision of `neurorad.cohorts.labels.DECISIONS`;
                     these and `missing` in any capitals
        patterns     regular expression -> value
        codes        the column's name in `code_sheet`; `values` then spells the codes' meanings
        number       [lowest, highest];  missing: spellings of no number;  written: pattern whose group 1 is the number;
                     times: factor to our unit
        text         pattern of a free name, kept as written;  missing: spellings of none
        note         for the data dictionary
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from neurorad import RESOURCES
from neurorad.endpoints import TIMES
from neurorad.problems import InputError

if TYPE_CHECKING:
    import openpyxl

Rows = list[tuple[int, list[str]]]
"""Rows of a file: number of the row in it, from 1, and its cells without spaces around them."""

SEARCHED = 10
"""Rows in which a shifted header is looked for."""


def dictionaries(release: str) -> list[dict[str, Any]]:
    """The dictionaries of a release, one a table that it ships.

    Raises:
        InputError: none is shipped for it.
    """
    path = RESOURCES / "labels" / f"{release}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise InputError(f"release {release!r} has no label dictionary; known: {', '.join(known)}")
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return dictionaries(documents[0]["same_as"]) if "same_as" in documents[0] else documents


def read_labels(path: Path, release: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A label table and the dictionary that explains it, integer codes included.

    Returns:
        The cells as text, blank ones empty, indexed by the row of the file that they stand in (from 2), and the
        dictionary of the release whose id column the table has.

    Raises:
        InputError: the file is missing, no text in UTF-8, Excel where text is expected or the reverse; its header is
            not in row 1, has a column twice or one without a name; a row is longer or shorter than the header; it has
            no row; the workbook's codes are not those that the dictionary knows.
    """
    if not path.is_file():
        raise InputError(f"label table {path} does not exist; mend `labels:` in the config")
    known = dictionaries(release)
    sheet, content = known[0].get("sheet"), path.read_bytes()
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError(f"label table {path}: an Excel file of before 2007; save it as {_expected(sheet)}")
    if content.startswith(b"PK\x03\x04") != (sheet is not None):
        found = "text" if sheet is not None else "an Excel workbook"
        raise InputError(
            f"label table {path}: by its content {found}, but {release} has its labels in {_expected(sheet)}"
        )
    ids = {spelling: rules for rules in known for spelling in spellings(rules["id"])}
    if sheet is None:
        raw = _table(path, _text_rows(path, content, list(ids)), list(ids))
        return raw, next(ids[name] for name in ids if name in raw)
    workbook = _workbook(path, content)
    raw = _table(path, _sheet_rows(path, workbook, sheet), list(ids))
    rules = next(ids[name] for name in ids if name in raw)
    if "code_sheet" in rules:
        rules = _decode(path, rules, _codes(path, _sheet_rows(path, workbook, rules["code_sheet"])))
    return raw, rules


def spellings(rule: dict[str, Any]) -> list[str]:
    """The headers that a rule's `column` may have."""
    return [rule["column"]] if isinstance(rule["column"], str) else list(rule["column"])


def columns_of(raw: pd.DataFrame, rules: dict[str, Any], where: str) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Our column -> headers in this table, rule; columns that the table may lack and does are left out.

    Args:
        where: what errors call the table.

    Raises:
        InputError: a column that the dictionary needs is absent, an optional one seems misspelled, or a time to an event
            has a column and the event none, or the reverse.
    """
    found = {}
    ignored = unread(raw, rules)
    for name, rule in rules["columns"].items():
        wanted = _headers(rule)
        present = [header for header in wanted if header in raw]
        if len(present) == len(wanted) or (present and "first_of" not in rule):
            found[name] = (present if "first_of" in rule else present[:1], rule)
            continue
        absent = next(header for header in wanted if header not in present)
        optional = rule.get("optional", False)
        if near := nearest(absent, ignored, 0.8 if optional else 0.5):
            otherwise = "give it a quite different name or delete it" if optional else "give the table of this release"
            raise InputError(
                f"{where} has no column {absent!r} (nearest: {near!r}); rename {near!r} to {absent!r}, or, if it is something "
                f"else, {otherwise}"
            )
        if not optional:
            has = ", ".join(raw.columns[:8])
            raise InputError(f"{where} has no column {absent!r}; it has {has}, ...; is it the table of this release?")
    for pair in TIMES.values():
        have = [found[name][0][0] for name in pair if name in found]
        lacks = [_headers(rule)[0] for name, rule in rules["columns"].items() if name in pair and name not in found]
        if have and lacks:
            raise InputError(
                f"{where} has a column {have[0]!r} and none {lacks[0]!r}; a time to an event needs both, its days and 1 (it "
                f"came) or 0 (it had not come by then): add {lacks[0]!r}, or delete {have[0]!r}"
            )
    return found


def unread(raw: pd.DataFrame, rules: dict[str, Any]) -> list[str]:
    """The headers that no rule of the dictionary reads."""
    claimed = {header for rule in rules["columns"].values() for header in _headers(rule)}
    return [name for name in raw.columns if name not in claimed and name not in spellings(rules["id"])]


def columns_told(raw: pd.DataFrame, rules: dict[str, Any]) -> str:
    """Which columns of a table of the user's own are read: one of another name would be missing without a word."""
    ignored = unread(raw, rules)
    read = ", ".join(name for name in raw.columns if name not in ignored)
    return f"columns read: {read}; not read: {', '.join(ignored) or 'none'}"


def respelled(raw: pd.DataFrame, columns: dict[str, tuple[list[str], dict[str, Any]]]) -> pd.DataFrame:
    """The cells in the dictionary's capitals, where they are a spelling of it in others.

    Args:
        columns: what `columns_of` returns.
    """
    cells = raw.copy()
    for headers, rule in columns.values():
        spelled = (*rule.get("values", {}), *rule.get("decided", {}), *rule.get("missing", []))
        known = {spelling.casefold(): spelling for spelling in spelled}
        for header in headers:
            cells[header] = [known.get(text.casefold(), text) for text in cells[header]]
    return cells


def _headers(rule: dict[str, Any]) -> list[str]:
    return rule.get("first_of") or spellings(rule)


def nearest(text: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known spelling most like `text`, whatever its case."""
    folded = {spelling.casefold(): spelling for spelling in known}
    close = difflib.get_close_matches(text.casefold(), folded, 1, cutoff)
    return folded[close[0]] if close else None


def _expected(sheet: str | int | None) -> str:
    return "CSV in UTF-8" if sheet is None else "an Excel workbook (.xlsx)"


def _text_rows(path: Path, content: bytes, ids: list[str]) -> Rows:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        row = content.count(b"\n", 0, problem.start) + 1
        raise InputError(
            f"label table {path}: not UTF-8 at byte {problem.start}, row {row} (Latin-1?); save it as CSV UTF-8"
        ) from problem
    head = text.splitlines()[:SEARCHED]
    separators = [mark for mark in ",;\t" if any(_has(cells, ids) for cells in csv.reader(head, delimiter=mark))]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separators[0] if separators else ",", strict=True)
    rows, first = [], 1
    try:
        for cells in reader:
            rows.append((first, [cell.strip() for cell in cells]))
            first = reader.line_num + 1
    except csv.Error as problem:
        raise InputError(
            f"label table {path}: row {first} cannot be read ({problem}); are its quotes closed?"
        ) from problem
    return rows


def _has(cells: list[str], ids: list[str]) -> bool:
    return not {cell.strip() for cell in cells}.isdisjoint(ids)


def _workbook(path: Path, content: bytes) -> openpyxl.Workbook:
    # Only workbooks need it, and the releases' dictionaries are read whenever Snakemake reads the rules.
    import openpyxl

    try:
        return openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as problem:
        raise InputError(f"label table {path}: not a whole Excel workbook ({problem}); fetch it again") from problem


def _sheet_rows(path: Path, workbook: openpyxl.Workbook, sheet: str | int) -> Rows:
    names = workbook.sheetnames
    if isinstance(sheet, str) and sheet not in names:
        raise InputError(f"label table {path}: no sheet {sheet!r}; it has {', '.join(map(repr, names))}")
    rows = workbook[sheet if isinstance(sheet, str) else names[sheet]].iter_rows(values_only=True)
    return [(number, [_as_text(cell) for cell in cells]) for number, cells in enumerate(rows, start=1)]


def _as_text(cell: Any) -> str:
    whole = isinstance(cell, float) and cell.is_integer()
    return "" if cell is None else str(int(cell) if whole else cell).strip()


def _table(path: Path, rows: Rows, ids: list[str]) -> pd.DataFrame:
    """The rows below the header that has one of the id columns."""
    if not any(cell for _, cells in rows for cell in cells):
        raise InputError(f"label table {path}: empty")
    place = next((place for place, (_, cells) in enumerate(rows[:SEARCHED]) if _has(cells, ids)), None)
    if place is None:
        near = [close for name in ids if (close := nearest(name, filter(None, rows[0][1])))]
        raise InputError(
            f"label table {path}: no column {' or '.join(map(repr, ids))} in rows 1 to {SEARCHED}"
            + (f" (nearest: {near[0]!r})" if near else f"; row 1 has {', '.join(rows[0][1][:8])}, ...")
            + "; is it the table of this release?"
        )
    number, header = rows[place]
    if number > 1:
        raise InputError(f"label table {path}: the header is in row {number}; delete the rows above it")
    twice = [name for name, times in Counter(filter(None, header)).items() if times > 1]
    if twice:
        raise InputError(f"label table {path}: two columns are named {twice[0]!r}; delete or rename one")
    body = [(number, cells) for number, cells in rows[place + 1 :] if any(cells)]
    if not body:
        raise InputError(f"label table {path}: a header and no row below it")
    for number, cells in body:
        if len(cells) != len(header):
            raise InputError(
                f"label table {path}: row {number} has {len(cells)} cells, the header {len(header)}; "
                "a decimal comma, or text with a comma that needs quotes?"
            )
        if nameless := [cell for name, cell in zip(header, cells, strict=True) if cell and not name]:
            raise InputError(f"label table {path}: row {number} has {nameless[0]!r} in a column without a name")
    table = pd.DataFrame([cells for _, cells in body], columns=header, index=[number for number, _ in body])
    return table.loc[:, [name != "" for name in header]]


def _codes(path: Path, rows: Rows) -> dict[str, dict[str, str]]:
    """Column -> code -> meaning, from a sheet that says `0 - No mutation` below each column's name."""
    meanings: dict[str, dict[str, str]] = {}
    name = ""
    for number, cells in rows:
        first, second = (*cells, "")[:2]
        name = first or name
        if match := re.fullmatch(r"(\d+)\s*-\s*(.+)", second, re.ASCII):
            if match[1] in meanings.setdefault(name, {}):
                raise InputError(
                    f"label table {path}: its sheet of codes explains {match[1]} of {name!r} twice (row {number})"
                )
            meanings[name][match[1]] = match[2]
    return meanings


def _decode(path: Path, rules: dict[str, Any], codes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The dictionary with codes in place of their meanings."""
    columns = {}
    for name, rule in rules["columns"].items():
        if "codes" not in rule:
            columns[name] = rule
            continue
        where = f"label table {path}, sheet {rules['code_sheet']!r}"
        meanings = codes.get(rule["codes"])
        if not meanings:
            raise InputError(f"{where}: no codes for {rule['codes']!r}; is it the table of another version?")
        known = {**rule["values"], **rule.get("decided", {})}
        for code, meaning in meanings.items():
            if meaning not in known:
                raise InputError(
                    f"{where}: code {code} of {rule['codes']!r} means {meaning!r}, which no dictionary knows; "
                    f"nearest: {nearest(meaning, known, 0)!r}"
                )
        columns[name] = rule | {
            kind: {code: rule[kind][meaning] for code, meaning in meanings.items() if meaning in rule[kind]}
            for kind in ("values", "decided")
            if kind in rule
        }
    return rules | {"columns": columns}
