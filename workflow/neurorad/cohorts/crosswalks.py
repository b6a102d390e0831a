"""Tables that say which names are one patient: published mappings, recognised by their columns, and the user's own pairs.

Sources: BraTS 2021 to TCIA (`BraTS2021_MappingToTCIA.xlsx`, Cancer Imaging Archive, doi 10.7937/jc8x-9874); BraTS 2023
to earlier years (`BraTS2023_2017_GLI_Mapping.xlsx`, Synapse syn51156910); BraTS 2017 to 2019 and TCGA
(`name_mapping.csv` of BraTS 2018 to 2020).
"""

import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd

from neurorad.cohorts.inventory import pseudonym
from neurorad.cohorts.releases import RELEASES
from neurorad.problems import InputError

PAIRS = ("cohort_a", "patient_a", "cohort_b", "patient_b")
COLLECTION, TCIA_ID, BRATS_2021 = (
    "Data Collection (as on TCIA+additional)",
    "PatientID on TCIA Radiology Portal",
    "BraTS2021 ID",
)
BRATS_2023 = "BraTS2023"
NAME_MAPPING = ("BraTS_2017_subject_ID", "BraTS_2018_subject_ID", "BraTS_2019_subject_ID", "TCGA_TCIA_subject_ID")
NONE = ("", "NA", "N/A", "nan", "new-not-previously-in-TCIA")
"""How the mappings write that a patient has no id there."""

Name = str


@dataclass(frozen=True)
class Crosswalk:
    """`pairs`: names of one patient. `covers`: releases between which it lists every shared patient.
    `unresolved`: names that it says are elsewhere too, without saying under which id."""

    pairs: tuple[tuple[Name, Name], ...]
    covers: tuple[str, ...]
    unresolved: tuple[tuple[Name, str], ...] = ()


def name_of(cohort: str, patient: str) -> Name:
    """One spelling for a patient's name, whichever cohort or table it stands in.

    Names that a release gives to one patient in the world need no cohort: `BraTS2021_00097`, `BraTS-GLI-00097-000` and
    `BraTS-GLI-00097` are `brats-gli/00097`, since BraTS 2021, 2023 and 2024 share one numbering;
    `UPENN-GBM-00011_11` is `upenn-gbm/UPENN-GBM-00011`; `UCSF-PDGM-004` is `ucsf-pdgm/UCSF-PDGM-0004`, and a follow-up that
    version 2 names as a patient is the patient of version 3. Anything else is `cohort/patient`.
    """
    if match := re.fullmatch(r"(?:BraTS2021_|BraTS-GLI-)(\d{5})(?:-\d{3})?", patient):
        return f"brats-gli/{match[1]}"
    if match := re.fullmatch(r"(UPENN-GBM-\d{5})(?:_\d{2})?", patient):
        return f"upenn-gbm/{match[1]}"
    if match := re.fullmatch(r"UCSF-PDGM-0?(\d{3})(?:_FU\d{3}d)?", patient):
        spelled = f"UCSF-PDGM-0{match[1]}"
        return f"ucsf-pdgm/{RELEASES['ucsf-pdgm'].renamed.get(spelled, (spelled, ''))[0]}"
    if re.fullmatch(r"Bra[Tt][Ss]\d\d_\w+|TCGA-\w\w-\w{4}", patient):
        return f"id/{patient.casefold()}"
    return f"{cohort}/{patient}"


def read_crosswalk(path: Path, covers: Collection[str] | None, private: Collection[str] = ()) -> Crosswalk:
    """Read a mapping, of which kind its columns say.

    Args:
        path: CSV, or an Excel workbook whose first sheet is the mapping.
        covers: for the user's own pairs, the releases between which every pair is listed. A published mapping says itself.
        private: cohorts whose patients are known by pseudonyms; the table has their true ids.

    Raises:
        InputError: no such file, unreadable, columns of no known kind, an empty or impossible cell, or `covers` missing
            or given in vain.
    """
    table = _read(path)
    columns = set(table.columns)
    if columns == set(PAIRS):
        if covers is None:
            raise InputError(
                f"crosswalk {path}: own pairs need `covers:`, the releases between which all pairs are listed"
            )
        return Crosswalk(tuple(_pair(path, number, row, private) for number, row in _rows(table)), tuple(covers))
    if covers is not None:
        raise InputError(f"crosswalk {path}: a published mapping says itself what it covers; drop `covers:`")
    if {COLLECTION, TCIA_ID, BRATS_2021} <= columns:
        return _tcia(path, table)
    if BRATS_2023 in columns:
        joined = tuple(name for name in table.columns if re.fullmatch(r"BraTS(20)?\d\d", name))
        return Crosswalk(_same_row(table, joined), ())
    if set(NAME_MAPPING) & columns >= {"TCGA_TCIA_subject_ID"}:
        return Crosswalk(_same_row(table, tuple(name for name in table.columns if name in NAME_MAPPING)), ())
    raise InputError(
        f"crosswalk {path}: columns {', '.join(list(table.columns)[:6])} are of no known mapping; known are "
        f"{', '.join(PAIRS)} (your own pairs), {BRATS_2021!r} with {TCIA_ID!r} (BraTS 2021 to TCIA), {BRATS_2023!r} "
        "(BraTS 2023) and 'TCGA_TCIA_subject_ID' (BraTS 2017 to 2020)"
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"crosswalk {path} does not exist; mend `leakage: {{crosswalks: ...}}` in the config")
    try:
        if path.read_bytes()[:2] == b"PK":
            table = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as problem:
        raise InputError(f"crosswalk {path}: neither CSV in UTF-8 nor an Excel workbook ({problem})") from problem
    table.columns = [str(name).strip() for name in table.columns]
    return table.apply(lambda column: column.str.strip())


def _rows(table: pd.DataFrame) -> list[tuple[int, dict[str, str]]]:
    return list(enumerate(table.to_dict("records"), start=2))


def _pair(path: Path, number: int, row: dict[str, str], private: Collection[str]) -> tuple[Name, Name]:
    names = []
    for side in ("a", "b"):
        cohort, patient = row[f"cohort_{side}"], row[f"patient_{side}"]
        if not cohort or not patient:
            raise InputError(f"crosswalk {path}: row {number}: empty cohort_{side} or patient_{side}")
        names.append(name_of(cohort, pseudonym(cohort, patient) if cohort in private else patient))
    return names[0], names[1]


def _same_row(table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[tuple[Name, Name], ...]:
    """Every two neighbouring names of a row."""
    pairs = []
    for _, row in _rows(table):
        names = [name_of("id", row[column]) for column in columns if row[column] not in NONE]
        pairs += list(pairwise(names))
    return tuple(pairs)


def _tcia(path: Path, table: pd.DataFrame) -> Crosswalk:
    pairs, unresolved = [], []
    for number, row in _rows(table):
        if not row[BRATS_2021] and not row[TCIA_ID]:
            continue  # a note or an empty line
        # Nine rows of the MGMT task alone write the bare number.
        match = re.fullmatch(r"(?:BraTS2021_)?(\d{5})", row[BRATS_2021])
        if match is None:
            raise InputError(
                f"crosswalk {path}: row {number}, column {BRATS_2021!r}: {row[BRATS_2021]!r} is no id such as BraTS2021_00097"
            )
        brats, collection, patient = name_of("", f"BraTS2021_{match[1]}"), row[COLLECTION], row[TCIA_ID]
        if collection.endswith("_Additional"):
            unresolved.append((brats, collection.removesuffix("_Additional").casefold()))
            continue
        if patient in NONE:
            continue
        if collection == "UCSF-PDGM" and re.fullmatch(r"\d{1,4}", patient):
            patient = f"UCSF-PDGM-{int(patient):04d}"
        # A remark that stands for an id would make one patient of all its rows.
        known = (
            name_of("", patient) != f"/{patient}"
            if collection in ("UCSF-PDGM", "UPENN-GBM")
            else re.search(r"\d", patient)
        )
        if not known:
            raise InputError(
                f"crosswalk {path}: row {number}, column {TCIA_ID!r}: {patient!r} is no patient id of {collection}; "
                f"where a patient has none, leave the cell empty or write {NONE[-1]}"
            )
        pairs.append((brats, name_of(collection.casefold() or "id", patient)))
    return Crosswalk(tuple(pairs), ("brats-gli-pre", "ucsf-pdgm", "upenn-gbm"), tuple(unresolved))
