"""`neurorad embed`, `ensemble`."""

import argparse
import sys
from pathlib import Path

from neurorad.problems import InputError


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "embed",
        help="turn the volumes of a cohort into embeddings, one row a scan",
        description="Embeds whole volumes with a pretrained encoder, or makes one of two baselines: an untrained "
        "encoder of the same architecture, or age and sex alone.",
        epilog="example: neurorad embed --encoder results/encoders/byol-dro-s0\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv\n"
        "         --out results/embeddings/byol-dro-s0/ucsf-pdgm.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", type=Path, metavar="FOLDER", help="folder made by `neurorad pretrain`")
    source.add_argument("--random", type=int, metavar="SEED", help="untrained weights of this seed; needs --like")
    source.add_argument("--clinical", type=Path, metavar="TSV", help="patients.tsv: embed age (e0) and sex (e1, 1 = M)")
    verb.add_argument("--like", type=Path, metavar="FOLDER", help="encoder whose architecture --random takes")
    verb.add_argument("--volumes", required=True, type=Path, metavar="TSV", help="volumes.tsv of the cohort")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=run_embed)

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


def run_embed(args: argparse.Namespace) -> None:
    if (args.random is None) != (args.like is None):
        raise InputError("--random and --like belong together: a seed, and the encoder whose architecture is taken")
    if args.clinical is not None:
        _embed_clinical(args)
    else:
        _embed_volumes(args)


def _embed_volumes(args: argparse.Namespace) -> None:
    import torch

    from neurorad.embedding.embed import embed, read_usable
    from neurorad.encoder import architecture_of, choose_device, initialised, load_card, load_encoder
    from neurorad.files import write_table

    torch.set_num_threads(args.threads)
    # What torch.use_deterministic_algorithms(True) sets, without its import of the compiler (1.5 s).
    torch.set_deterministic_debug_mode("error")
    if args.encoder is not None:
        encoder, card = load_encoder(args.encoder)
    else:
        card = load_card(args.like)
        encoder = initialised(architecture_of(card), args.random)
    table = read_usable(args.volumes)
    write_table(args.out, embed(encoder, table, card["preprocessing"], choose_device(args.device)))


def _embed_clinical(args: argparse.Namespace) -> None:
    from neurorad.embedding.embed import clinical, read_usable
    from neurorad.files import read_table, write_table

    if not args.clinical.is_file():
        raise InputError(f"{args.clinical}: no such file; patients.tsv is made by the cohorts stage")
    table = read_usable(args.volumes)
    embeddings = clinical(table, read_table(args.clinical))
    print(f"{len(table) - len(embeddings)} of {len(table)} scans left out: age or sex unknown", file=sys.stderr)
    write_table(args.out, embeddings)


def run_ensemble(args: argparse.Namespace) -> None:
    from neurorad.embedding.embed import IDENTITY, ensemble
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
