"""`neurorad doctor`."""

import argparse
import sys
from pathlib import Path


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    verb = verbs.add_parser(
        "doctor",
        help="check the installation and a config before anything runs",
        description="Says what is installed, which device will be used, which weights are missing and where to put them, "
        "whether cohort folders and label tables can be read, whether leakage can be excluded, and how large the study "
        "will be. Runs nothing and writes nothing. Exits with 1 if something would stop the study.",
        epilog="example: neurorad doctor --configfile config.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--configfile", type=Path, default=Path("config.yaml"), metavar="YAML", help="[config.yaml]")
    verb.set_defaults(run=run_doctor)

    start = verbs.add_parser(
        "init",
        help="write a first config.yaml for the releases in the folders given",
        description="Looks at each FOLDER (or its subfolders), recognises releases by their layout, finds label tables and "
        "mappings of ids, and\nwrites a commented config. In a terminal it asks for what no flag says; Enter takes the proposal.",
        epilog="example: neurorad init data/UCSF-PDGM data/BraTS-MEN --out config.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    start.add_argument("--pretrain", nargs="+", default=[], metavar="NAME", help="cohorts to pretrain on")
    start.add_argument("--test", nargs="+", default=[], metavar="NAME", help="cohorts to test on")
    start.add_argument("--hd-bet", type=Path, metavar="FOLDER", help="HD-BET's released weights [deepbet is used]")
    start.add_argument("--encoders", type=Path, metavar="FOLDER", help="finished encoders: nothing is pretrained")
    start.add_argument("--out", type=Path, default=Path("study.yaml"), metavar="YAML", help="[study.yaml]")
    start.set_defaults(run=run_init)


def run_doctor(args: argparse.Namespace) -> None:
    """Look at installation, config and data; exit status 1 if a run would fail."""
    from neurorad.configuration import read_config
    from neurorad.doctor.checks import PROBLEM, check_cohorts, check_installation, check_leakage, check_weights
    from neurorad.doctor.size import check_size

    findings = check_installation()
    _say("Installation", findings)
    config = read_config(args.configfile)
    cohorts, scans = check_cohorts(config)
    for title, part in (
        ("Weights", check_weights(config)),
        ("Cohorts", cohorts),
        ("Leakage", check_leakage(config)),
        ("Size of the study", check_size(config, scans)),
    ):
        _say(title, part)
        findings += part
    problems = sum(level == PROBLEM for level, _ in findings)
    print(
        f"\n{problems} problems that would stop the study" if problems else "\nNothing found that would stop the study"
    )
    sys.exit(1 if problems else 0)


def _say(title: str, findings: list[tuple[str, str]]) -> None:
    print(f"\n{title}")
    for level, text in findings:
        print(f"  {level:8s}{text}")


def run_init(args: argparse.Namespace) -> None:
    """Write a commented config.yaml for the folders that are given."""
    from neurorad.doctor.start import (
        IMAGING,
        PRETRAINING,
        brain_mask,
        config_text,
        crosswalks_in,
        finished_encoders,
        named,
        recognise,
        suggested_role,
    )
    from neurorad.files import write_text
    from neurorad.problems import InputError

    if args.out.exists():
        raise InputError(f"{args.out}: exists already; delete it, or give another name with --out")
    # Paths are written as absolute ones: the study may run in another folder than this.
    mask = brain_mask(args.hd_bet.absolute() if args.hd_bet else None)
    imaging, pretraining = finished_encoders(args.encoders.absolute()) if args.encoders else (IMAGING, PRETRAINING)
    cohorts = named([found for folder in args.folders for found in recognise(folder.absolute())])
    strange = sorted({*args.pretrain, *args.test} - set(cohorts))
    if strange:
        raise InputError(f"no cohort is called {', '.join(strange)}; found were {', '.join(cohorts)}")
    roles = {}
    for name, found in cohorts.items():
        labels = f"labels {found.labels.name}" if found.labels else "no label table"
        print(f"{name}: {found.release}, {found.scans} complete scans of {found.patients} patients, {labels}")
        said = [role for role in ("pretrain", "test") if name in getattr(args, role)]
        roles[name] = said or _asked(name, ["test"] if args.encoders else suggested_role(found))
    crosswalks = crosswalks_in([found.images for found in cohorts.values()])
    write_text(args.out, config_text(cohorts, roles, crosswalks, {**imaging, "brain_mask": mask}, pretraining))
    print(f"Written: {args.out}. Next: neurorad doctor --configfile {args.out}")


def _asked(name: str, proposed: list[str]) -> list[str]:
    """The role that the user types, or the proposal: on Enter, and where nobody can be asked."""
    if not sys.stdin.isatty():
        return proposed
    while True:
        said = input(f"  {name}: pretrain, test or both? [{' '.join(proposed)}] ").split()
        role = ["pretrain", "test"] if said == ["both"] else said or proposed
        if set(role) <= {"pretrain", "test"}:
            return role
        print("  one of: pretrain, test, both")
