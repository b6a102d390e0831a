"""`neurorad folds`, `probe`, `survival`, `invariance`, `compare`, `clean`, `reliability`."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    _add_folds(verbs)
    _add_probe(verbs)
    _add_survival(verbs)
    _add_invariance(verbs)
    _add_compare(verbs)
    _add_clean(verbs)
    _add_reliability(verbs)


def _add(verbs: argparse._SubParsersAction, name: str, text: str, description: str, example: str) -> Any:
    return verbs.add_parser(
        name,
        help=text,
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_folds(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "folds",
        "draw the evaluation folds once, for every encoder",
        "One scan a patient (the earliest session with a usable volume), then repeated stratified folds of every\n"
        "endpoint: within each site, all sites combined, and leave-one-site-out; overall survival too.",
        "neurorad folds --patients results/cohorts/*/patients.tsv --volumes results/volumes/*/volumes.tsv\n"
        "         --out results/evaluation/folds.parquet",
    )
    verb.add_argument("--patients", required=True, nargs="+", type=Path, metavar="TSV", help="of the test cohorts")
    verb.add_argument("--volumes", required=True, nargs="+", type=Path, metavar="TSV", help="of the same cohorts")
    verb.add_argument("--folds", type=int, default=5, metavar="K", help="folds a repeat [5]")
    verb.add_argument("--repeats", type=int, default=3, metavar="R", help="repeats with new folds [3]")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    verb.add_argument("--decisions", default="{}", metavar="JSON", help='cut-offs: {"ki67_cutoff": 20} [{}]')
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.add_argument("--counts", type=Path, metavar="TSV", help="patients evaluated, unlabelled, labelled by endpoint")
    verb.set_defaults(run=run_folds)


def _add_evaluation_flags(verb: argparse.ArgumentParser, scores: bool = False) -> None:
    verb.add_argument("--encoder", required=True, metavar="NAME", help="such as byol-dro-s0, random-s0 or clinical")
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", nargs="+", type=Path, metavar="PARQUET", help="one a test cohort")
    if scores:
        source.add_argument("--scores", nargs="+", type=Path, metavar="PARQUET", help="made by `neurorad finetune`")
    verb.add_argument("--pretrained-elsewhere", action="store_true", help="stamp: the encoder may know test patients")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET", help="tidy rows")
    _add_common_flags(verb)


def _add_common_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--folds", required=True, type=Path, metavar="PARQUET", help="made by `neurorad folds`")
    verb.add_argument("--leakage", required=True, type=Path, metavar="JSON", help="leakage_audit.json, for the stamp")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    verb.add_argument("--bootstrap", type=int, default=500, metavar="B", help="patient bootstrap samples [500]")


def _add_probe(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "probe",
        "linear probes of one encoder, every endpoint and protocol",
        "Standardisation, PCA, penalty and threshold are learned inside the training folds. AUC has a DeLong interval,\n"
        "the other metrics a patient bootstrap. What cannot be estimated is a row that says why. With --clinical, what\n"
        "the image adds to age and sex; with --robust, the same probe under Group-DRO over class x site.",
        "neurorad probe --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/probe/byol-dro-s0.parquet\n"
        "         --predictions results/evaluation/probe/byol-dro-s0.predictions.parquet\n"
        "         --coefficients results/evaluation/probe/byol-dro-s0.coefficients.parquet",
    )
    _add_evaluation_flags(verb, scores=True)
    verb.add_argument("--predictions", required=True, type=Path, metavar="PARQUET", help="out-of-fold scores")
    verb.add_argument(
        "--coefficients", required=True, type=Path, metavar="PARQUET", help="one linear layer an endpoint"
    )
    verb.add_argument("--clinical", nargs="+", type=Path, metavar="PARQUET", help="age and sex, one a test cohort")
    verb.add_argument("--robust", action="store_true", help="the probe under Group-DRO over class x site as well")
    verb.add_argument("--combat", action="store_true", help="harmonise sites by ComBat of the training folds first")
    verb.set_defaults(run=run_probe)


def _add_survival(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "survival",
        "overall survival from one encoder: c-index, hazard ratios, Kaplan-Meier curves",
        "IDH-wildtype glioblastoma only. PCA (components <= events / 10) and ridge Cox inside the training folds; risk is\n"
        "out of fold and its groups are cut at the training median.",
        "neurorad survival --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --folds results/evaluation/folds.parquet\n"
        "         --leakage results/cohorts/leakage_audit.json --out results/evaluation/survival/byol-dro-s0.parquet\n"
        "         --predictions results/evaluation/survival/byol-dro-s0.predictions.parquet\n"
        "         --coefficients results/evaluation/survival/byol-dro-s0.coefficients.parquet\n"
        "         --curves results/evaluation/survival/byol-dro-s0.curves.parquet",
    )
    _add_evaluation_flags(verb)
    verb.add_argument("--patients", required=True, nargs="+", type=Path, metavar="TSV", help="of the test cohorts")
    verb.add_argument("--predictions", required=True, type=Path, metavar="PARQUET", help="out-of-fold risk")
    verb.add_argument(
        "--coefficients", required=True, type=Path, metavar="PARQUET", help="log risk as one linear layer"
    )
    verb.add_argument("--curves", required=True, type=Path, metavar="PARQUET", help="Kaplan-Meier curves")
    verb.set_defaults(run=run_survival)


def _add_invariance(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "invariance",
        "how much of the site one encoder remembers",
        "Silhouette by site, site probe with a permutation null, same-site neighbours, MMD, robustness index, also within\n"
        "glioblastoma alone and by scanner vendor and field strength; beside them effective rank and spread, as a\n"
        "collapsed encoder would look invariant. t-SNE coordinates for the figure.",
        "neurorad invariance --encoder byol-dro-s0 --embeddings results/embeddings/byol-dro-s0/*.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/invariance/byol-dro-s0.parquet\n"
        "         --coordinates results/evaluation/invariance/byol-dro-s0.coordinates.parquet",
    )
    _add_evaluation_flags(verb)
    verb.add_argument("--patients", required=True, nargs="+", type=Path, metavar="TSV", help="of the test cohorts")
    verb.add_argument("--coordinates", required=True, type=Path, metavar="PARQUET", help="t-SNE, one row a patient")
    verb.set_defaults(run=run_invariance)


def _add_compare(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "compare",
        "+DRO against its base: paired differences with intervals and Holm-adjusted p",
        "AUC: paired DeLong and patient bootstrap, and the paper's own rule (Shapiro-Wilk, then paired t or Wilcoxon)\n"
        "as labelled rows. c-index: patient bootstrap. Give predictions of probe and survival together.",
        "neurorad compare --predictions results/evaluation/{probe,survival}/*.predictions.parquet\n"
        "         --folds results/evaluation/folds.parquet --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/comparison.parquet",
    )
    verb.add_argument("--predictions", required=True, nargs="+", type=Path, metavar="PARQUET")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    _add_common_flags(verb)
    verb.set_defaults(run=run_compare)


def _add_clean(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "clean",
        "AUC, balanced accuracy and c-index of all test patients and of the provably clean ones",
        "Counts the same out-of-fold scores again on the patients of whom the leakage audit proved that no encoder was\n"
        "pretrained on them. Give predictions of probe and survival together.",
        "neurorad clean --predictions results/evaluation/{probe,survival}/*.predictions.parquet\n"
        "         --test-patients results/cohorts/test_patients.tsv --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/clean.parquet",
    )
    verb.add_argument("--predictions", required=True, nargs="+", type=Path, metavar="PARQUET")
    verb.add_argument("--test-patients", required=True, type=Path, metavar="TSV", help="made by the leakage audit")
    verb.add_argument("--leakage", required=True, type=Path, metavar="JSON", help="leakage_audit.json, for the stamp")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    verb.add_argument("--bootstrap", type=int, default=500, metavar="B", help="patient bootstrap samples [500]")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.set_defaults(run=run_clean)


def _add_reliability(verbs: argparse._SubParsersAction) -> None:
    verb = _add(
        verbs,
        "reliability",
        "may a probe be acted on, and for whom: calibration, utility, conformal sets, subgroups",
        "Decision and calibration curves, conformal sets by class with their coverage at each site, the reject option,\n"
        "and subgroups by sex, age, grade, site, vendor and field strength; fewer than 10 patients are suppressed.",
        "neurorad reliability --predictions results/evaluation/probe/*.predictions.parquet\n"
        "         --patients results/cohorts/*/patients.tsv --leakage results/cohorts/leakage_audit.json\n"
        "         --out results/evaluation/reliability.parquet",
    )
    verb.add_argument("--predictions", required=True, nargs="+", type=Path, metavar="PARQUET", help="of the probes")
    verb.add_argument("--patients", required=True, nargs="+", type=Path, metavar="TSV", help="of the test cohorts")
    verb.add_argument("--leakage", required=True, type=Path, metavar="JSON", help="leakage_audit.json, for the stamp")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    verb.add_argument("--bootstrap", type=int, default=500, metavar="B", help="patient bootstrap samples [500]")
    verb.add_argument("--out", required=True, type=Path, metavar="PARQUET")
    verb.set_defaults(run=run_reliability)


def _read(paths: list[Path], flag: str, needed: tuple[str, ...]) -> list:
    """Tables in a fixed order whatever the order on the command line.

    Raises:
        InputError: a file is missing or lacks a column.
    """
    from neurorad.files import read_table
    from neurorad.problems import InputError

    tables = []
    for path in sorted(paths):
        if not path.is_file():
            raise InputError(f"{flag} {path}: no such file")
        table = read_table(path)
        missing = [column for column in needed if column not in table]
        if missing:
            raise InputError(f"{flag} {path}: lacks the columns {', '.join(missing)}")
        tables.append(table)
    return tables


def _read_patients(paths: list[Path]) -> Any:
    import pandas as pd

    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import check_labels

    tables = _read(paths, "--patients", ("cohort", "patient"))
    return check_labels(pd.concat([table for table in tables if len(table)] or tables, ignore_index=True), endpoints())


def _read_folds(path: Path) -> Any:
    from neurorad.evaluation.folds import check_folds

    return check_folds(_read([path], "--folds", ())[0])


def _read_embeddings(paths: list[Path], encoder: str, flag: str = "--embeddings") -> Any:
    from neurorad.encoder_names import encoder_parts
    from neurorad.evaluation.features import Embeddings

    encoder_parts(encoder)
    tables = _read(paths, flag, ("cohort", "scan", "patient"))
    for path, table in zip(sorted(paths), tables, strict=True):
        _check_encoder(path, table, encoder)
    return Embeddings(tables, encoder)


def _check_encoder(path: Path, table: Any, encoder: str) -> None:
    from neurorad.problems import InputError

    if "encoder" in table and set(table["encoder"]) - {encoder}:
        raise InputError(f"--embeddings {path}: made by {table['encoder'].iloc[0]}, not by {encoder}")


def _stamp(path: Path) -> str:
    from neurorad.files import read_json
    from neurorad.problems import InputError

    if not path.is_file():
        raise InputError(f"--leakage {path}: no such file; it is made by the leakage audit")
    audit = read_json(path)
    if "stamp" not in audit:
        raise InputError(f"--leakage {path}: has no `stamp`; give the leakage_audit.json of the audit")
    return str(audit["stamp"])


ELSEWHERE = "LEAKAGE NOT EXCLUDED: {} was pretrained outside this study, on data that may hold test patients"


def _stamp_of(args: argparse.Namespace) -> str:
    stamp = _stamp(args.leakage)
    return "; ".join(filter(None, [stamp, ELSEWHERE.format(args.encoder)])) if args.pretrained_elsewhere else stamp


def _check_replicates(number: int) -> None:
    from neurorad.problems import InputError

    if number < 20:
        raise InputError(f"--bootstrap {number}: needs at least 20 samples for an interval")


def run_folds(args: argparse.Namespace) -> None:
    import pandas as pd

    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import accounting, analysis_set, fold_table
    from neurorad.files import write_table

    volumes = _read(args.volumes, "--volumes", ("cohort", "scan", "patient", "session", "status"))
    chosen = analysis_set(pd.concat(volumes, ignore_index=True))
    patients, known = _read_patients(args.patients), endpoints(json.loads(args.decisions))
    drawn = fold_table(chosen, patients, known, args.folds, args.repeats, args.seed)
    counts = accounting(chosen, patients, known, drawn)
    if args.counts:
        write_table(args.counts, counts)
    write_table(args.out, drawn)


def run_probe(args: argparse.Namespace) -> None:
    import pandas as pd

    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import endpoints_of
    from neurorad.evaluation.probe import probe
    from neurorad.evaluation.tidy import tidy
    from neurorad.evaluation.tuned import NEEDED, judge
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp, folds = _stamp_of(args), _read_folds(args.folds)
    known = endpoints_of(folds, endpoints())
    if args.scores:
        scores = pd.concat(_read(args.scores, "--scores", NEEDED), ignore_index=True)
        rows, predictions = judge(scores, folds, known, args.encoder, args.seed, args.bootstrap)
        coefficients = pd.DataFrame(columns=["endpoint", "site", "intercept"])
    else:
        embeddings = _read_embeddings(args.embeddings, args.encoder)
        clinical = _read_embeddings(args.clinical, "clinical", "--clinical") if args.clinical else None
        rows, predictions, coefficients = probe(
            embeddings, folds, known, args.seed, args.bootstrap, clinical, args.robust, args.combat
        )
    write_table(args.predictions, predictions)
    write_table(args.coefficients, coefficients)
    write_table(args.out, tidy(rows, stamp, args.encoder))


def run_survival(args: argparse.Namespace) -> None:
    from neurorad.endpoints import endpoints
    from neurorad.evaluation.folds import endpoints_of
    from neurorad.evaluation.survival import survival
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp, folds, embeddings = (
        _stamp_of(args),
        _read_folds(args.folds),
        _read_embeddings(args.embeddings, args.encoder),
    )
    patients = _read_patients(args.patients)
    rows, predictions, curves, coefficients = survival(
        embeddings, folds, patients, endpoints_of(folds, endpoints()), args.seed, args.bootstrap
    )
    write_table(args.predictions, predictions)
    write_table(args.curves, curves)
    write_table(args.coefficients, coefficients)
    write_table(args.out, tidy(rows, stamp, args.encoder))


def run_invariance(args: argparse.Namespace) -> None:
    from neurorad.evaluation.invariance import invariance
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp, folds, embeddings = (
        _stamp_of(args),
        _read_folds(args.folds),
        _read_embeddings(args.embeddings, args.encoder),
    )
    rows, places = invariance(embeddings, folds, _read_patients(args.patients), args.seed, args.bootstrap)
    write_table(args.coordinates, places)
    write_table(args.out, tidy(rows, stamp, args.encoder))


def run_compare(args: argparse.Namespace) -> None:
    from neurorad.endpoints import endpoints
    from neurorad.evaluation.comparison import compare
    from neurorad.evaluation.folds import endpoints_of
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp, folds = _stamp(args.leakage), _read_folds(args.folds)
    needed = ("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan")
    predictions = _read(args.predictions, "--predictions", needed)
    known = endpoints_of(folds, endpoints())
    write_table(args.out, tidy(compare(predictions, folds, known, args.seed, args.bootstrap), stamp))


def run_clean(args: argparse.Namespace) -> None:
    from neurorad.evaluation.clean import clean_rows
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp = _stamp(args.leakage)
    predictions = _read(args.predictions, "--predictions", ("encoder", "endpoint", "protocol", "site", "patient"))
    (test_patients,) = _read([args.test_patients], "--test-patients", ("cohort", "patient", "status"))
    table = tidy(clean_rows(predictions, test_patients, args.seed, args.bootstrap), stamp)
    # Without a row there is no column of the rows' own either.
    write_table(args.out, table if len(table) else table.assign(patients=""))


def run_reliability(args: argparse.Namespace) -> None:
    from neurorad.evaluation.reliability import EXTRA, reliability
    from neurorad.evaluation.tidy import tidy
    from neurorad.files import write_table

    _check_replicates(args.bootstrap)
    stamp, patients = _stamp(args.leakage), _read_patients(args.patients)
    needed = ("encoder", "endpoint", "protocol", "site", "cohort", "patient", "label", "score", "margin")
    needed += ("probability", "p_negative", "p_positive")
    predictions = _read(args.predictions, "--predictions", needed)
    rows = tidy(reliability(predictions, patients, args.seed, args.bootstrap), stamp)
    # Where no probe could be fitted there is no row, but the table has its columns.
    write_table(args.out, rows.assign(**{name: value for name, value in EXTRA.items() if name not in rows}))
