"""`neurorad explain`."""

import argparse
from pathlib import Path
from typing import Any

PROTOCOL = "within_site"
"""Whose out-of-fold scores choose the patients: the protocol of the paper's figures."""


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "explain",
        help="Grad-CAM maps of a probe, and their agreement with the tumour",
        description="Explains the probe of one endpoint on one encoder. The patients are those with the highest and "
        "the lowest out-of-fold scores and a known label, in equal shares. Scans with a tumour mask, chosen by a hash of "
        "their names, then show what the maps are worth. Writes maps.npz, agreement.parquet, check_scans.parquet, "
        "checks.parquet and viewer.html.",
        epilog="example: neurorad explain --encoder results/encoders/byol-dro-s0 --endpoint idh1\n"
        "         --coefficients results/evaluation/probe/byol-dro-s0.coefficients.parquet\n"
        "         --predictions results/evaluation/probe/byol-dro-s0.predictions.parquet\n"
        "         --embeddings results/embeddings/byol-dro-s0/ucsf-pdgm.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --volumes results/volumes/ucsf-pdgm/volumes.tsv --out results/explanation/byol-dro-s0/idh1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "--encoder", required=True, type=Path, metavar="FOLDER", help="folder made by `neurorad pretrain`"
    )
    verb.add_argument("--coefficients", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--predictions", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--volumes", required=True, type=Path, nargs="+", metavar="TSV", help="of the test cohorts")
    verb.add_argument("--embeddings", required=True, type=Path, nargs="+", metavar="PARQUET", help="of this encoder")
    verb.add_argument("--leakage", required=True, type=Path, metavar="JSON", help="leakage_audit.json, for the stamp")
    verb.add_argument(
        "--twin",
        action="append",
        nargs=2,
        type=Path,
        default=[],
        metavar=("FOLDER", "PARQUET"),
        help="encoder that differs in its seed alone, and its coefficients: are the maps repeatable? May be given again",
    )
    verb.add_argument("--endpoint", required=True, help="e.g. idh1")
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.add_argument("--patients", type=int, default=4, metavar="N", help="even; half highest, half lowest [4]")
    verb.add_argument("--layer", default="layer3", choices=["layer2", "layer3", "layer4"])
    verb.add_argument("--checked", type=int, default=500, metavar="N", help="scans with a mask to check maps on [500]")
    verb.add_argument("--close", type=int, default=20, metavar="N", help="of these, looked at closely [20]")
    verb.add_argument("--window", type=int, default=16, metavar="VOXELS", help="edge of an occluding cube [16]")
    verb.add_argument("--steps", type=int, default=20, metavar="N", help="parts of deletion and insertion [20]")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
    verb.set_defaults(run=run_explain)


def run_explain(args: argparse.Namespace) -> None:
    import numpy as np
    import pandas as pd
    import torch

    from neurorad.encoder import load_encoder
    from neurorad.endpoints import endpoints
    from neurorad.explanation.checks import Effort, Probe, check_scans, summarise
    from neurorad.explanation.explain import explain, probe_weights, unexplained
    from neurorad.explanation.selection import chosen_scans, masked_scans
    from neurorad.explanation.viewer import page, viewed
    from neurorad.files import atomic, read_json, read_table, write_table, write_text
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
        scans, shown = pd.DataFrame(columns=["cohort", "patient", "scan", "map", "metric", "value"]), []
    else:
        probe = Probe(encoder, args.layer, probe_weights(coefficients, args.endpoint, encoder.dimension))
        volumes = pd.concat([read_table(path) for path in args.volumes], ignore_index=True)
        volumes = volumes.loc[volumes["status"] == "ok", ["cohort", "scan", "volume"]]
        chosen = chosen_scans(mine, volumes, args.patients).merge(volumes, on=["cohort", "scan"], validate="one_to_one")
        arrays, agreement = explain(encoder, args.layer, probe.weights, chosen, card["preprocessing"])
        shown = list(viewed(arrays, chosen, agreement, card["preprocessing"]))
        embeddings = pd.concat([read_table(path) for path in args.embeddings], ignore_index=True)
        others = _permuted(probe, embeddings, mine, args.seed) | _twins(args)
        effort = Effort(args.checked, args.close, args.window, args.steps)
        scans = check_scans(probe, others, masked_scans(mine, volumes), card["preprocessing"], effort, args.seed)

    what = {"encoder": name, "endpoint": args.endpoint, "layer": args.layer}
    with atomic(args.out / "maps.npz") as temporary:
        np.savez_compressed(temporary, **{key: np.array(value) for key, value in what.items()}, **arrays)
    write_table(args.out / "agreement.parquet", agreement.assign(**what)[[*what, *agreement.columns]])
    write_table(args.out / "check_scans.parquet", scans.assign(**what)[[*what, *scans.columns]])
    stamp = read_json(args.leakage)["stamp"]
    title = f"{endpoints()[args.endpoint].label}: where {name} looked ({args.layer}, Grad-CAM)"
    rule = (
        f"The {len(shown)} patients with the highest and the lowest out-of-fold scores among those with a known label."
    )
    write_text(args.out / "viewer.html", page(title, rule, stamp, shown))
    write_table(args.out / "checks.parquet", summarise(scans, name, args.endpoint, stamp, args.seed))


def _permuted(probe: Any, embeddings: Any, predictions: Any, seed: int) -> dict[str, Any]:
    """The same simple probe fitted on true and on shuffled labels: Adebayo's second test."""
    import numpy as np

    from neurorad.explanation.checks import Probe
    from neurorad.explanation.sanity import permuted_probe
    from neurorad.seeds import generator

    known = predictions.dropna(subset=["label"]).drop_duplicates(["cohort", "scan"])[["cohort", "scan", "label"]]
    rows = embeddings.merge(known, on=["cohort", "scan"], validate="one_to_one")
    labels = rows["label"].to_numpy(int)
    if np.ptp(labels) == 0:
        return {}
    features = rows[[f"e{i}" for i in range(probe.encoder.dimension)]].to_numpy(float)
    true, shuffled = permuted_probe(features, labels, generator(seed, "permuted labels"))
    return {
        "simple_probe": Probe(probe.encoder, probe.layer, true),
        "permuted_labels": Probe(probe.encoder, probe.layer, shuffled),
    }


def _twins(args: argparse.Namespace) -> dict[str, Any]:
    from neurorad.encoder import load_encoder
    from neurorad.encoder_names import encoder_parts
    from neurorad.explanation.checks import Probe
    from neurorad.explanation.explain import probe_weights
    from neurorad.files import read_table

    found = {}
    for folder, table in args.twin:
        encoder, _ = load_encoder(folder)
        coefficients = read_table(table)
        if args.endpoint in set(coefficients["endpoint"]):
            seed = encoder_parts(folder.resolve().name)[2]
            weights = probe_weights(coefficients, args.endpoint, encoder.dimension)
            found[f"seed_{seed}"] = Probe(encoder, args.layer, weights)
    return found
