"""`neurorad explain`."""

import argparse
from pathlib import Path

PROTOCOL = "within_site"
"""Whose out-of-fold scores choose the patients: the protocol of the paper's figures."""


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "explain",
        help="Grad-CAM maps of a probe, and their agreement with the tumour",
        description="Explains the probe of one endpoint on one encoder. The patients are those with the highest and "
        "the lowest out-of-fold scores and a known label, in equal shares. Writes maps.npz and agreement.parquet.",
        epilog="example: neurorad explain --encoder results/encoders/byol-dro-s0 --endpoint idh1\n"
        "         --coefficients results/evaluation/probe/byol-dro-s0.coefficients.parquet\n"
        "         --predictions results/evaluation/probe/byol-dro-s0.predictions.parquet\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv --out results/explanation/byol-dro-s0/idh1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "--encoder", required=True, type=Path, metavar="FOLDER", help="folder made by `neurorad pretrain`"
    )
    verb.add_argument("--coefficients", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--predictions", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--volumes", required=True, type=Path, nargs="+", metavar="TSV", help="of the test cohorts")
    verb.add_argument("--endpoint", required=True, help="e.g. idh1")
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.add_argument("--patients", type=int, default=4, metavar="N", help="even; half highest, half lowest [4]")
    verb.add_argument("--layer", default="layer3", choices=["layer2", "layer3", "layer4"])
    verb.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
    verb.set_defaults(run=run_explain)


def run_explain(args: argparse.Namespace) -> None:
    import numpy as np
    import pandas as pd
    import torch

    from neurorad.encoder import load_encoder
    from neurorad.endpoints import endpoints
    from neurorad.explanation.explain import explain, probe_weights, unexplained
    from neurorad.explanation.selection import chosen_scans
    from neurorad.files import atomic, read_table, write_table
    from neurorad.problems import InputError

    if args.endpoint not in endpoints():
        raise InputError(f"--endpoint {args.endpoint!r} is not declared; known: {', '.join(endpoints())}")
    torch.set_num_threads(args.threads)
    # What torch.use_deterministic_algorithms(True) sets, without its import of the compiler (1.5 s).
    torch.set_deterministic_debug_mode("error")
    encoder, card = load_encoder(args.encoder)
    name = args.encoder.resolve().name
    coefficients, predictions = read_table(args.coefficients), read_table(args.predictions)
    mine = predictions[(predictions["endpoint"] == args.endpoint) & (predictions["protocol"] == PROTOCOL)]
    if set(mine["encoder"]) - {name}:
        raise InputError(f"{args.predictions}: predictions of {', '.join(sorted(set(mine['encoder'])))}, not of {name}")
    if args.endpoint not in set(coefficients["endpoint"]) or mine.empty:
        arrays, agreement = unexplained(f"not estimable: no probe of {args.endpoint} could be fitted")
    else:
        weights = probe_weights(coefficients, args.endpoint, encoder.dimension)
        volumes = pd.concat([read_table(path) for path in args.volumes], ignore_index=True)
        volumes = volumes.loc[volumes["status"] == "ok", ["cohort", "scan", "volume"]]
        chosen = chosen_scans(mine, volumes, args.patients).merge(volumes, on=["cohort", "scan"], validate="one_to_one")
        arrays, agreement = explain(encoder, args.layer, weights, chosen, card["preprocessing"])

    what = {"encoder": name, "endpoint": args.endpoint, "layer": args.layer}
    with atomic(args.out / "maps.npz") as temporary:
        np.savez_compressed(temporary, **{key: np.array(value) for key, value in what.items()}, **arrays)
    write_table(args.out / "agreement.parquet", agreement.assign(**what)[[*what, *agreement.columns]])
