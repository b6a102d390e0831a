"""Any user's folders of scans to volumes, by the same code as a study's: what `neurorad embed ... FOLDER...` stands on.

It joins stages, so it lives at the root: cohorts' names are not used, imaging makes the volumes, embedding reads their table.
"""

import argparse
import json
import os
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
from neurorad.sequence_names import Spelled, of_two_patients, spelled
from neurorad.volumes import SEQUENCES

COHORT = "given"
WHO = ("cohort", "scan", "patient", "session")
NIFTI = (".nii", ".nii.gz")
NAMED = "a name needs a word such as t1n, t1c or t1ce, t2w, flair"
LONGEST_NAME = 200
"""Bytes of a scan's name: the names of its files are longer, and file systems end at 255."""


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

    files = visible_files(folder)
    volumes = [path for path in files if path.parent == folder and path.suffix == ".b2nd"]
    if volumes:
        taken = {*volumes}
        beside = [path for path in files if path not in taken and _is_image(path)]
        if beside:
            shown = _in_utf8(str(beside[0].relative_to(folder)))
            print(
                f"{_in_utf8(str(folder))}: only its finished volumes (.b2nd) are taken; passed over: {len(beside)} other image "
                f"files, such as {shown}",
                file=sys.stderr,
            )
        return [_row(["_".join(steps(path.with_suffix("")))], volume=str(path)) for path in volumes]
    images: dict[Path, list[Path]] = {}
    for path in files:
        if path.name.lower().endswith(NIFTI):
            images.setdefault(path.parent, []).append(path)
    said = {}
    for at, paths in images.items():
        called = at.resolve().name
        said[at] = {path: name for path in paths if (name := spelled(path.name, called))}
    named = [at for at in images if said[at]]
    whole = {at for at in named if _is_whole(said[at])}
    closed = {path.parent for path in files if not os.access(path, os.R_OK)}
    dicom = [path for path in files if _is_dicom(path)]
    studies, no_mr = _studies([path for path in dicom if whole.isdisjoint(path.parents)])
    found = [(at, _nifti_scan(said[at], steps(at))) for at in named if whole.isdisjoint(at.parents)]
    found += [(at, _row(steps(at), dicom=str(at), problem=problem)) for at, problem in studies.items()]
    scans = [
        row | {"problem": "a file in its folder may not be read; mend its permissions"}
        if any(at in (place, *place.parents) for place in closed)
        else row
        for at, row in found
    ]
    seen = {*images, *(path.parent for path in dicom)}
    around = {at for place in seen for at in place.parents}
    passed_over = {
        "lie inside a scan's folder": [at for at in named if not whole.isdisjoint(at.parents)],
        "hold DICOM in or below the folder of a NIfTI scan": sorted(
            {path.parent for path in dicom if not whole.isdisjoint(path.parents)}
        ),
        f"hold no file that is named as a sequence ({NAMED})": [at for at in images if not said[at]],
        "hold DICOM files but no MR series": no_mr,
        "hold neither NIfTI nor DICOM files that can be read": sorted(
            at for at in {path.parent for path in files} if at not in around and seen.isdisjoint((at, *at.parents))
        ),
    }
    lines = [
        f"passed over, as they {what}: {len(places)} folders, such as {_in_utf8('/'.join(steps(places[0])))}"
        for what, places in passed_over.items()
        if places
    ]
    if not scans:
        why = (
            "; ".join(["holds no scan", *lines])
            if lines
            else "holds neither NIfTI nor DICOM images nor volumes (.b2nd)"
        )
        raise NoScanError(f"{_in_utf8(str(folder))}: {why}")
    for line in lines:
        print(line, file=sys.stderr)
    return [_written(scan) for scan in scans]


def _told_apart(scans: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The scans, one a name, by which rows and files are known: where one of several with a name is usable, that one, and the
    others are named on standard error; else one with all their reasons, or the clash, as its `problem`."""
    called: dict[str, list[dict[str, str]]] = {}
    for scan in scans:
        called.setdefault(scan["scan"], []).append(scan)
    kept = []
    for name, same in called.items():
        usable = [scan for scan in same if not scan["problem"]]
        if len(usable) == 1:
            kept += usable
            for scan in same:
                if scan["problem"]:
                    print(f"{name}: passed over beside its scan: {scan['problem']}", file=sys.stderr)
            continue
        clash = f"{len(usable)} scans are called so, by the folders on the way to them; rename or move all but one"
        reasons = dict.fromkeys([*([clash] if usable else []), *(scan["problem"] for scan in same if scan["problem"])])
        kept.append(same[0] | {"problem": "; ".join(reasons)})
    return kept


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
    """The scan as tables and file names can hold it: names that these cannot are escaped, and are its `problem`."""
    written = {key: _in_utf8(value) for key, value in scan.items()}
    if written != scan:
        return written | {
            "problem": "the name of its folder, or of a file in it, is not UTF-8 or breaks a line; rename it"
        }
    if len(scan["scan"].encode()) > LONGEST_NAME:
        return scan | {
            "problem": f"its name has more than {LONGEST_NAME} bytes; shorten those of the folders on the way to it"
        }
    return scan


def _in_utf8(name: str) -> str:
    return name.encode(errors="backslashreplace").decode().replace("\r", r"\r").replace("\n", r"\n")


def _is_whole(files: Mapping[Path, Spelled]) -> bool:
    """Whether a folder's files are one NIfTI scan beyond doubt: t1c and another sequence, none of them twice."""
    counted = Counter(found.sequence for found in files.values())
    return counted["t1c"] == max(counted.values()) == 1 < len(files)


def _nifti_scan(files: Mapping[Path, Spelled], steps: Sequence[str]) -> dict[str, str]:
    """The scan of a folder, by the sequence that its files' names say."""
    problem, found = "", {name: [path for path, said in files.items() if said.sequence == name] for name in SEQUENCES}
    if several := [name for name, paths in found.items() if len(paths) > 1]:
        twice = " and ".join(path.name for path in found[several[0]][:3])
        problem = f"{twice} are all named as {several[0]}; leave one file a sequence in the folder"
    elif not found["t1c"]:
        problem = "no file is named as t1c (t1ce, t1gd), which the others are aligned to"
    elif odd := of_two_patients({path: files[path] for paths in found.values() for path in paths}):
        problem = f"{odd[0].name} and {odd[1].name} may be of two patients; call the files of a scan alike, in a folder of its own"
    return _row(steps, problem=problem, **{name: str(paths[0]) for name, paths in found.items() if paths})


def _is_dicom(path: Path) -> bool:
    """By its mark; a medium's table of contents has it too."""
    if path.name == "DICOMDIR" or not os.access(path, os.R_OK):
        return False
    return has_dicom_mark(path)


def has_dicom_mark(path: Path) -> bool:
    """Whether a file has DICOM's mark, after a preamble of 128 bytes."""
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith((*NIFTI, ".b2nd")) or _is_dicom(path)


def _settled(scan: Mapping[str, str]) -> dict[str, str]:
    """The row of volumes.tsv of a scan of which no volume has to be made: it has one, or cannot be used."""
    from neurorad.volumes import card_path

    who, problem = {key: scan[key] for key in WHO}, scan["problem"]
    if not problem:
        path = card_path(scan["volume"])
        try:
            digest = read_json(path)["sha256"]
            return {**who, "state": "", "volume": scan["volume"], "sha256": digest, "status": "ok", "reason": ""}
        except FileNotFoundError:
            problem = f"no card {path.name} beside it; a volume is known by its card"
        except (InputError, OSError, KeyError, TypeError):
            problem = f"its card {path.name} is damaged; make the volume again"
    return {**who, "state": scan["state"], "volume": "", "sha256": "", "status": "excluded", "reason": problem}
