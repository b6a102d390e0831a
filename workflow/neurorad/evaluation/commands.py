"""`neurorad folds`, `probe`, `survival`, `invariance`, `stress`, `compare`, `clean`, `reliability`."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from neurorad.evaluation.given import read_all, read_embeddings, read_folds, read_patients, read_stamp
from neurorad.flag_values import natural, positive

TABLES: dict[str, Any] = {"nargs": "+", "type": Path, "metavar": "PARQUET"}
FLAGS: dict[str, dict[str, Any]] = {
    "encoder": {"metavar": "NAME", "help": "such as byol-dro-s0, random-s0 or clinical"},
    "embeddings": {**TABLES, "help": "one a test cohort"},
    "patients": {"nargs": "+", "type": Path, "metavar": "TSV", "help": "of the test cohorts"},
    "volumes": {"nargs": "+", "type": Path, "metavar": "TSV", "help": "of the same cohorts"},
    "test-patients": {"type": Path, "metavar": "TSV", "help": "made by the leakage audit"},
    "folds": {"type": Path, "metavar": "PARQUET", "help": "made by `neurorad folds`"},
    "leakage": {"type": Path, "metavar": "JSON", "help": "leakage_audit.json, for the stamp"},
    "out": {"type": Path, "metavar": "PARQUET", "help": "tidy rows"},
    "found": {"type": Path, "nargs": "+", "metavar": "PARQUET", "help": "tidy rows of probe and survival"},
    "predictions": {"type": Path, "metavar": "PARQUET", "help": "out-of-fold scores or risks, to be written"},
    "coefficients": {"type": Path, "metavar": "PARQUET", "help": "each model as one linear layer"},
    "curves": {"type": Path, "metavar": "PARQUET", "help": "Kaplan-Meier curves"},
    "coordinates": {"type": Path, "metavar": "PARQUET", "help": "t-SNE, one row a patient"},
    "stressed": {**TABLES, "help": "made by `neurorad embed-shifted`, one a test cohort"},
}
"""What a flag is, whichever verb has it."""
JUDGED = ("folds", "leakage", "out")
ELSEWHERE = {"pretrained-elsewhere": {"action": "store_true", "help": "stamp: the encoder may know test patients"}}
CHANGES = {"nargs": "+", "default": [], "metavar": "CHANGE", "choices": ["progression", "radiotherapy", "chemotherapy"]}
CHANGES |= {"help": "covariates of a time-varying Cox model: progression, radiotherapy, chemotherapy"}
RANDOM = {
    "seed": {"type": natural, "metavar": "N", "default": 0, "help": "[0]"},
    "bootstrap": {"type": positive, "metavar": "B", "default": 500, "help": "patient bootstrap samples [500]"},
}


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    _add(
        verbs,
        "folds",
        run_folds,
        "draw the evaluation folds once, for every encoder",
        "One scan a patient (the earliest session with a usable volume), then repeated stratified folds of every\n"
        "endpoint: within each site, all sites combined, and leave-one-site-out; survival and progression too.",
        "neurorad folds --patients results/cohorts/*/patients.tsv --volumes results/volumes/*/volumes.tsv\n"
        "         --out results/evaluation/folds.parquet",
        ("patients", "volumes", "out"),
        {
            "folds": {"type": positive, "default": 5, "metavar": "K", "help": "folds a repeat [5]"},
            "repeats": {"type": positive, "default": 3, "metavar": "R", "help": "repeats with new folds [3]"},
            "seed": RANDOM["seed"],
            "decisions": {"default": "{}", "metavar": "JSON", "help": 'cut-offs: {"ki67_cutoff": 20} [{}]'},
            "counts": {"type": Path, "metavar": "TSV", "help": "patients evaluated, unlabelled, labelled by endpoint"},
        },
    )
    probed = _add(
        verbs,
        "probe",
        run_probe,
        "linear probes of one encoder, every endpoint and protocol",
        "Standardisation, PCA, penalty and threshold are learned inside the training folds. AUC has a DeLong interval,\n"
        "the other metrics a patient bootstrap. What cannot be estimated is a row that says why. With --clinical, what\n"
        "the image adds to age and sex; with --robust, the same probe under Group-DRO over class x site.",
        "neurorad probe --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out rows.parquet --predictions predictions.parquet --coefficients layers.parquet",
        ("encoder", *JUDGED, "predictions", "coefficients"),
        {
            **RANDOM,
            **ELSEWHERE,
            "clinical": {**TABLES, "help": "age and sex, one a test cohort"},
            "robust": {"action": "store_true", "help": "the probe under Group-DRO over class x site as well"},
            "combat": {"action": "store_true", "help": "harmonise sites by ComBat of the training folds first"},
        },
    )
    source = probed.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", **FLAGS["embeddings"])
    source.add_argument("--scores", **TABLES, help="made by `neurorad finetune`")
    _add(
        verbs,
        "survival",
        run_survival,
        "survival and progression from one encoder: c-index, hazard ratios, Kaplan-Meier curves",
        "IDH-wildtype glioblastoma only. PCA (components <= events / 10) and ridge Cox inside the training folds; risk is\n"
        "out of fold and its groups are cut at the training median. With --time-varying, what happened on the way beside it.",
        "neurorad survival --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --folds results/evaluation/folds.parquet\n"
        "         --leakage results/cohorts/leakage_audit.json --out rows.parquet\n"
        "         --predictions predictions.parquet --coefficients layers.parquet --curves curves.parquet",
        ("encoder", "embeddings", "patients", *JUDGED, "predictions", "coefficients", "curves"),
        {
            **RANDOM,
            **ELSEWHERE,
            "time-varying": CHANGES,
        },
    )
    _add(
        verbs,
        "invariance",
        run_invariance,
        "how much of the site one encoder remembers",
        "Silhouette by site, site probe with a permutation null, same-site neighbours, MMD, robustness index, also within\n"
        "glioblastoma alone and by scanner vendor, field strength and protocol; beside them effective rank and spread, as\n"
        "a collapsed encoder would look invariant. t-SNE coordinates for the figure.",
        "neurorad invariance --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --folds results/evaluation/folds.parquet\n"
        "         --leakage results/cohorts/leakage_audit.json --out rows.parquet --coordinates coordinates.parquet",
        ("encoder", "embeddings", "patients", *JUDGED, "coordinates"),
        {**RANDOM, **ELSEWHERE},
    )
    _add(
        verbs,
        "stress",
        run_stress,
        "what is left of one encoder's probes when the volumes change",
        "The probes of the clean training folds, on the patients they never saw, embedded from shifted volumes (noise,\n"
        "bias field, blur, gamma, missing sequences): how far AUC and balanced accuracy drop, over all and at each site.",
        "neurorad stress --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --stressed results/embeddings/byol-dro-s0/stress/*.parquet\n"
        "         --coefficients results/evaluation/probe/byol-dro-s0.coefficients.parquet\n"
        "         --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/stress/byol-dro-s0.parquet",
        ("encoder", "embeddings", "stressed", "coefficients", *JUDGED),
        {**RANDOM, **ELSEWHERE},
    )
    _add(
        verbs,
        "compare",
        run_compare,
        "+DRO against its base: paired differences with intervals and Holm-adjusted p",
        "The primary test is Nadeau and Bengio's corrected t over folds, paired DeLong at a site never trained on; patient\n"
        "bootstrap and the paper's own rule (Shapiro-Wilk, then paired t or Wilcoxon) stand beside it as descriptive rows.\n"
        "Its p is never below that of either encoder knowing anything (permutation tests of --found).\n"
        "Give predictions, and rows, of probe and survival together.",
        "neurorad compare --predictions results/evaluation/{probe,survival}/*-s0.predictions.parquet\n"
        "         --found results/evaluation/{probe,survival}/*-s0.parquet\n"
        "         --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/comparison.parquet",
        (*JUDGED, "found"),
        {**RANDOM, "predictions": {**TABLES, "required": True}},
    )
    _add(
        verbs,
        "clean",
        run_clean,
        "AUC, balanced accuracy and c-index of all test patients and of the provably clean ones",
        "Counts the same out-of-fold scores again on the patients of whom the leakage audit proved that no encoder was\n"
        "pretrained on them. Give predictions of probe and survival together.",
        "neurorad clean --predictions results/evaluation/{probe,survival}/*.predictions.parquet\n"
        "         --test-patients results/cohorts/test_patients.tsv --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/clean.parquet",
        ("test-patients", "leakage", "out"),
        {**RANDOM, "predictions": {**TABLES, "required": True}},
    )
    _add(
        verbs,
        "reliability",
        run_reliability,
        "may a probe be acted on, and for whom: calibration, utility, conformal sets, subgroups",
        "Decision and calibration curves, conformal sets by class with their coverage at each site, the reject option,\n"
        "and subgroups by sex, age, grade, site, vendor and field strength; fewer than 10 patients are suppressed.",
        "neurorad reliability --predictions results/evaluation/probe/*.predictions.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/reliability.parquet",
        ("patients", "leakage", "out"),
        {**RANDOM, "predictions": {**TABLES, "required": True}},
    )


def _add(
    verbs: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    description: str,
    example: str,
    required: Iterable[str],
    others: dict[str, dict[str, Any]],
) -> argparse.ArgumentParser:
    """A verb with the `required` ones of `FLAGS`, and others of its own."""
    verb = verbs.add_parser(
        name,
        help=text,
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag in required:
        verb.add_argument(f"--{flag}", required=True, **FLAGS[flag])
    for flag, options in others.items():
        verb.add_argument(f"--{flag}", **options)
    verb.set_defaults(run=run)
    return verb


OUTSIDE = "LEAKAGE NOT EXCLUDED: {} was pretrained outside this study, on data that may hold test patients"


def _stamp_of(args: argparse.Namespace) -> str:
    stamp = read_stamp(args.leakage)
    return "; ".join(filter(None, [stamp, OUTSIDE.format(args.encoder)])) if args.pretrained_elsewhere else stamp


def _check_replicates(number: int) -> None:
    from neurorad.problems import InputError

    if number < 20:
        raise InputError(f"--bootstrap {number}: needs at least 20 samples for an interval")


def run_folds(args: argparse.Namespace) -> None:
    """Draw the folds of every endpoint and protocol, once for all encoders."""
    import pandas as pd

    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import accounting, analysis_set, fold_table
    from neurorad.files import write_table

    volumes = read_all(args.volumes, "--volumes", ("cohort", "scan", "patient", "session", "status"))
    chosen = analysis_set(pd.concat(volumes, ignore_index=True))
    patients, known = read_patients(args.patients), endpoints(json.loads(args.decisions))
    drawn = fold_table(chosen, patients, known, args.folds, args.repeats, args.seed)
    counts = accounting(chosen, patients, known, drawn)
    if args.counts:
        write_table(args.counts, counts)
    write_table(args.out, drawn)


def _judged(args: argparse.Namespace) -> tuple[str, Any, Any]:
    """Stamp, folds and embeddings: what every verb of one encoder begins with."""
    _check_replicates(args.bootstrap)
    return _stamp_of(args), read_folds(args.folds), read_embeddings(args.embeddings, args.encoder)


def _known(folds: Any) -> Any:
    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import endpoints_of

    return endpoints_of(folds, endpoints())


def _write(
    path: Path, rows: Any, stamp: str, encoder: str | None = None, columns: dict[str, Any] | None = None
) -> None:
    """Tidy rows; `columns` are there even where no row has them."""
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    table = tidy(rows, stamp, encoder)
    write_table(path, table.assign(**{name: value for name, value in (columns or {}).items() if name not in table}))


def run_probe(args: argparse.Namespace) -> None:
    """Probe one encoder: rows of metrics, out-of-fold predictions, and each model as a linear layer."""
    import pandas as pd

    from neurorad.evaluation.probe import probe
    from neurorad.evaluation.tuned import NEEDED, judge
    from neurorad.files import write_table

    if args.scores:
        _check_replicates(args.bootstrap)
        stamp, folds = _stamp_of(args), read_folds(args.folds)
        scores = pd.concat(read_all(args.scores, "--scores", NEEDED), ignore_index=True)
        rows, predictions = judge(scores, folds, _known(folds), args.encoder, args.seed, args.bootstrap)
        coefficients = pd.DataFrame(columns=["endpoint", "site", "intercept"])
    else:
        stamp, folds, embeddings = _judged(args)
        clinical = read_embeddings(args.clinical, "clinical", "--clinical") if args.clinical else None
        rows, predictions, coefficients = probe(
            embeddings, folds, _known(folds), args.seed, args.bootstrap, clinical, args.robust, args.combat
        )
    write_table(args.predictions, predictions)
    write_table(args.coefficients, coefficients)
    _write(args.out, rows, stamp, args.encoder)


def run_survival(args: argparse.Namespace) -> None:
    """Survival and progression from one encoder: rows, predictions, layers and Kaplan-Meier curves."""
    from neurorad.evaluation.survival import survival
    from neurorad.files import write_table

    stamp, folds, embeddings = _judged(args)
    patients = read_patients(args.patients)
    rows, predictions, curves, coefficients = survival(
        embeddings, folds, patients, _known(folds), args.seed, args.bootstrap, args.time_varying
    )
    write_table(args.predictions, predictions)
    write_table(args.curves, curves)
    write_table(args.coefficients, coefficients)
    _write(args.out, rows, stamp, args.encoder)


def run_invariance(args: argparse.Namespace) -> None:
    """How well one encoder tells sites apart, and its embeddings in two dimensions."""
    from neurorad.evaluation.invariance import invariance
    from neurorad.files import write_table

    stamp, folds, embeddings = _judged(args)
    rows, places = invariance(embeddings, folds, read_patients(args.patients), args.seed, args.bootstrap)
    write_table(args.coordinates, places)
    _write(args.out, rows, stamp, args.encoder)


def run_stress(args: argparse.Namespace) -> None:
    """How the probes of one encoder do on shifted volumes."""
    from neurorad.evaluation.stress import EXTRA, by_shift, stress_rows

    stamp, folds, embeddings = _judged(args)
    stressed = read_all(args.stressed, "--stressed", ("cohort", "scan", "patient", "shift", "level"))
    (coefficients,) = read_all([args.coefficients], "--coefficients", ("endpoint", "site", "intercept"))
    shifted = by_shift(stressed, args.encoder)
    rows = stress_rows(embeddings, shifted, coefficients, folds, _known(folds), args.seed, args.bootstrap)
    _write(args.out, rows, stamp, args.encoder, EXTRA)


def run_compare(args: argparse.Namespace) -> None:
    """Paired differences between objectives, and their tests."""
    import pandas as pd

    from neurorad.evaluation.comparison import compare

    _check_replicates(args.bootstrap)
    stamp, folds = read_stamp(args.leakage), read_folds(args.folds)
    needed = ("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan")
    predictions = read_all(args.predictions, "--predictions", needed)
    found = pd.concat(read_all(args.found, "--found", ("encoder", "endpoint", "protocol", "site", "metric")))
    _write(args.out, compare(predictions, folds, _known(folds), args.seed, args.bootstrap, found), stamp)


def run_clean(args: argparse.Namespace) -> None:
    """The metrics again, on the patients who are proven not to have been pretrained on."""
    from neurorad.evaluation.clean import clean_rows

    _check_replicates(args.bootstrap)
    stamp = read_stamp(args.leakage)
    predictions = read_all(args.predictions, "--predictions", ("encoder", "endpoint", "protocol", "site", "patient"))
    (test_patients,) = read_all([args.test_patients], "--test-patients", ("cohort", "patient", "status"))
    rows = clean_rows(predictions, test_patients, args.seed, args.bootstrap)
    _write(args.out, rows, stamp, columns={"patients": ""})


def run_reliability(args: argparse.Namespace) -> None:
    """Calibration, decision curves, conformal sets and subgroups of every encoder."""
    from neurorad.evaluation.reliability import EXTRA, reliability

    _check_replicates(args.bootstrap)
    stamp, patients = read_stamp(args.leakage), read_patients(args.patients)
    needed = ("encoder", "endpoint", "protocol", "site", "cohort", "patient", "label")
    scores = ("score", "margin", "probability", "p_negative", "p_positive")
    predictions = read_all(args.predictions, "--predictions", (*needed, *scores))
    _write(args.out, reliability(predictions, patients, args.seed, args.bootstrap), stamp, columns=EXTRA)
