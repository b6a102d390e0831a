"""Verbs of the provenance stage: crate, verify, phi-audit, plan, trace."""

import argparse
import sys
from pathlib import Path


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    crate = verbs.add_parser(
        "crate",
        help="list every file of the study with its checksum, as an RO-Crate",
        description="Writes ro-crate-metadata.json: files with sha256, size and format, software with versions, and "
        "the run. The same files give the same bytes.",
        epilog="example: neurorad crate --config config.yaml --out results/provenance/ro-crate-metadata.json\n"
        "         Snakefile results/report.html results/figures/*.svg results/tables/*.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    crate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    crate.add_argument("--config", required=True, type=Path, metavar="YAML")
    crate.add_argument("--out", required=True, type=Path, metavar="JSON")
    crate.set_defaults(run=run_crate)

    verify = verbs.add_parser(
        "verify",
        help="hash every file of a crate again and report what changed",
        description="Exits with status 1 if a file is missing or changed.",
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
        "and whether a file changed since it was read.",
        epilog="example: neurorad trace results/tables/probe.csv --row 12",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trace.add_argument("file", metavar="FILE", help="path below the study's folder, as in results/tables/probe.csv")
    trace.add_argument(
        "--row", type=int, metavar="N", help="of a table, the first is 1: only what is about its encoder and cohort"
    )
    trace.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="of the study [this one]")
    trace.set_defaults(run=run_trace)


def run_crate(args: argparse.Namespace) -> None:
    from neurorad.files import write_json
    from neurorad.provenance.crate import build

    write_json(args.out, build(args.out, args.config, args.files))


def run_verify(args: argparse.Namespace) -> None:
    from neurorad.files import read_json
    from neurorad.problems import InputError
    from neurorad.provenance.verify import verify

    if not args.crate.is_file():
        raise InputError(f"{args.crate}: no such file; a crate is made by `neurorad crate`")
    try:
        metadata = read_json(args.crate)
    except ValueError as problem:
        raise InputError(f"{args.crate}: not JSON ({problem}); make it again with `neurorad crate`") from problem
    number, findings = verify(metadata, args.crate.resolve().parent)
    for finding in findings:
        print(f"{finding.kind}  {finding.path}  ({finding.what})")
    print(f"{number} files listed, {len(findings)} missing or changed")
    if findings:
        sys.exit(1)


def run_phi_audit(args: argparse.Namespace) -> None:
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
    from neurorad.files import read_table
    from neurorad.problems import InputError
    from neurorad.provenance.trace import in_words, trace

    names = []
    if args.row is not None:
        table = read_table(args.directory / args.file)
        if not 1 <= args.row <= len(table):
            raise InputError(f"{args.file}: --row {args.row}, but the table has rows 1 to {len(table)}")
        row = table.iloc[args.row - 1].dropna()
        print("  ".join(f"{column}={value}" for column, value in row.items()))
        names = [str(row[column]) for column in ("encoder", "cohort") if column in row]
    print(in_words(args.directory, trace(args.directory, args.file, names)), end="")
