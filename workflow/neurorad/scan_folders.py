"""Any user's folders of scans to volumes, by the same code as a study's: what `neurorad embed ... FOLDER...` stands on.

It joins stages, so it lives at the root: cohorts' names are not used, imaging makes the volumes, embedding reads their table.
"""

import argparse
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neurorad.contract import contract_differences, imaging_of
from neurorad.files import read_json, read_table, write_table
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

COHORT = "given"
WHO = ("cohort", "scan", "patient", "session")
NIFTI = (".nii", ".nii.gz")
SPELLINGS = {
    "t2f": r"t2f|flair|t2flair",
    "t1c": r"t1c|t1ce|t1gd|ct1|t1post|t1km|t1wce|t1ca",
    "t1n": r"t1n|t1|t1w|t1pre",
    "t2w": r"t2w|t2",
}
"""How a file's name says its sequence, as one of the words between its marks; the first that fits, in this order."""
CONTRAST = r"ce|gd|gad|post|contrast|gadolinium"
NO_IMAGE = r"bias|seg|mask|label|labels|segmentation|tumormask|roi"
"""Words of files that are not taken: masks, and UCSF's second copies, bias-corrected already."""
DICOM_MARK = b"DICM"


def settings_of(contract: Mapping[str, Any], atlas: str | None, brain_mask: str) -> dict[str, Any]:
    """The `imaging` settings that make volumes of an encoder's contract.

    Args:
        contract: `preprocessing` of its card. atlas: the user's atlas file, if the encoder has one of its own.
        brain_mask: method for scans that are not stripped.

    Raises:
        InputError: this version cannot make such volumes; the message says what differs.
    """
    from neurorad.files import sha256
    from neurorad.imaging.volume import contract as contract_of

    settings = imaging_of(contract) | {"brain_mask": {"method": brain_mask}}
    if atlas:
        settings["atlas"] = {"file": atlas, "sha256": sha256(atlas)}
    differences = contract_differences(contract, contract_of(settings))
    if differences:
        raise InputError(
            "scans cannot be preprocessed as the encoder's were (encoder against here: "
            f"{'; '.join(differences)}); an atlas of its own is given with --atlas"
        )
    return settings


def volumes_of(
    folders: Sequence[Path], settings: Callable[[], dict[str, Any]], keep: Path, threads: int = 1, device: str = "auto"
) -> Path:
    """Make a volume of each scan below `keep`; those already made of the same files and settings are kept.

    A folder that holds finished volumes (`.b2nd` with their cards) is taken as it is.

    Args:
        settings: the `imaging` settings; asked for only if there is a volume to make.

    Returns:
        `volumes.tsv`. What could not be used is named on standard error.

    Raises:
        InputError: a folder without a scan, two with one name, or no usable scan at all.
    """
    scans = [scan for folder in folders for scan in find_scans(folder)]
    names = [scan["scan"] for scan in scans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two folders are called {twice[0]}; rename one, as a row of the output is known by this name")
    settled = [_settled(scan) for scan in scans if scan["volume"] or scan["problem"]]
    made = [scan for scan in scans if not scan["volume"] and not scan["problem"]]
    tables = [pd.DataFrame(settled)] if settled else []
    if made:
        from neurorad.imaging.commands import run_volumes

        wanted = settings()
        write_table(keep / "scans.tsv", pd.DataFrame(made))
        run_volumes(
            argparse.Namespace(
                scans=keep / "scans.tsv",
                settings=json.dumps(wanted),
                folder=keep,
                shard=0,
                shards=1,
                out=keep / "made.tsv",
                series=None,
                threads=threads,
                device=device,
            )
        )
        tables.append(read_table(keep / "made.tsv"))
    index = pd.concat(tables, ignore_index=True)
    for row in index[index["status"] != "ok"].itertuples():
        print(f"{row.scan}: left out: {row.reason}", file=sys.stderr)
    if not (index["status"] == "ok").any():
        raise InputError("no scan could be used; the reasons are above")
    write_table(keep / "volumes.tsv", index)
    return keep / "volumes.tsv"


def find_scans(folder: Path) -> list[dict[str, str]]:
    """The scans of a folder, each a row of scans.tsv with `volume` besides: finished volumes in it; or, at any depth, each
    folder of NIfTI files and each DICOM study. A scan whose files cannot be told apart has a `problem`. It is known by the
    folders on the way to it.

    Folders inside a scan's folder, and those without any file that is named as a sequence, are none, and named on standard
    error.

    Raises:
        InputError: no such folder, or no scan in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give folders of scans")
    volumes = sorted(folder.glob("*.b2nd"))
    if volumes:
        return [_row([path.stem], volume=str(path)) for path in volumes]
    files = _files_below(folder)
    images: dict[Path, dict[str, list[Path]]] = {}
    for path in files:
        if path.name.lower().endswith(NIFTI):
            found = images.setdefault(path.parent, {name: [] for name in SEQUENCES})
            if name := sequence_of(path.name, path.parent.resolve().name):
                found[name].append(path)
    whole = {at for at, found in images.items() if found["t1c"]}
    unnamed = [at for at, found in images.items() if not any(found.values())]
    named = [at for at, found in images.items() if any(found.values())]
    nested = [at for at in named if not whole.isdisjoint(at.parents)]
    scans = [_nifti_scan(images[at], _steps(folder, at)) for at in named if whole.isdisjoint(at.parents)]
    studies = _studies(folder, [path for path in files if whole.isdisjoint(path.parents)])
    if not scans and len(studies) == 1 and not studies[0]["problem"]:
        studies = [_row(_steps(folder, folder), dicom=str(folder))]
    scans += studies
    for what, passed in (("lie inside a scan's folder", nested), ("hold no file that is named as a sequence", unnamed)):
        if passed and scans:
            shown = "/".join(_steps(folder, passed[0]))
            print(f"passed over, as they {what}: {len(passed)} folders, such as {shown}", file=sys.stderr)
    if not scans and unnamed:
        raise InputError(
            f"{unnamed[0]}: no file is named as {'/'.join(SEQUENCES)}; a name needs a word such as t1n, t1c (or t1ce), t2w, flair"
        )
    if not scans:
        raise InputError(f"{folder}: holds neither NIfTI nor DICOM images nor volumes (.b2nd)")
    return scans


def _files_below(folder: Path) -> list[Path]:
    """Files at any depth, sorted. Hidden names are passed over; links are followed, but no folder is entered twice.

    Raises:
        InputError: a folder that cannot be opened: what it holds would be missing without a word.
    """

    def stop(problem: OSError) -> None:
        raise InputError(f"{problem.filename} cannot be read ({problem.strerror}); mend its permissions") from problem

    found: list[Path] = []
    entered = {os.path.realpath(folder)}
    for at, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        found += [path for name in names if not name.startswith(".") and (path := Path(at, name)).is_file()]
        below, folders[:] = sorted(folders), []
        for name in below:
            real = os.path.realpath(os.path.join(at, name))
            if not name.startswith(".") and real not in entered:
                entered.add(real)
                folders.append(name)
    return sorted(found)


def _steps(folder: Path, at: Path) -> list[str]:
    """The folders on the way from one to the other; its own name if there are none."""
    return [*at.relative_to(folder).parts] or [folder.resolve().name]


def _studies(folder: Path, files: Sequence[Path]) -> list[dict[str, str]]:
    """One row for each DICOM study: the innermost folder that holds all of it. Where that holds another one too, the scans
    cannot be told apart by folders, which is their `problem`."""
    import pydicom

    held: dict[str, set[Path]] = {}
    # As where series are read: a damaged header fails anywhere inside pydicom, whose warnings quote its values.
    with warnings.catch_warnings(action="ignore"):
        for path in filter(_is_dicom, files):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
                study = str(header.get("StudyInstanceUID", ""))
            except Exception:
                continue
            if study:
                held.setdefault(study, set()).add(path.parent)
    below: Counter[Path] = Counter()
    for parents in held.values():
        below.update({at for parent in parents for at in (parent, *parent.parents)})
    rows = {}
    for at in {Path(os.path.commonpath(parents)) for parents in held.values()}:
        problem = f"holds {below[at]} DICOM studies mixed; give each study a folder of its own" if below[at] > 1 else ""
        rows[at] = _row(_steps(folder, at), dicom=str(at), problem=problem)
    return [rows[at] for at in sorted(rows)]


def _row(steps: Sequence[str], **more: str) -> dict[str, str]:
    columns = (*SEQUENCES, "dicom", "tumour", "tumour_labels", "cavity_labels", "grid", "problem", "volume")
    empty = dict.fromkeys(columns, "")
    who = dict(zip(WHO, (COHORT, "_".join(steps), steps[0], "_".join(steps[1:]) or "1"), strict=True))
    return {**who, **empty, "state": "stripped or defaced or skull", **more}


def _nifti_scan(found: Mapping[str, Sequence[Path]], steps: Sequence[str]) -> dict[str, str]:
    """The scan of a folder whose files are `found`, by the sequence that their names say."""
    problem = ""
    if several := [name for name, paths in found.items() if len(paths) > 1]:
        files = " and ".join(path.name for path in found[several[0]][:3])
        problem = f"{files} are all named as {several[0]}; leave one file a sequence in the folder"
    elif not found["t1c"]:
        problem = "no file is named as t1c (t1ce, t1gd), which the others are aligned to"
    return _row(steps, problem=problem, **{name: str(paths[0]) for name, paths in found.items() if paths})


def sequence_of(name: str, folder: str = "") -> str | None:
    """The sequence that a file's name says, or None: `UPENN-1_T1GD.nii.gz` is t1c, `..._seg.nii.gz` is none.

    Args:
        folder: name of its folder, which is left out of the file's name where that begins with it.
    """
    found = spelled(name, folder)
    return found[0] if found else None


def spelled(name: str, folder: str = "") -> tuple[str, str] | None:
    """As `sequence_of`, with what says it, as it is written: `x_T1ce.nii.gz` -> t1c, T1ce; `T1_Gd.nii.gz` -> t1c, T1_Gd."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    if folder and stem.lower().startswith(folder.lower()):
        stem = stem[len(folder) :]
    words = [*re.finditer(r"[A-Za-z0-9]+", stem)]

    def first(spelling: str) -> re.Match[str] | None:
        return next((word for word in words if re.fullmatch(spelling, word[0], re.IGNORECASE)), None)

    if first(NO_IMAGE):
        return None
    for sequence, spelling in SPELLINGS.items():
        if word := first(spelling):
            if sequence == "t1n" and (agent := first(CONTRAST)):
                return "t1c", stem[min(word.start(), agent.start()) : max(word.end(), agent.end())]
            return sequence, word[0]
    return None


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == DICOM_MARK


def _settled(scan: Mapping[str, str]) -> dict[str, str]:
    """The row of volumes.tsv of a scan of which no volume has to be made: it has one, or cannot be used."""
    from neurorad.volumes import card_path

    who = {key: scan[key] for key in WHO}
    if scan["problem"]:
        left_out = {"volume": "", "sha256": "", "status": "excluded", "reason": scan["problem"]}
        return {**who, "state": scan["state"], **left_out}
    path = card_path(scan["volume"])
    if not path.is_file():
        raise InputError(f"{scan['volume']}: has no card {path.name} beside it; a volume is known by its card")
    made = {"volume": scan["volume"], "sha256": read_json(path)["sha256"], "status": "ok", "reason": ""}
    return {**who, "state": "", **made}
