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
from neurorad.files import read_json, read_table, visible_files, write_table
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
NAMED = "a name needs a word such as t1n, t1c or t1ce, t2w, flair"
DICOM_MARK = b"DICM"


class NoScanError(InputError):
    """A folder without a scan."""


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
        InputError: no such folder, one that cannot be read, no scan in any, or no usable scan at all.
    """
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise InputError(f"{_in_utf8(str(gone[0]))}: no such folder; give folders of scans")
    scans, without = [], []
    for folder in folders:
        try:
            scans += find_scans(folder, one_of_several=len(folders) > 1)
        except NoScanError as problem:
            without.append(str(problem))
    if not scans:
        raise InputError("; ".join(without))
    for reason in without:
        print(f"left out: {reason}", file=sys.stderr)
    scans = _told_apart(scans)
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


def find_scans(folder: Path, one_of_several: bool = False) -> list[dict[str, str]]:
    """The scans of a folder, each a row of scans.tsv with `volume` besides: finished volumes in it; or, at any depth, each
    folder of NIfTI files and each DICOM study. A scan whose files cannot be told apart has a `problem`. It is known by the
    folders on the way to it, of which the folder itself is the first if it is `one_of_several`.

    What is passed over is named on standard error: what lies below a whole NIfTI scan, NIfTI files of no sequence's name, and
    DICOM that is not MR.

    Raises:
        NoScanError: there is none.
        InputError: a folder that cannot be opened.
    """

    def steps(at: Path) -> list[str]:
        on_the_way, own = [*at.relative_to(folder).parts], os.path.basename(os.path.abspath(folder))
        return [own, *on_the_way] if one_of_several or not on_the_way else on_the_way

    volumes = sorted(path for path in folder.glob("*.b2nd") if not path.name.startswith("."))
    if volumes:
        return [_row(["_".join(steps(path.with_suffix("")))], volume=str(path)) for path in volumes]
    files = visible_files(folder)
    images: dict[Path, dict[str, list[Path]]] = {}
    for path in files:
        if path.name.lower().endswith(NIFTI):
            found = images.setdefault(path.parent, {name: [] for name in SEQUENCES})
            if name := sequence_of(path.name, path.parent.resolve().name):
                found[name].append(path)
    named = [at for at, found in images.items() if any(found.values())]
    whole = {at for at in named if _is_whole(images[at])}
    dicom = [path for path in files if _is_dicom(path)]
    studies, no_mr = _studies([path for path in dicom if whole.isdisjoint(path.parents)])
    scans = [_nifti_scan(images[at], steps(at)) for at in named if whole.isdisjoint(at.parents)]
    scans += [_row(steps(at), dicom=str(at), problem=problem) for at, problem in studies.items()]
    passed_over = {
        "lie inside a scan's folder": [at for at in named if not whole.isdisjoint(at.parents)],
        "hold DICOM in or below the folder of a NIfTI scan": sorted(
            {path.parent for path in dicom if not whole.isdisjoint(path.parents)}
        ),
        f"hold no file that is named as a sequence ({NAMED})": [
            at for at, found in images.items() if not any(found.values())
        ],
        "hold DICOM files but no MR series": no_mr,
    }
    said = [
        f"passed over, as they {what}: {len(places)} folders, such as {_in_utf8('/'.join(steps(places[0])))}"
        for what, places in passed_over.items()
        if places
    ]
    if not scans:
        why = (
            "; ".join(["holds no scan", *said]) if said else "holds neither NIfTI nor DICOM images nor volumes (.b2nd)"
        )
        raise NoScanError(f"{_in_utf8(str(folder))}: {why}")
    for line in said:
        print(line, file=sys.stderr)
    return [_written(scan) for scan in scans]


def _told_apart(scans: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The scans; those with one name, by which rows and files are known, have it as their `problem`."""
    counted = Counter(scan["scan"] for scan in scans)
    clash = "{} scans are called so, by the folders on the way to them; rename or move all but one"
    return [scan | {"problem": clash.format(n)} if (n := counted[scan["scan"]]) > 1 else scan for scan in scans]


def _studies(files: Sequence[Path]) -> tuple[dict[Path, str], list[Path]]:
    """Of DICOM files, folder -> `problem` of each study, and the folders without any MR series.

    A study's folder is the innermost that holds all of it. Where that holds another study too, or files of none, scans
    cannot be told apart by folders. Files of no study, in a folder without one, are a scan of which nothing is known.
    """
    import pydicom

    from neurorad.imaging.dicom import is_mr, study_of

    held: dict[str, set[Path]] = {}
    tags = ["StudyInstanceUID", "SeriesInstanceUID", "Modality"]
    # As where series are read: a damaged header fails anywhere inside pydicom, whose warnings quote its values.
    with warnings.catch_warnings(action="ignore"):
        for path in files:
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
                if is_mr(header):
                    held.setdefault(study_of(header), set()).add(path.parent)
            except Exception:
                continue
    no_mr = {path.parent for path in files}.difference(*held.values())
    of_none = held.pop("", set())
    below: Counter[Path] = Counter()
    for parents in held.values():
        below.update({at for parent in parents for at in (parent, *parent.parents)})
    unknown_below = {at for parent in of_none for at in (parent, *parent.parents)}
    places = {Path(os.path.commonpath(parents)) for parents in held.values()}
    places |= {at for at in of_none if places.isdisjoint((at, *at.parents))}

    def problem(at: Path) -> str:
        if at in unknown_below:
            return "holds DICOM files without StudyInstanceUID, which may be of several scans; export them with it"
        if below[at] > 1:
            return f"holds {below[at]} DICOM studies mixed; give each study a folder of its own"
        return ""

    return {at: problem(at) for at in sorted(places)}, sorted(no_mr)


def _row(steps: Sequence[str], **more: str) -> dict[str, str]:
    columns = (*SEQUENCES, "dicom", "tumour", "tumour_labels", "cavity_labels", "grid", "problem", "volume")
    empty = dict.fromkeys(columns, "")
    who = dict(zip(WHO, (COHORT, "_".join(steps), steps[0], "_".join(steps[1:]) or "1"), strict=True))
    return {**who, **empty, "state": "stripped or defaced or skull", **more}


def _written(scan: dict[str, str]) -> dict[str, str]:
    """The scan as a table can hold it: names that are not UTF-8 are escaped, and are its `problem`."""
    written = {key: _in_utf8(value) for key, value in scan.items()}
    if written == scan:
        return scan
    return written | {"problem": "the name of its folder, or of a file in it, is not UTF-8; rename it"}


def _in_utf8(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _is_whole(found: Mapping[str, Sequence[Path]]) -> bool:
    """Whether a folder's files are one NIfTI scan beyond doubt: t1c and another sequence, none of them twice."""
    files = {name: len(paths) for name, paths in found.items()}
    return files["t1c"] == max(files.values()) == 1 < sum(files.values())


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
        folder: name of its folder, which is left out of the file's name where that begins with it and goes on with another
            word: it is a patient's, as in `t1-trial-7/t1-trial-7_flair.nii.gz`, but not in `t1/t1ce.nii.gz` or `t1/t1.nii.gz`.
    """
    found = spelled(name, folder)
    return found[0] if found else None


def spelled(name: str, folder: str = "") -> tuple[str, str] | None:
    """As `sequence_of`, with what says it, as it is written: `x_T1ce.nii.gz` -> t1c, T1ce; `T1_Gd.nii.gz` -> t1c, T1_Gd."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    # More than the folder's name has to follow, and not in the same word.
    if folder and (begins := re.match(rf"{re.escape(folder)}(?=[\W_]+[A-Za-z0-9])", stem, re.IGNORECASE)):
        stem = stem[begins.end() :]
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
    """By its mark; a medium's table of contents has it too."""
    if path.name == "DICOMDIR":
        return False
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
