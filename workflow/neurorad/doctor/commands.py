"""`neurorad doctor`."""

import argparse
import sys
from pathlib import Path


def add_verbs(verbs: argparse._SubParsersAction) -> None:
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


def run_doctor(args: argparse.Namespace) -> None:
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
