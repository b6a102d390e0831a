"""`neurorad embed`, `embed-shifted`, `ensemble`, `export`, `finetune`, `rivals`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from neurorad.flag_values import natural, positive
from neurorad.problems import InputError

ENCODERS = Path("results/encoders")
"""Where an encoder is looked for that is given by its name."""


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    _add_embed(verbs)
    _add_embed_shifted(verbs)
    joined = verbs.add_parser(
        "ensemble",
        help="join the embeddings of several encoders into one, rows scaled to length 1",
        description="The concatenation of the members' embeddings of one cohort, each row divided by its length: the\n"
        "feature of the paper's published code. It is probed like any encoder.",
        epilog="example: neurorad ensemble\n"
        "         --embeddings results/embeddings/{byol,dino,mae,moco}-dro-s0/ucsf-pdgm.parquet\n"
        "         --out results/embeddings/ensemble-dro-s0/ucsf-pdgm.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    joined.add_argument("--embeddings", required=True, nargs="+", type=Path, metavar="PARQUET", help="one a member")
    joined.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    joined.set_defaults(run=run_ensemble)

    export = verbs.add_parser(
        "export",
        help="write an encoder for others: a folder as model hubs expect it, with its model card, and ONNX",
        description="Writes config.json, model.safetensors, README.md (the model card) and encoder.onnx, and reads both\n"
        "back: they must give the encoder's embeddings to 1e-5. ONNX needs two more packages, neurorad[onnx].",
        epilog="example: neurorad export --encoder results/encoders/byol-dro-s0 --out byol-dro",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--encoder", required=True, metavar="FOLDER", help="folder, or a name in results/encoders")
    export.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    export.set_defaults(run=run_export)

    tuned = verbs.add_parser(
        "finetune",
        help="train an encoder and a linear head end to end inside the saved folds, and write the out-of-fold logits",
        description="The supervised rival: from scratch or from a pretrained encoder. A fifth of each training fold stops\n"
        "the training; the tested patients choose nothing. `neurorad probe --scores` judges the logits. A job that was\n"
        "killed goes on after its last finished fold.",
        epilog="example: neurorad finetune --encoder results/encoders/byol-dro-s0 --endpoint idh1\n"
        "         --folds results/evaluation/folds.parquet --volumes results/volumes/{ucsf-pdgm,upenn-gbm}/volumes.tsv\n"
        "         --out results/finetuned/byol-dro-tuned-s0/idh1.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start = tuned.add_mutually_exclusive_group(required=True)
    start.add_argument("--encoder", metavar="FOLDER", help="start from this encoder")
    start.add_argument("--scratch", metavar="FOLDER", help="start untrained, with the architecture of this encoder")
    tuned.add_argument("--endpoint", required=True, metavar="NAME", help="such as idh1")
    tuned.add_argument("--folds", required=True, type=Path, metavar="PARQUET", help="made by `neurorad folds`")
    tuned.add_argument("--volumes", required=True, nargs="+", type=Path, metavar="TSV", help="of the test cohorts")
    tuned.add_argument("--recipe", default="{}", metavar="JSON", help="epochs, patience, batch_size, learning_rate")
    tuned.add_argument("--protocols", nargs="+", default=["within_site"], metavar="NAME", help="[within_site]")
    tuned.add_argument("--repeats", type=positive, default=1, metavar="R", help="the first R repeats of the folds [1]")
    tuned.add_argument("--seed", type=natural, default=0, metavar="N", help="[0]")
    tuned.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    tuned.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads [1]")
    tuned.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    tuned.set_defaults(run=run_finetune)

    listed = verbs.add_parser(
        "rivals",
        help="list the rivals of a study: which it has, and why it lacks the others",
        epilog="example: neurorad rivals --settings '{\"intensity\": true}' --out results/embeddings/rivals.tsv",
    )
    listed.add_argument("--settings", required=True, metavar="JSON", help="the config's `rivals` block")
    listed.add_argument("--out", required=True, type=Path, metavar="TSV")
    listed.set_defaults(run=run_rivals)


def _add_embed(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "embed",
        help="turn scans into embeddings, one row a scan: a cohort's volumes, or any folders of scans",
        description="Embeds whole volumes with a pretrained encoder or one of its rivals: an untrained encoder of the same\n"
        "architecture, clinical variables alone, or what the config's `rivals` block describes.\n"
        "Without --volumes, each FOLDER is searched to any depth: a folder of NIfTI files (named t1n, t1c, t2w, t2f or as\n"
        "usual) is a scan, and so is a DICOM study; or it holds finished volumes. Scans are preprocessed as the encoder's\n"
        "card says; volumes that were preprocessed otherwise are refused with what differs.",
        epilog="example: neurorad embed --encoder byol-dro-s0 --out mine.parquet scans/patient-1 scans/patient-2\n"
        "         neurorad embed --encoder results/encoders/byol-dro-s0\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv\n"
        "         --out results/embeddings/byol-dro-s0/ucsf-pdgm.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", metavar="FOLDER", help="folder of an encoder, or its name in results/encoders")
    source.add_argument("--random", type=natural, metavar="SEED", help="untrained weights of this seed; needs --like")
    source.add_argument("--clinical", type=Path, metavar="TSV", help="patients.tsv: embed age (e0) and sex (e1, 1 = M)")
    source.add_argument("--rival", metavar="NAME", help="name in the config's `rivals` block; needs --settings")
    verb.add_argument("--like", metavar="FOLDER", help="encoder whose architecture --random takes")
    verb.add_argument("--full", action="store_true", help="with --clinical: also KPS and extent of resection")
    verb.add_argument("--settings", metavar="JSON", help="with --rival: its block in the config")
    verb.add_argument("--volumes", type=Path, metavar="TSV", help="volumes.tsv of a cohort")
    verb.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders of scans, instead of --volumes")
    verb.add_argument("--imaging", metavar="JSON", help="FOLDER with --rival: the config's `imaging` block")
    verb.add_argument("--atlas", metavar="NIFTI", help="FOLDER: the encoder's atlas, if it has one of its own")
    verb.add_argument(
        "--brain-mask", default="deepbet", metavar="METHOD", help="FOLDER: for scans with skull [deepbet]"
    )
    verb.add_argument("--keep", type=Path, metavar="DIR", help="FOLDER: keep the volumes here, to go on after a stop")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=run_embed)


def _add_embed_shifted(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "embed-shifted",
        help="embed the volumes of a cohort as other scanners would have made them, for the stress tests",
        description="Every volume under noise, bias field, blur and gamma at severities 1, 2, 3, and with every subset of\n"
        "its sequences, z-scored again and embedded: one row a scan and shift.",
        epilog="example: neurorad embed-shifted --encoder results/encoders/byol-dro-s0\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv --shifts noise missing --severities 2\n"
        "         --out results/embeddings/byol-dro-s0/stress/ucsf-pdgm.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", metavar="FOLDER", help="folder of an encoder, or its name in results/encoders")
    source.add_argument("--random", type=natural, metavar="SEED", help="untrained weights of this seed; needs --like")
    verb.add_argument("--like", metavar="FOLDER", help="encoder whose architecture --random takes")
    verb.add_argument("--volumes", required=True, type=Path, metavar="TSV", help="volumes.tsv of a cohort")
    kinds = ["noise", "bias", "blur", "gamma", "missing"]
    verb.add_argument("--shifts", nargs="+", default=kinds, metavar="KIND", help=f"{', '.join(kinds)} [all]")
    verb.add_argument("--severities", nargs="+", type=positive, default=[1, 2, 3], metavar="N", help="1, 2, 3 [all]")
    verb.add_argument("--seed", type=natural, default=0, metavar="N", help="of noise and bias fields [0]")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=run_embed_shifted)


TOGETHER = "--random and --like belong together: a seed, and the encoder whose architecture is taken"


def run_embed(args: argparse.Namespace) -> None:
    """One row of numbers a scan, of a cohort's volumes or of folders of scans."""
    if (args.random is None) != (args.like is None):
        raise InputError(TOGETHER)
    if (args.rival is None) != (args.settings is None):
        raise InputError("--rival and --settings belong together: a name, and its block in the config")
    if (args.volumes is None) == (not args.folders):
        raise InputError("give either --volumes or folders of scans")
    if args.folders:
        _embed_folders(args)
    else:
        embed_cohort(args)


def _embed_folders(args: argparse.Namespace) -> None:
    """Make volumes of the folders by the contract of the encoder, then embed those."""
    from neurorad.encoder import load_card
    from neurorad.scan_folders import settings_of, volumes_of

    if args.clinical is not None:
        raise InputError("--clinical needs no scans; give --volumes")

    def settings() -> dict[str, Any]:
        if args.rival is not None:
            if args.imaging is None:
                raise InputError("--rival with folders of scans needs --imaging: how volumes are to be made")
            return json.loads(args.imaging)
        card = load_card(encoder_folder(args.encoder or args.like))
        return settings_of(card["preprocessing"], args.atlas, args.brain_mask)

    with tempfile.TemporaryDirectory() as scratch:
        args.volumes = volumes_of(args.folders, settings, args.keep or Path(scratch), args.threads, args.device)
        embed_cohort(args)


def embed_cohort(args: argparse.Namespace) -> None:
    """The usable rows of `args.volumes` through the encoder or rival."""
    if args.clinical is not None:
        _embed_clinical(args)
    elif args.rival is not None:
        _embed_rival(args)
    else:
        _embed_volumes(args)


def encoder_folder(name: str) -> Path:
    """A folder as it is, or that of an encoder's name.

    Raises:
        InputError: neither; the message lists the names there are.
    """
    for folder in (Path(name), ENCODERS / name):
        if folder.is_dir():
            return folder
    known = sorted(path.parent.name for path in ENCODERS.glob("*/card.json"))
    raise InputError(f"{name}: neither a folder nor an encoder in {ENCODERS} ({', '.join(known) or 'which has none'})")


def _loaded(args: argparse.Namespace) -> tuple[Any, dict[str, Any], Any]:
    """Encoder, its card, and the device."""
    import torch

    from neurorad.encoder import architecture_of, choose_device, initialised, load_card, load_encoder

    torch.set_num_threads(args.threads)
    # What torch.use_deterministic_algorithms(True) sets, without its import of the compiler (1.5 s).
    torch.set_deterministic_debug_mode("error")
    if args.encoder is not None:
        encoder, card = load_encoder(encoder_folder(args.encoder))
    else:
        card = load_card(encoder_folder(args.like))
        encoder = initialised(architecture_of(card), args.random)
    return encoder, card, choose_device(args.device)


def _embed_volumes(args: argparse.Namespace) -> None:
    from neurorad.embedding.embed import embed
    from neurorad.embedding.scans import read_usable
    from neurorad.files import write_table

    encoder, card, device = _loaded(args)
    write_table(args.out, embed(encoder, read_usable(args.volumes), card["preprocessing"], device))


def run_embed_shifted(args: argparse.Namespace) -> None:
    """Embeddings of volumes that were made noisier, blurred, or lost a sequence: a row a scan, shift and severity."""
    from neurorad.embedding.scans import read_usable
    from neurorad.embedding.stress import embed_shifted, shifts
    from neurorad.files import write_table

    if (args.random is None) != (args.like is None):
        raise InputError(TOGETHER)
    wanted = list(shifts(args.shifts, args.severities))
    encoder, card, device = _loaded(args)
    table = read_usable(args.volumes)
    write_table(args.out, embed_shifted(encoder, table, card["preprocessing"], device, wanted, args.seed))


def _embed_rival(args: argparse.Namespace) -> None:
    from neurorad.embedding.build import built
    from neurorad.embedding.scans import embed_each, one_contract, read_usable
    from neurorad.embedding.statistics import RADIOMICS
    from neurorad.files import write_table

    try:
        settings = json.loads(args.settings)
    except ValueError as problem:
        raise InputError(f"--settings: no valid JSON ({problem})") from problem
    if args.rival not in ("intensity", "radiomics"):
        import torch

        torch.set_num_threads(args.threads)
    table = read_usable(args.volumes)
    contract = one_contract(table)
    made = embed_each(table, contract, built(args.rival, settings, contract, args.device), width=len(RADIOMICS))
    if len(made) < len(table):
        print(f"{len(table) - len(made)} of {len(table)} scans left out: no tumour mask", file=sys.stderr)
    write_table(args.out, made)


def _embed_clinical(args: argparse.Namespace) -> None:
    from neurorad.embedding.scans import clinical, read_usable
    from neurorad.files import read_table, write_table

    if not args.clinical.is_file():
        raise InputError(f"{args.clinical}: no such file; patients.tsv is made by the cohorts stage")
    table = read_usable(args.volumes)
    embeddings = clinical(table, read_table(args.clinical), args.full)
    print(f"{len(table) - len(embeddings)} of {len(table)} scans left out: age or sex unknown", file=sys.stderr)
    write_table(args.out, embeddings)


def run_ensemble(args: argparse.Namespace) -> None:
    """Join the embeddings of several encoders of the same scans, each at length 1."""
    from neurorad.embedding.scans import IDENTITY, ensemble
    from neurorad.files import read_table, write_table

    tables = []
    for path in args.embeddings:
        if not path.is_file():
            raise InputError(f"--embeddings {path}: no such file; it is made by `neurorad embed`")
        table = read_table(path)
        missing = [column for column in IDENTITY if column not in table]
        if missing:
            raise InputError(f"--embeddings {path}: lacks the columns {', '.join(missing)}")
        tables.append(table)
    write_table(args.out, ensemble(tables))


def run_export(args: argparse.Namespace) -> None:
    """An encoder as a folder for model hubs and as ONNX, both compared with what it computes here."""
    from neurorad.embedding.export import ONNX, export_folder, export_onnx
    from neurorad.encoder import load_encoder

    encoder, card = load_encoder(encoder_folder(args.encoder))
    export_folder(encoder, card, args.out)
    print(f"{args.out}: read back with the same embeddings")
    export_onnx(encoder, card, args.out / ONNX)
    print(f"{args.out / ONNX}: read back with the same embeddings")


def run_finetune(args: argparse.Namespace) -> None:
    """Out-of-fold logits of networks trained end to end on one endpoint."""
    import pandas as pd
    import torch

    from neurorad.embedding.finetune import Recipe, finetune
    from neurorad.embedding.scans import loader, read_usable
    from neurorad.encoder import architecture_of, choose_device, initialised, load_card, load_encoder
    from neurorad.files import read_table, write_table

    torch.set_num_threads(args.threads)
    if args.encoder is not None:
        start, card = load_encoder(encoder_folder(args.encoder))
    else:
        card = load_card(encoder_folder(args.scratch))
        start = initialised(architecture_of(card), args.seed)
    if not args.folds.is_file():
        raise InputError(f"--folds {args.folds}: no such file; it is made by `neurorad folds`")
    folds = read_table(args.folds)
    here = folds["protocol"].isin(args.protocols) & (folds["repeat"] < args.repeats)
    folds = folds[here & (folds["endpoint"] == args.endpoint)]
    recipe = Recipe(**json.loads(args.recipe))
    load = loader(pd.concat([read_usable(path) for path in args.volumes]), card["preprocessing"])
    parts = args.out.with_suffix(".parts")
    made = finetune(start, folds, load, recipe, args.seed, choose_device(args.device), parts)
    write_table(args.out, made)
    networks = len(made.loc[made["part"] == "test", ["protocol", "site", "repeat", "fold"]].drop_duplicates())
    print(f"{args.endpoint}: {networks} networks trained", file=sys.stderr)


def run_rivals(args: argparse.Namespace) -> None:
    """Which rivals the study has, which it lacks, and why."""
    import pandas as pd

    from neurorad.files import write_table
    from neurorad.rivals import absent, frozen_names, pretrained_elsewhere

    rivals = json.loads(args.settings)
    there = [(name, "yes" if pretrained_elsewhere(name, rivals) else "no", "") for name in frozen_names(rivals)]
    rows = [*there, *((name, "", reason) for name, reason in absent(rivals).items())]
    write_table(args.out, pd.DataFrame(rows, columns=["encoder", "pretrained_elsewhere", "reason"]))
