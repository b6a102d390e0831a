"""Does a study's output tell who its patients are? Names, dates, paths and descriptions of the input, sought in every file.

Two nets. What is wrong whoever the patient is: dates, DICOM UIDs, header fields, metadata that a format carries along. And
what this study's own input says: `scans.tsv` names the source files; the folder names of private cohorts, and what is
written in the headers of all sources, must not be found anywhere else.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd

from neurorad.problems import InputError
from neurorad.provenance.phi_formats import read_content
from neurorad.volumes import SEQUENCES

KNOWS_FOLDERS = ("scans.tsv", "unknown_files.txt")
"""Of a private cohort these alone may name folders: the first is how jobs find the images, the second what was not
understood. They stay with the data."""

_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
DATE = re.compile(
    rf"(?<![A-Za-z0-9.])(?:{_YEAR}-{_MONTH}-{_DAY}|{_YEAR}/{_MONTH}/{_DAY}|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}\.{_MONTH}\.{_YEAR}|{_DAY}/{_MONTH}/{_YEAR}|{_MONTH}/{_DAY}/{_YEAR})(?![A-Za-z0-9]|\.\d)"
)
UID = re.compile(r"(?<![\w.])(?:[012](?:\.(?:0|[1-9]\d*)){6,}|2\.25\.\d{15,})(?![\w.])")
HEADER = re.compile(
    r'"(Patient(?:Name|ID|BirthDate|Address)|Institution(?:Name|Address)|(?:ReferringPhysician|Operators)Name|AccessionNumber|'
    r"StudyID|(?:Study|Series|SOP)InstanceUID|DeviceSerialNumber|StationName|(?:Study|Series|ProcedureStep)Description|"
    r'ProtocolName|ImageComments|(?:Study|Series|Content|Acquisition)(?:Date|Time)|AcquisitionDateTime)"\s*:\s*"[^"]'
)
NO_PATIENT = re.compile(
    r'"(?:when|contentSize)":\s*"[\d-]*"|http://www\.w3\.org/[\w/.-]+|\bW3C-\d{8}\b|\bby NeuroRAD [\w.]+ on \d{4}-\d\d-\d\d\b'
)
"""The day on which a reader looked at a QC page, sizes in bytes, which may look like a day, the names of XML
vocabularies (http://www.w3.org/1999/02/22-rdf-syntax-ns) and of a licence, which hold one, and when the report was made."""

RUNS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Finding:
    """One thing that must not be there; `what` says where in the file and what kind, not the value itself."""

    path: str
    what: str


@dataclass(frozen=True)
class Sources:
    """What the input says of its patients: words (in runs of letters and digits) -> what they are; and the folders of
    RESULTS that hold input, and files that may name folders."""

    words: dict[tuple[str, ...], str]
    folders: set[Path]
    knowing: set[Path]


def runs(text: str) -> tuple[str, ...]:
    """The runs of letters and digits of a text, without regard to case: what names are compared by."""
    return tuple(RUNS.findall(text.casefold()))


def read_sources(results: Path) -> Sources:
    """Names and header texts of the input of a study, from `cohorts/*/scans.tsv`.

    Sources that are not there any more are named by their paths alone.

    Raises:
        InputError: no study.
    """
    tables = sorted(results.glob("cohorts/*/scans.tsv"))
    if not tables:
        raise InputError(f"{results}: no cohorts/*/scans.tsv below it; give the folder `results` of a study")
    words: dict[tuple[str, ...], str] = {}
    folders, knowing = set(), set()
    for table in tables:
        scans = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
        paths = {row["scan"]: _paths(row, results) for row in scans.to_dict("records")}
        for path in (path for some in paths.values() for path in some):
            inside = Path(os.path.relpath(path, results))
            if inside.parts[0] != "..":
                folders.add(results / inside.parts[0])
        patients = dict(zip(scans["scan"], scans["patient"], strict=True))
        if private := all(patients[scan] not in "/".join(map(str, some)) for scan, some in paths.items()):
            knowing |= {table.with_name(name) for name in KNOWS_FOLDERS}
        for scan, some in paths.items():
            if private:
                words |= _folder_words(some, paths, patients, scan, table.parent.name)
            for path in some:
                words |= _header_words(path, table.parent.name)
    return Sources({key: kind for key, kind in words.items() if len("".join(key)) >= 4}, folders, knowing)


def _paths(row: dict[str, str], results: Path) -> list[Path]:
    """Absolute paths of a scan's sources; a study's relative paths start beside its results."""
    named = [row.get(name, "") for name in (*SEQUENCES, "dicom", "tumour")]
    return [(results.parent / part).absolute() for cell in named if cell for part in cell.split(" | ")]


def _folder_words(
    some: list[Path], paths: dict[str, list[Path]], patients: dict[str, str], scan: str, cohort: str
) -> dict[tuple[str, ...], str]:
    """Names of folders and files that belong to one patient alone; others (`session_1`, `t1c`) tell nobody apart."""
    every = [path for each in paths.values() for path in each]
    root = Path(os.path.commonpath(every))
    if len(set(patients.values())) == 1:
        root = every[0].parents[min(2, len(every[0].parents) - 1)]
    others = {
        part
        for other, each in paths.items()
        if patients[other] != patients[scan]
        for path in each
        for part in path.parts
    }
    found = {}
    for path in some:
        for depth, part in enumerate(path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-3:]):
            stem = part.removesuffix(".gz").removesuffix(".nii")
            if part not in others and (depth == 0 or any(c.isdigit() for c in stem)) and stem not in SEQUENCES:
                found[runs(stem)] = f"the name of a folder or file of the private cohort {cohort}"
    return found


def _header_words(path: Path, cohort: str) -> dict[tuple[str, ...], str]:
    if path.is_dir():
        return _dicom_words(path, cohort)
    import nibabel as nib

    try:
        header = cast("nib.Nifti1Header", nib.load(path).header)
    except Exception:  # The inventory has refused it; its name still counts.
        return {}
    texts = [
        bytes(header[key].item()).decode("latin-1").strip("\0 ") for key in ("descrip", "aux_file") if key in header
    ]
    return {
        runs(text): f"the description in the header of a source image of {cohort}" for text in texts if len(text) > 5
    }


DICOM_TAGS = {
    "PatientName": "the patient's name",
    "PatientID": "the patient's id",
    "PatientBirthDate": "the patient's day of birth",
    "StudyDate": "the day of the study",
    "AccessionNumber": "the accession number",
    "InstitutionName": "the institution",
    "ReferringPhysicianName": "the physician",
    "StudyDescription": "the study's description",
    "SeriesDescription": "a series' description",
}


def _dicom_words(folder: Path, cohort: str) -> dict[tuple[str, ...], str]:
    """Of the first file of each folder: a folder is one series, or one patient's at least."""
    import pydicom

    found = {}
    for place, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names)[:1]:
            try:
                header = pydicom.dcmread(Path(place) / name, stop_before_pixels=True, specific_tags=[*DICOM_TAGS])
            except Exception:  # No DICOM.
                continue
            for tag, kind in DICOM_TAGS.items():
                key = runs(str(header.get(tag, "")))
                # "T1" or "FLAIR" is no description that would tell a patient.
                if key and (not tag.endswith("Description") or (len("".join(key)) >= 8 and len(key) > 1)):
                    found[key] = f"{kind} in the DICOM headers of {cohort}"
                    if tag == "PatientName":
                        found[key[::-1]] = found[key]
    return found


def audit(results: Path, sources: Sources) -> tuple[int, list[Finding]]:
    """Look into every file below `results`, except the input itself and what may know the folders of private cohorts.

    Returns:
        Number of files looked into, and findings by path.
    """
    starting: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key in sources.words:
        starting[key[0]].append(key)
    findings, number = [], 0
    for path in sorted(p for p in results.rglob("*") if p.is_file() or p.is_symlink()):
        if path in sources.knowing or any(path.is_relative_to(folder) for folder in sources.folders):
            continue
        number += 1
        name = str(path.relative_to(results))
        if path.is_symlink():
            findings.append(Finding(name, "a link, which leads out of what is audited"))
            continue
        content = read_content(path.name, path.read_bytes())
        said = [("its name:", name), *content.texts]
        faults = [
            *content.faults,
            *(what for where, text in said for what in wrong(where, text, sources.words, starting)),
        ]
        findings += [Finding(name, what) for what in dict.fromkeys(faults)]
    return number, findings


def wrong(
    where: str, text: str, words: dict[tuple[str, ...], str], starting: dict[str, list[tuple[str, ...]]]
) -> Iterator[str]:
    """What of `text` must not be there, each with its line; the first of a kind alone."""
    text = NO_PATIENT.sub("", text)

    def at(place: int, what: str) -> str:
        return f"{where} line {text.count(chr(10), 0, place) + 1}: {what}".strip()

    for pattern, what in ((DATE, "a date"), (UID, "a DICOM UID")):
        if match := pattern.search(text):
            yield at(match.start(), what)
    if match := HEADER.search(text):
        yield at(match.start(), f"the header field {match[1]}")
    if not starting:
        return
    matches = list(RUNS.finditer(text.casefold()))
    seen = [match[0] for match in matches]
    told = set()
    for i, run in enumerate(seen):
        for key in starting.get(run, ()):
            if tuple(seen[i : i + len(key)]) == key and words[key] not in told:
                told.add(words[key])
                yield at(matches[i].start(), words[key])
