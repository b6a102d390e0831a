"""`neurorad explain`, `native`."""

import argparse
from pathlib import Path
from typing import Any

from neurorad.flag_values import natural, positive
from neurorad.problems import InputError


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    verb = verbs.add_parser(
        "explain",
        help="Grad-CAM maps of an encoder's probes, and what they are worth",
        description="Explains the out-of-fold scores of any endpoints on one encoder, survival (`os`) among them: each map\n"
        "is of the models that had not seen its patient. Every scan is read once and passes the encoder once. Shown are\n"
        "the patients with the highest and the lowest scores and a known label, in equal shares. Scans with a tumour\n"
        "mask, chosen by a hash of their names, then show what the maps are worth. Writes below OUT/ENDPOINT: maps.npz,\n"
        "agreement.parquet, check_scans.parquet, checks.parquet and viewer.html.",
        epilog="example: neurorad explain --encoder results/encoders/byol-dro-s0 --endpoint idh1 os\n"
        "         --coefficients results/evaluation/{probe,survival}/byol-dro-s0.coefficients.parquet\n"
        "         --predictions results/evaluation/{probe,survival}/byol-dro-s0.predictions.parquet\n"
        "         --folds results/evaluation/folds.parquet --embeddings results/embeddings/byol-dro-s0/ucsf-pdgm.parquet\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/explanation/byol-dro-s0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "--encoder", required=True, type=Path, metavar="FOLDER", help="folder made by `neurorad pretrain`"
    )
    verb.add_argument("--endpoint", required=True, nargs="+", metavar="NAME", help="e.g. idh1; os is survival")
    for name in ("coefficients", "predictions"):
        verb.add_argument(
            f"--{name}", required=True, type=Path, nargs="+", metavar="PARQUET", help="of probes, survival"
        )
    verb.add_argument("--folds", required=True, type=Path, metavar="PARQUET", help="those of the evaluation")
    verb.add_argument("--volumes", required=True, type=Path, nargs="+", metavar="TSV", help="of the test cohorts")
    verb.add_argument("--embeddings", required=True, type=Path, nargs="+", metavar="PARQUET", help="of this encoder")
    verb.add_argument("--leakage", required=True, type=Path, metavar="JSON", help="leakage_audit.json, for the stamp")
    verb.add_argument(
        "--twin",
        action="append",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="folder of an encoder that differs in its seed alone, then its coefficients: are the maps repeatable? May be "
        "given again",
    )
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.add_argument("--patients", type=positive, default=4, metavar="N", help="even; half highest, half lowest [4]")
    verb.add_argument("--layer", default="layer3", choices=["layer2", "layer3", "layer4"])
    verb.add_argument(
        "--checked", type=natural, default=500, metavar="N", help="scans with a mask to check maps on [500]"
    )
    verb.add_argument("--close", type=natural, default=20, metavar="N", help="of these, looked at closely [20]")
    verb.add_argument("--window", type=positive, default=16, metavar="VOXELS", help="edge of an occluding cube [16]")
    verb.add_argument("--steps", type=positive, default=20, metavar="N", help="parts of deletion and insertion [20]")
    verb.add_argument("--batch", type=positive, default=4, metavar="N", help="scans in one forward pass [4]")
    verb.add_argument("--seed", type=natural, default=0)
    verb.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=run_explain)

    verb = verbs.add_parser(
        "native",
        help="maps on the scanner's own grids, as NIfTI",
        description="Brings the maps of `neurorad explain` back through the transforms that each volume recorded onto the\n"
        "grid of one sequence as it came (for DICOM, as dcm2niix lays it out). Writes for each scan of maps.npz\n"
        "OUT/SCAN.evidence.nii.gz and OUT/SCAN.against.nii.gz, 0 to 1, with an empty header but for the geometry.",
        epilog="example: neurorad native --maps results/explanation/byol-dro-s0/idh1/maps.npz\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv --sequence t1c\n"
        "         --out results/explanation/byol-dro-s0/idh1/native",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--maps", required=True, type=Path, metavar="NPZ")
    verb.add_argument("--volumes", required=True, type=Path, nargs="+", metavar="TSV", help="of the test cohorts")
    verb.add_argument("--sequence", default="t1c", choices=["t1n", "t1c", "t2w", "t2f"], help="whose grid [t1c]")
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.set_defaults(run=run_native)


def run_explain(args: argparse.Namespace) -> None:
    """Maps of an encoder's probes and risk, their agreement with the tumour, their checks and a page to look at them."""
    import numpy as np
    import torch

    from neurorad.encoder import choose_device, load_encoder
    from neurorad.explanation.checks import Effort, summarise
    from neurorad.explanation.explain import unexplained
    from neurorad.explanation.probes import read_probe
    from neurorad.explanation.together import Explained, explain, make_rivals, wanted
    from neurorad.explanation.viewer import page, viewed
    from neurorad.files import read_json, read_table, write_table, write_text

    labels = _labels(args.endpoint)
    torch.set_num_threads(args.threads)
    # What torch.use_deterministic_algorithms(True) sets, without its import of the compiler (1.5 s).
    torch.set_deterministic_debug_mode("error")
    device = choose_device(args.device)
    encoder, card = load_encoder(args.encoder)
    name = args.encoder.resolve().name
    tables = {flag: [read_table(path) for path in getattr(args, flag)] for flag in ("coefficients", "predictions")}
    folds, embeddings, volumes = read_table(args.folds), _joined(args.embeddings), _usable(args.volumes)
    effort = Effort(args.checked, args.close, args.window, args.steps)
    known = [
        probe
        for endpoint in args.endpoint
        if (probe := read_probe(endpoint, name, encoder.dimension, **tables, folds=folds, embeddings=embeddings))
    ]
    plans = [wanted(probe, volumes, args.patients, effort) for probe in known]
    found: dict[str, Explained] = {}
    if known:
        rivals = make_rivals(encoder, args.layer, known, plans, embeddings, _twins(args.twin), folds, device, args.seed)
        contract = card["preprocessing"]
        made = explain(encoder, args.layer, known, plans, rivals, contract, effort, device, args.batch, args.seed)
        found = dict(zip((probe.endpoint for probe in known), made, strict=True))
    stamp = read_json(args.leakage)["stamp"]
    for endpoint, label in labels.items():
        note = f"not estimable: no probe of {endpoint} could be fitted"
        mine = found.get(endpoint) or Explained(*unexplained(note), None)
        what, folder = {"encoder": name, "endpoint": endpoint, "layer": args.layer}, args.out / endpoint
        _write_arrays(folder / "maps.npz", {key: np.array(value) for key, value in what.items()} | mine.arrays)
        for file, table in (("agreement", mine.agreement), ("check_scans", mine.checks.drop(columns="endpoint"))):
            write_table(folder / f"{file}.parquet", table.assign(**what)[[*what, *table.columns]])
        shown = (
            [] if mine.chosen is None else list(viewed(mine.arrays, mine.chosen, mine.agreement, card["preprocessing"]))
        )
        title = f"{label}: where {name} looked ({args.layer}, Grad-CAM)"
        rule = (
            f"The {len(shown)} patients with the highest and the lowest out-of-fold scores among those with a known label. "
            f"Each map is of models that had not seen the patient."
        )
        write_text(folder / "viewer.html", page(title, rule if shown else note, stamp, shown))
        missing = "" if endpoint in found else note
        write_table(folder / "checks.parquet", summarise(mine.checks, name, endpoint, stamp, args.seed, missing))


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """As `numpy.savez_compressed`, at the fastest level: it takes a quarter of the time and a tenth more space."""
    import zipfile

    from numpy.lib.format import write_array

    from neurorad.files import atomic

    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in arrays.items():
            # A name alone has the date of 1980: the same bytes each time.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                write_array(stream, values, allow_pickle=False)


def _labels(names: list[str]) -> dict[str, str]:
    """How each endpoint is written. Raises InputError for one that nobody declared."""
    from neurorad.endpoints import endpoints
    from neurorad.explanation.probes import SURVIVAL

    known = {name: endpoint.label for name, endpoint in endpoints().items()} | {SURVIVAL: "Risk of death"}
    for name in names:
        if name not in known:
            raise InputError(f"--endpoint {name!r} is not declared; known: {', '.join(known)}")
    return {name: known[name] for name in names}


def _joined(paths: list[Path]) -> Any:
    import pandas as pd

    from neurorad.files import read_table

    return pd.concat([read_table(path) for path in paths], ignore_index=True)


def _usable(paths: list[Path]) -> Any:
    """cohort, scan, volume of the volumes with status ok."""
    table = _joined(paths)
    return table.loc[table["status"] == "ok", ["cohort", "scan", "volume"]]


def _twins(given: list[list[Path]]) -> dict[str, Any]:
    from neurorad.encoder import load_encoder
    from neurorad.encoder_names import encoder_parts
    from neurorad.files import read_table

    found = {}
    for folder, *tables in given:
        if not tables:
            raise InputError(f"--twin {folder}: needs the encoder's coefficients after its folder")
        seed = encoder_parts(folder.resolve().name)[2]
        found[f"seed_{seed}"] = (load_encoder(folder)[0], [read_table(path) for path in tables])
    return found


def run_native(args: argparse.Namespace) -> None:
    """Maps on the grids of the scanner, as NIfTI files."""
    import numpy as np

    from neurorad.explanation.native import nifti_bytes, on_scanner_grid
    from neurorad.files import atomic
    from neurorad.volumes import load_card

    if not args.maps.is_file():
        raise InputError(f"{args.maps}: no such file; maps.npz is made by `neurorad explain`")
    volumes = _usable(args.volumes).set_index(["cohort", "scan"])["volume"]
    args.out.mkdir(parents=True, exist_ok=True)
    with np.load(args.maps, allow_pickle=False) as stored:
        maps = {key: stored[key] for key in ("cohort", "scan", "maps", "against") if key in stored}
    for i, (cohort, scan) in enumerate(zip(maps["cohort"], maps["scan"], strict=True)):
        if (cohort, scan) not in volumes:
            raise InputError(
                f"--volumes: scan {scan} of {cohort} is not among the usable volumes; give every volumes.tsv"
            )
        card = load_card(volumes[cohort, scan])
        for kind, part in (("evidence", "maps"), ("against", "against")):
            moved = on_scanner_grid(maps[part][i], card, args.sequence, f"scan {scan} of {cohort}")
            with atomic(args.out / f"{scan}.{kind}.nii.gz") as temporary:
                temporary.write_bytes(nifti_bytes(*moved))
