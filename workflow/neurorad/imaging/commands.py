"""Verbs of the imaging stage: volumes, volumes-index, qc, view."""

import argparse
import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad.files import atomic, folder_sha256, read_table, sha256, write_table, write_text
from neurorad.flag_values import natural, positive
from neurorad.likeness import thumbnail
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES, VolumeError, load, load_card, save

INDEX_COLUMNS = ["cohort", "scan", "patient", "session", "state", "absent", "volume", "sha256", "status", "reason"]
"""`absent`: the sequences that the scan lacks, whose channels are 0 (`missing_sequence: zero`)."""


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    volumes = verbs.add_parser(
        "volumes",
        help="Standardise a cohort's scans (or one shard of them) into volumes.",
        description="Standardise a cohort's scans into volumes. Scans already done with the same files and settings are "
        "kept; a scan that cannot be trusted becomes a row with its reason.",
        epilog="example: neurorad volumes --scans scans.tsv --folder results/volumes/ucsf --out index.tsv "
        '--settings \'{"spacing": 1, "shape": [160, 192, 160], "n4": true, "brain_mask": {"method": "deepbet"}}\'',
    )
    volumes.add_argument("--scans", required=True, type=Path)
    volumes.add_argument("--settings", required=True, help="JSON of the config's `imaging` block")
    volumes.add_argument("--folder", required=True, type=Path, help="where the .b2nd files go")
    volumes.add_argument("--shard", type=natural, default=0)
    volumes.add_argument("--shards", type=positive, default=1)
    volumes.add_argument("--out", required=True, type=Path, help="index of this shard, one row a scan")
    volumes.add_argument("--series", type=Path, help="your own choice of DICOM series: TSV with scan, sequence, series")
    volumes.add_argument("--threads", type=positive, default=1)
    volumes.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    volumes.set_defaults(run=run_volumes)

    index = verbs.add_parser(
        "volumes-index",
        help="Join the shards of a cohort's index.",
        epilog="example: neurorad volumes-index a.tsv b.tsv --out volumes.tsv",
    )
    index.add_argument("shards", nargs="+", type=Path)
    index.add_argument("--verdicts", type=Path, help="TSV from the QC page: a volume that failed leaves the study")
    index.add_argument("--out", required=True, type=Path)
    index.set_defaults(run=run_index)

    qc = verbs.add_parser(
        "qc",
        help="Visual QC page of a cohort's volumes.",
        epilog="example: neurorad qc --volumes volumes.tsv --out qc.html",
    )
    qc.add_argument("--volumes", required=True, type=Path)
    qc.add_argument("--verdicts", type=Path, help="TSV that the page exported before: shown, and edited further")
    qc.add_argument("--out", required=True, type=Path)
    qc.set_defaults(run=run_qc)

    view = verbs.add_parser(
        "view",
        help="PNG of one volume: a row a sequence, the tumour outlined where the release ships one.",
        epilog="example: neurorad view results/volumes/ucsf-pdgm/UCSF-PDGM-0004.b2nd --out scan.png",
    )
    view.add_argument("volume", type=Path, metavar="SCAN", help="the .b2nd file")
    view.add_argument("--out", required=True, type=Path)
    view.set_defaults(run=run_view)


def shard_of(scan: str, shards: int) -> int:
    """Shard of a scan by its name, so that new scans never move the others."""
    return int.from_bytes(hashlib.sha256(scan.encode()).digest()[:8], "little") % shards


def run_volumes(args: argparse.Namespace) -> None:
    """Standardise one shard of a cohort's scans; a scan that cannot be is a row with its reason."""
    import torch

    from neurorad.imaging.volume import Atlas

    torch.set_num_threads(args.threads)
    device = args.device if args.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    settings = json.loads(args.settings)
    # A folder or a file may be called 007, too.
    paths = (*SEQUENCES, "dicom", "tumour")
    text = ("patient", "session", "scan", "tumour_labels", "cavity_labels", *paths)
    scans = read_table(args.scans, text=text).fillna("")
    mine = [r for r in scans.to_dict("records") if not r["problem"] and shard_of(r["scan"], args.shards) == args.shard]
    chosen = read_choices(args.series, set(scans["scan"])) if args.series else {}
    atlas = Atlas.load(settings["spacing"], tuple(settings["shape"]), settings.get("atlas"))
    rows = []
    for position, scan in enumerate(mine, start=1):
        row = _standardise(scan, chosen.get(scan["scan"], {}), settings, atlas, args.folder, args.threads, device)
        rows.append(row)
        print(
            f"{scan['cohort']} {position}/{len(mine)} {scan['scan']}: {row['reason'] or row['status']}", file=sys.stderr
        )
    table = pd.DataFrame(rows, columns=[*INDEX_COLUMNS, *sorted({k for r in rows for k in r} - set(INDEX_COLUMNS))])
    write_table(args.out, table.sort_values("scan", ignore_index=True))


def read_choices(path: Path, scans: set[str]) -> dict[str, dict[str, str]]:
    """The user's choice of DICOM series: scan -> sequence -> number or UID of a series, from a TSV.

    Raises:
        InputError: unreadable, other columns, an unknown scan or sequence, or two choices for one.
    """
    try:
        # The user's own file, which no run makes again, as `read_table` would advise.
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as problem:
        raise InputError(f"series table {path}: cannot be read ({problem})") from problem
    if sorted(table.columns) != ["scan", "sequence", "series"]:
        raise InputError(
            f"series table {path}: needs the columns scan, sequence, series; has {', '.join(table.columns)}"
        )
    chosen: dict[str, dict[str, str]] = {}
    for line, row in enumerate(table.to_dict("records"), start=2):
        where = f"series table {path}, line {line}"
        if row["scan"] not in scans:
            raise InputError(f"{where}: scan {row['scan']!r} is none of the cohort's; take the name from excluded.tsv")
        if row["sequence"] not in SEQUENCES:
            raise InputError(f"{where}: sequence {row['sequence']!r} is none of {', '.join(SEQUENCES)}")
        if not row["series"] or row["sequence"] in chosen.setdefault(row["scan"], {}):
            raise InputError(f"{where}: {row['scan']} {row['sequence']} needs one series, by its number or UID")
        chosen[row["scan"]][row["sequence"]] = row["series"]
    return chosen


def _standardise(
    scan: dict[str, str],
    chosen: dict[str, str],
    settings: dict[str, Any],
    atlas: Any,
    folder: Path,
    threads: int,
    device: str,
) -> dict[str, Any]:
    """Index row of one scan; its volume, card and tumour mask are written beside each other, the volume last."""
    from neurorad.imaging.scan import ScanError
    from neurorad.imaging.volume import contract, make_volume

    row: dict[str, Any] = {name: scan[name] for name in ("cohort", "scan", "patient", "session")}
    path = folder / f"{scan['scan']}.b2nd"
    sources = _source_digests(scan)
    made_from = {"sources": sources, "series": chosen, "settings": _without_paths(settings), "code": code_digest()}
    try:
        card = _finished(path, made_from)
        if card is None:
            with tempfile.TemporaryDirectory() as scratch:
                files, tumour = _images(scan, chosen, settings, Path(scratch))
                declared = tuple(scan["state"].split(" or "))
                volume = make_volume(files, tumour, declared, settings, atlas, Path(scratch), threads, device)
            for suffix, content in volume.pictures.items():
                with atomic(path.with_suffix(suffix)) as temporary:
                    temporary.write_bytes(content)
            with atomic(path.with_suffix(".thumbnail.npy")) as temporary, open(temporary, "wb") as stream:
                np.save(stream, thumbnail(volume.voxels, settings["spacing"]), allow_pickle=False)
            if volume.tumour is not None:
                with atomic(path.with_suffix(".tumour.npy")) as temporary, open(temporary, "wb") as stream:
                    np.save(stream, volume.tumour, allow_pickle=False)
            card = {
                "made_from": made_from,
                "preprocessing": contract(settings),
                "state": volume.state,
                "present": list(volume.present),
                "brain_mask": volume.brain,
                "quality": volume.quality,
                "transforms": volume.transforms,
                "affine": volume.affine,
                "grids": volume.grids,
                "tools": {name: version(name) for name in ("antspyx", "deepbet", "dcm2niix", "HD-BET", "nibabel")},
            }
            save(path, volume.voxels, card)
            card = load_card(path)
    except ScanError as problem:
        return {
            **row,
            "state": "",
            "absent": "",
            "volume": "",
            "sha256": "",
            "status": "excluded",
            "reason": str(problem),
        }
    absent = " ".join(name for name in SEQUENCES if name not in card["present"])
    row |= {"state": card["state"], "absent": absent, "volume": str(path), "sha256": card["sha256"]}
    row |= {"status": "ok", "reason": ""}
    return {**row, **card["quality"]}


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by content: an atlas and weights are what their sha256 says, wherever they lie."""
    kept = dict(settings)
    for block, path in (("atlas", "file"), ("brain_mask", "weights")):
        if block in kept:
            kept[block] = {key: value for key, value in kept[block].items() if key != path}
    return kept


def _finished(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The card of a volume that was already made of the same files, settings and code, and is whole."""
    if not all(
        path.with_suffix(suffix).is_file() for suffix in (".b2nd", ".json", ".thumbnail.npy", ".qc.webp", ".qc.png")
    ):
        return None
    card = load_card(path)
    if card.get("made_from") != made_from:
        return None
    try:
        load(path, check=True)
    except VolumeError:
        return None
    return card


def _source_digests(scan: dict[str, str]) -> dict[str, str]:
    if scan["dicom"]:
        return {"dicom": folder_sha256(scan["dicom"])}
    return {name: sha256(scan[name]) for name in (*SEQUENCES, "tumour") if scan[name]}


def _images(
    scan: dict[str, str], chosen: dict[str, str], settings: dict[str, Any], scratch: Path
) -> tuple[dict[str, Path], Any]:
    """The sequences' NIfTI files, as far as there are, and the tumour's `Image` where the release ships a mask."""
    if scan["dicom"]:
        from neurorad.imaging.dicom import convert, identify, read_series

        found = identify(read_series(Path(scan["dicom"])), chosen, settings.get("missing_sequence") == "zero")
        return {name: convert(series, scratch, name) for name, series in found.items()}, None
    files = {name: Path(scan[name]) for name in SEQUENCES if scan[name]}
    if not scan["tumour"]:
        return files, None
    from neurorad.imaging.scan import read_mask

    tumour_labels, cavity_labels = (tuple(map(int, scan[kind].split())) for kind in ("tumour_labels", "cavity_labels"))
    return files, read_mask(scan["tumour"], tumour_labels, cavity_labels)


def code_digest() -> str:
    """sha256 over the source that makes volumes and thumbnails: what other code made is made again."""
    stage, root = Path(__file__).parent, Path(__file__).parents[1]
    shared = [root / name for name in ("likeness.py", "nifti.py", "volumes.py")]
    digest = hashlib.sha256()
    for path in [*sorted(stage.glob("*.py")), *shared]:
        if path.name not in ("commands.py", "qc.py", "verdicts.py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run_index(args: argparse.Namespace) -> None:
    """Join the shards' tables, and leave out what readers failed."""
    from neurorad.imaging.verdicts import apply_verdicts, check_scans, read_verdicts

    tables = [read_table(path) for path in args.shards]
    filled = [table for table in tables if len(table)] or tables[:1]
    index = pd.concat(filled).sort_values("scan", ignore_index=True)
    if args.verdicts:
        verdicts = read_verdicts(args.verdicts)
        check_scans(verdicts, index, args.verdicts)
        index = apply_verdicts(index, verdicts)
    write_table(args.out, index)


def run_qc(args: argparse.Namespace) -> None:
    """The page on which a cohort's volumes are looked at and judged."""
    from neurorad.imaging.qc import page
    from neurorad.imaging.verdicts import NO_VERDICTS, check_scans, read_verdicts

    text = ("patient", "session", "scan", "sha256")
    volumes = read_table(args.volumes, text).fillna({"reason": "", "volume": "", "sha256": ""})
    verdicts = read_verdicts(args.verdicts) if args.verdicts else NO_VERDICTS
    check_scans(verdicts, volumes, args.verdicts)
    write_text(args.out, page(volumes, verdicts))


def run_view(args: argparse.Namespace) -> None:
    """Picture of one volume, with its tumour mask where there is one."""
    from neurorad.imaging.pictures import view

    try:
        voxels = load(args.volume)
    except VolumeError as problem:
        raise InputError(f"{problem}; give the .b2nd file of a scan, below results/volumes") from problem
    mask = args.volume.with_suffix(".tumour.npy")
    tumour = np.load(mask, allow_pickle=False) if mask.is_file() else None
    with atomic(args.out) as temporary:
        temporary.write_bytes(view(voxels.astype(np.float32), tumour))
