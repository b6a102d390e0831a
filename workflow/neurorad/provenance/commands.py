"""Verbs of the provenance stage: crate, verify, phi-audit, plan, trace, lock-plan, deviations, claims."""

import argparse
import json
import sys
from pathlib import Path

from neurorad.analysis_plan import LOCK, NOT_LOCKED
from neurorad.flag_values import positive


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    crate = verbs.add_parser(
        "crate",
        help="list every file of the study with its checksum, as an RO-Crate",
        description="Writes ro-crate-metadata.json, a Workflow Run RO-Crate: files with sha256, size and format, software with "
        "versions and licences, data with theirs, and the run. Writes the workflow's code, its graph of rules and the list of "
        "installed packages beside it. The same files give the same bytes.",
        epilog="example: neurorad crate --config results/provenance/config.yaml --manifest results/provenance/manifest.json\n"
        "         --out results/provenance/ro-crate-metadata.json results/report.html results/tables/*.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    crate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    crate.add_argument("--config", required=True, type=Path, metavar="YAML")
    crate.add_argument("--manifest", required=True, type=Path, metavar="JSON", help="made by `neurorad manifest`")
    crate.add_argument("--out", required=True, type=Path, metavar="JSON")
    crate.set_defaults(run=run_crate)

    verify = verbs.add_parser(
        "verify",
        help="hash every file of a crate again and report what changed",
        description="Exits with status 1 if a file is missing or changed, or lies among the results and no job made it.",
        epilog="example: neurorad verify results/provenance/ro-crate-metadata.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("crate", type=Path, metavar="ro-crate-metadata.json")
    verify.set_defaults(run=run_verify)

    phi = verbs.add_parser(
        "phi-audit",
        help="search every file of a study's results for its patients' names, dates, paths and descriptions",
        description="Exits with status 1 and names file and kind if anything is found. Folder names of private cohorts may "
        "be known to their scans.tsv and unknown_files.txt alone, which stay with the data.",
        epilog="example: neurorad phi-audit results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    phi.add_argument("results", type=Path, metavar="RESULTS")
    phi.set_defaults(run=run_phi_audit)

    plan = verbs.add_parser(
        "plan",
        help="say in words what would run again, why, and how long it took before",
        description="Asks Snakemake for a dry run and sums it up; runs and writes nothing. In the root of the repository.",
        epilog="example: neurorad plan --configfile config.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("--configfile", type=Path, default=Path("config.yaml"), metavar="YAML", help="[config.yaml]")
    plan.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="of the study [this one]")
    plan.set_defaults(run=run_plan)

    trace = verbs.add_parser(
        "trace",
        help="walk from a result back to the files of the data it was made of",
        description="Prints each job between a result and its sources, from Snakemake's own records: rule, time, checksum, "
        "and whether a file changed since it was read. Of a row: the scans it was counted on, with the raw files of each.",
        epilog="example: neurorad trace results/tables/probe.csv --row 12",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trace.add_argument("file", metavar="FILE", help="path below the study's folder, as in results/tables/probe.csv")
    trace.add_argument(
        "--row",
        type=positive,
        metavar="N",
        help="of a table, the first is 1: only what is about its encoder and cohort, and each scan it was counted on",
    )
    trace.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="of the study [this one]")
    trace.set_defaults(run=run_trace)

    freeze = verbs.add_parser(
        "lock-plan",
        help="freeze the analysis plan before there are results; its hash and date then stand in every table",
        description=f"Writes {LOCK} into the study's folder: endpoints, metrics, comparisons, cut-offs and every other "
        "setting of the config that decides a number. Keep the file under version control. A plan that was locked is not "
        "locked again once results exist: what changes then is listed as a deviation.",
        epilog="example: neurorad lock-plan --configfile config.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    freeze.add_argument("--configfile", type=Path, default=Path("config.yaml"), metavar="YAML", help="[config.yaml]")
    freeze.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="of the study [this one]")
    freeze.set_defaults(run=run_lock_plan)

    departures = verbs.add_parser(
        "deviations",
        help="list what is not as planned: changed settings, and planned numbers that no table has",
        description="The settings are compared by the workflow, which hands them over.",
        epilog="example: neurorad deviations --tables results/tables/probe.csv --out results/tables/deviations.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    departures.add_argument("--changed", type=json.loads, default=[], metavar="JSON", help="item, planned, now, reason")
    departures.add_argument("--declared", type=json.loads, default={}, metavar="JSON", help="the planned analyses")
    departures.add_argument("--tables", nargs="*", default=[], type=Path, metavar="CSV", help="tables of numbers")
    departures.add_argument("--plan", default=NOT_LOCKED, metavar="TEXT", help="the plan's stamp")
    departures.add_argument("--out", required=True, type=Path, metavar="CSV")
    departures.set_defaults(run=run_deviations)

    claims = verbs.add_parser(
        "claims",
        help="set each number of the paper beside this study's, with the rule that makes it again",
        description="The paper's numbers and contradictions are declared in resources/claims.yaml.",
        epilog="example: neurorad claims --tables results/tables/*.csv --out results/tables/claims.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    claims.add_argument("--tables", required=True, nargs="+", type=Path, metavar="CSV")
    claims.add_argument("--plan", default=NOT_LOCKED, metavar="TEXT", help="the analysis plan's stamp, for every row")
    claims.add_argument("--out", required=True, type=Path, metavar="CSV")
    claims.set_defaults(run=run_claims)

    papers = verbs.add_parser(
        "documents",
        help="write the reporting checklists, a model card an encoder and a data sheet a cohort, as Markdown",
        description="TRIPOD+AI and CLAIM 2024 are filled where the study's files know; the rest is marked for the author.",
        epilog="example: neurorad documents --config results/provenance/config.yaml --tables results/tables/*.csv\n"
        "         --audit results/cohorts/leakage_audit.json --cohorts results/cohorts/*/ --encoders results/encoders/*/\n"
        "         --out results/provenance",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    papers.add_argument("--config", required=True, type=Path, metavar="YAML")
    papers.add_argument("--audit", required=True, type=Path, metavar="JSON")
    papers.add_argument("--tables", required=True, nargs="+", type=Path, metavar="CSV")
    papers.add_argument("--cohorts", required=True, nargs="+", type=Path, metavar="FOLDER")
    papers.add_argument("--encoders", required=True, nargs="+", type=Path, metavar="FOLDER")
    papers.add_argument("--plan", default=NOT_LOCKED, metavar="TEXT", help="the analysis plan's stamp")
    papers.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    papers.set_defaults(run=run_documents)

    made = verbs.add_parser(
        "manifest",
        help="say of every file what made it: rule, code, settings, inputs, versions, device, times",
        description="Joins the records of Snakemake with those that the commands of a run left in results/provenance/jobs. "
        "In the study's folder.",
        epilog="example: neurorad manifest results/report.html --out results/provenance/manifest.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("files", nargs="+", metavar="FILE")
    made.add_argument("--out", required=True, type=Path, metavar="JSON")
    made.set_defaults(run=run_manifest)


def run_crate(args: argparse.Namespace) -> None:
    """List every file of the study with its checksum and what made it."""
    from neurorad import RESOURCES
    from neurorad.files import read_yaml, write_json
    from neurorad.provenance.crate import build, write_companions
    from neurorad.provenance.manifest import read_manifest

    made = read_manifest(args.manifest)
    config = read_yaml(args.config)
    known = read_yaml(RESOURCES / "data_sources.yaml")
    releases = {block["release"] for block in (config.get("cohorts") or {}).values()}
    companions = write_companions(args.out.parent, made)
    files = [args.manifest, *args.files, *companions]
    write_json(args.out, build(args.out, args.config, files, made, {name: known[name] for name in releases}))


def run_verify(args: argparse.Namespace) -> None:
    """Compare the files with the crate; exit status 1 if one is missing, changed or foreign."""
    from neurorad.files import read_json
    from neurorad.problems import InputError
    from neurorad.provenance.verify import foreign, verify

    if not args.crate.is_file():
        raise InputError(f"{args.crate}: no such file; a crate is made by `neurorad crate`")
    folder = args.crate.resolve().parent
    number, findings = verify(read_json(args.crate), folder)
    strangers = foreign(folder, read_json(args.crate))
    for finding in [*findings, *strangers]:
        print(f"{finding.kind}  {finding.path}  ({finding.what})")
    print(f"{number} files listed, {len(findings)} missing or changed, {len(strangers)} foreign")
    findings += strangers
    if findings:
        sys.exit(1)


def run_phi_audit(args: argparse.Namespace) -> None:
    """Search results for what identifies a patient; exit status 1 if something is found."""
    from neurorad.provenance.phi import audit, read_sources

    results = args.results.absolute()
    sources = read_sources(results)
    number, findings = audit(results, sources)
    for finding in findings:
        print(f"{finding.path}  {finding.what}")
    for path in sorted(sources.knowing):
        if path.is_file() and path.stat().st_size:
            print(f"{path.relative_to(results)}  knows the folders of a private cohort: keep it with the data")
    for folder in sorted(sources.folders):
        print(f"{folder.relative_to(results)}/  is input, not looked into")
    print(f"{number} files, {len(sources.words)} names and texts of the input sought, {len(findings)} findings")
    if findings:
        sys.exit(1)


def run_plan(args: argparse.Namespace) -> None:
    """Jobs, hours and disk of a study before it runs."""
    import subprocess

    from neurorad import RESOURCES
    from neurorad.problems import InputError
    from neurorad.provenance.plan import in_words, read_plan, seconds_of

    study = [
        "--snakefile",
        RESOURCES.parent / "Snakefile",
        "--directory",
        args.directory,
        "--configfile",
        args.configfile,
    ]
    dry = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--nolock", "--rerun-incomplete", *study]
    run = subprocess.run(dry, capture_output=True, text=True, check=False)
    told = run.stdout + run.stderr
    if run.returncode:
        raise InputError(f"Snakemake refuses the study: {told.strip()[-2000:]}")
    print(in_words(read_plan(told), seconds_of(args.directory / "results" / "benchmarks")), end="")


def run_trace(args: argparse.Namespace) -> None:
    """What a number or file was made from, step by step, down to the scans."""
    from neurorad.files import read_table
    from neurorad.problems import InputError
    from neurorad.provenance.trace import in_words, scans_in_words, trace

    row = {}
    if args.row is not None:
        table = read_table(args.directory / args.file)
        if not 1 <= args.row <= len(table):
            raise InputError(f"{args.file}: --row {args.row}, but the table has rows 1 to {len(table)}")
        row = {column: str(value) for column, value in table.iloc[args.row - 1].dropna().items()}
        print("  ".join(f"{column}={value}" for column, value in row.items()))
    steps = trace(args.directory, args.file, [row[column] for column in ("encoder", "cohort") if column in row])
    print(in_words(args.directory, steps) + scans_in_words(args.directory, steps, row), end="")


def run_lock_plan(args: argparse.Namespace) -> None:
    """Freeze the analysis plan; once there are results, a locked plan stays as it was."""
    from datetime import UTC, datetime

    from neurorad.analysis_plan import deviations, lock, read_lock, results_exist
    from neurorad.configuration import read_config
    from neurorad.files import write_json
    from neurorad.problems import InputError

    config = read_config(args.configfile)
    path = args.directory / LOCK
    earlier, late = read_lock(path), results_exist(args.directory)
    if earlier is not None and not deviations(earlier, config):
        print(f"{path}: locked on {earlier['locked']} and unchanged since, sha256 {earlier['sha256']}")
        return
    if earlier is not None and late:
        told = "; ".join(f"{d.item}: {d.planned} -> {d.now}" for d in deviations(earlier, config)[:5])
        raise InputError(
            f"{path}: locked on {earlier['locked']}, and this study has results: the plan stays as it was. What changed "
            f"({told}) is listed as a deviation; give the reason in the config under analysis_plan: reasons:"
        )
    frozen = lock(config, datetime.now(UTC).date().isoformat(), late)
    write_json(path, frozen)
    print(f"{path}: locked on {frozen['locked']}, sha256 {frozen['sha256']}")
    if late:
        print("this study has results already: every table will say that the plan was locked after them")


def run_deviations(args: argparse.Namespace) -> None:
    """Where the study departs from its locked plan."""
    import pandas as pd

    from neurorad.analysis_plan import Deviation, absent, with_plan
    from neurorad.files import read_table, write_table

    found = [Deviation(**changed) for changed in args.changed]
    found += absent(args.declared, [read_table(path) for path in args.tables])
    rows = pd.DataFrame([vars(deviation) for deviation in found], columns=["item", "planned", "now", "reason"])
    write_table(args.out, with_plan(rows, args.plan, {}))


def run_claims(args: argparse.Namespace) -> None:
    """The paper's claims beside this study's numbers."""
    from neurorad.analysis_plan import with_plan
    from neurorad.files import read_table, write_table
    from neurorad.provenance.claims import ledger, read_claims

    tables = {path.stem: read_table(path) for path in args.tables}
    write_table(args.out, with_plan(ledger(tables, read_claims()), args.plan, {}))


def run_documents(args: argparse.Namespace) -> None:
    """Checklists, model cards and data sheets."""
    import pandas as pd

    from neurorad import RESOURCES
    from neurorad.files import read_json, read_table, read_yaml, sha256, write_table, write_text
    from neurorad.provenance.documents import CHECKLISTS, checklist_rows, documents
    from neurorad.provenance.study_facts import Study, facts

    def rows(name: str) -> pd.DataFrame:
        held = [read_table(folder / name) for folder in args.cohorts]
        return pd.concat([table for table in held if len(table)] or held[:1], ignore_index=True)

    study = Study(
        config=read_yaml(args.config),
        audit=read_json(args.audit),
        plan=args.plan,
        tables={path.stem: read_table(path) for path in args.tables},
        scans=rows("scans.tsv"),
        patients=rows("patients.tsv"),
        excluded=rows("excluded.tsv"),
        cards={folder.name: read_json(folder / "card.json") for folder in args.encoders},
        weights={folder.name: sha256(folder / "encoder.safetensors") for folder in args.encoders},
        sources=read_yaml(RESOURCES / "data_sources.yaml"),
    )
    for name, text in documents(study).items():
        write_text(args.out / name, text)
    for name in CHECKLISTS:
        write_table(args.out / f"{name}.csv", checklist_rows(name, facts(study)))


def run_manifest(args: argparse.Namespace) -> None:
    """Every published file with its size and sha256."""
    from neurorad.files import write_json
    from neurorad.provenance.manifest import manifest

    write_json(args.out, manifest(Path(), args.files))
