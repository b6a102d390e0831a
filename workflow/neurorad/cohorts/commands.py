"""Verbs of the cohorts stage: inventory, labels, audit, excluded."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad.cohorts.exclusions import EXCLUDED_COLUMNS
from neurorad.files import read_json, read_table, sha256, write_json, write_table, write_text
from neurorad.flag_values import positive
from neurorad.problems import InputError


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""

    def verb(
        name: str, summary: str, example: str, run: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary, epilog=f"example: neurorad {name} {example}")
        added.set_defaults(run=run)
        return added

    inventory = verb(
        "inventory",
        "List the scans in a release's folder.",
        "--cohort ucsf --release ucsf-pdgm --images UCSF-PDGM --out scans.tsv",
        run_inventory,
    )
    inventory.add_argument("--cohort", required=True)
    inventory.add_argument("--release", required=True, help="reader that understands the folder")
    inventory.add_argument("--images", required=True, type=Path)
    inventory.add_argument("--pattern", help="generic: e.g. '{patient}/{session}/*{sequence}*.nii.gz'")
    inventory.add_argument("--sequences", default="{}", help='generic, JSON: {"t1n": "T1", "t1c": "T1ce", ...}')
    inventory.add_argument(
        "--state", choices=["stripped", "defaced", "skull"], help="generic, bids, cuimc: state of the images"
    )
    inventory.add_argument(
        "--missing", choices=["exclude", "zero"], default="exclude", help="zero: a scan may lack t1n, t2w or t2f"
    )
    inventory.add_argument("--out", required=True, type=Path, help="scans.tsv")
    inventory.add_argument("--unknown", type=Path, help="list of files that no rule explains")

    labels = verb(
        "labels",
        "Harmonise a release's label table: one row an exam as TSV on stdout, problems on stderr. With --out, one row a "
        "patient in a file.",
        "--release ucsf-pdgm --table UCSF-PDGM-metadata_v5.csv",
        run_labels,
    )
    labels.add_argument("--release", required=True)
    labels.add_argument("--table", type=Path, help="absent: every patient with unknown labels")
    labels.add_argument("--cohort", help="default: the release's name")
    labels.add_argument(
        "--scans", type=Path, help="with --out, scans.tsv: patients without a row in the table are added, unlabelled"
    )
    labels.add_argument("--unknown", choices=["stop", "quarantine"], default="stop")
    labels.add_argument("--decisions", default="{}", help='JSON: {"mgmt_indeterminate": "negative", ...}')
    labels.add_argument("--out", type=Path, help="patients.tsv (with --dictionary, --aliases, --problems, --decided)")
    labels.add_argument("--dictionary", type=Path, help="patients.json")
    labels.add_argument("--aliases", type=Path, help="other names of the patients in the table (cohort patient alias)")
    labels.add_argument("--problems", type=Path, help="patients left out, with the reason (excluded.tsv columns)")
    labels.add_argument("--decided", type=Path, help="decisions.tsv: what each decision did")

    audit = verb(
        "audit",
        "Prove that no test patient is pretrained on, and write the pretraining manifest.",
        '--cohorts \'{"ucsf": {"release": "ucsf-pdgm", "role": ["test"], "disease": "GLI"}}\' '
        "--volumes volumes.tsv --aliases aliases.tsv --manifest manifest.tsv --removed removed.tsv "
        "--test-patients test_patients.tsv --report audit.json",
        run_audit,
    )
    audit.add_argument("--cohorts", required=True, help="JSON: cohort -> release, role, disease")
    audit.add_argument("--volumes", required=True, nargs="+", type=Path)
    audit.add_argument("--aliases", required=True, nargs="+", type=Path)
    audit.add_argument(
        "--crosswalks", default="[]", help='JSON: [{"table": FILE}]; own pairs also say "covers": [release, ...]'
    )
    audit.add_argument(
        "--groups", default="cohort", help="of the manifest: cohort, disease, cohort_x_disease or column:NAME"
    )
    audit.add_argument("--tables", nargs="*", default=[], type=Path, help="column:NAME: scans.tsv and patients.tsv")
    audit.add_argument("--min-patients", type=positive, default=8, help="groups with fewer are joined")
    audit.add_argument("--max-scans", type=positive, help="time points of a patient to pretrain on; absent: all")
    audit.add_argument("--frozen", help="folder of encoders that are used as they are: what they saw is not audited")
    audit.add_argument("--encoders", type=Path, help="folder of trained encoders: says how many will be trained again")
    audit.add_argument("--manifest", required=True, type=Path)
    audit.add_argument("--removed", required=True, type=Path)
    audit.add_argument("--test-patients", required=True, type=Path, help="test_patients.tsv: clean or unproven")
    audit.add_argument("--report", required=True, type=Path)

    excluded = verb(
        "excluded",
        "One cohort's scans left out, with stage and reason.",
        "--scans scans.tsv --volumes volumes.tsv --labels label_problems.tsv --removed removed.tsv "
        "--manifest pretraining_manifest.tsv --out excluded.tsv",
        run_excluded,
    )
    excluded.add_argument("--scans", required=True, type=Path)
    excluded.add_argument("--volumes", required=True, type=Path)
    excluded.add_argument("--labels", required=True, type=Path)
    excluded.add_argument("--removed", required=True, type=Path)
    excluded.add_argument("--manifest", required=True, type=Path)
    excluded.add_argument("--out", required=True, type=Path)


def run_inventory(args: argparse.Namespace) -> None:
    """List a cohort's scans, and apart from them the files that no rule explains."""
    from neurorad.cohorts.inventory import list_scans
    from neurorad.cohorts.releases import release_of

    release = release_of({**vars(args), "sequences": json.loads(args.sequences)}, args.cohort)
    scans, unknown = list_scans(args.cohort, args.images, release, args.missing == "zero")
    write_table(args.out, scans)
    if args.unknown:
        write_text(args.unknown, "".join(f"{path}\n" for path in unknown))
    usable = (scans["problem"] == "").sum()
    print(
        f"{args.cohort}: {len(scans)} scans of {scans['patient'].nunique()} patients, {usable} usable, "
        f"{len(unknown)} unexplained files",
        file=sys.stderr,
    )


def run_labels(args: argparse.Namespace) -> None:
    """Harmonise a label table: one row an exam on stdout, or a row a patient with all that was decided on the way."""
    from neurorad.cohorts import labels
    from neurorad.cohorts.label_tables import columns_told, read_labels

    cohort = args.cohort or args.release
    chosen = labels.decisions(json.loads(args.decisions))
    exams = pd.DataFrame(columns=list(labels.EXAM_COLUMNS))
    names = pd.DataFrame(columns=["cohort", "patient", "alias"])
    decided = pd.DataFrame(columns=list(labels.DECIDED_COLUMNS))
    problems: list[Any] = []
    described: dict[str, Any] = {}
    if args.table:
        raw, rules = read_labels(args.table, args.release)
        exams, problems, decided = labels.harmonise(raw, rules, cohort, chosen, f"label table {args.table}")
        if rules["id"].get("private"):
            print(f"{cohort}: {columns_told(raw, rules)}", file=sys.stderr)
        names, described = labels.aliases(raw, rules, cohort), labels.data_dictionary(rules, chosen)
    for problem in problems:
        print(f"{args.table}: {problem}", file=sys.stderr)
    if not args.out:
        print(exams.to_csv(sep="\t", index=False, lineterminator="\n"), end="")
    if problems and args.unknown == "stop":
        raise InputError(
            f"{args.table}: {problems[0]}" + (f" (and {len(problems) - 1} more above)" if problems[1:] else "") + "; "
            "mend the table, or add the spelling to resources/labels, or set `labels: {unknown: quarantine}`"
        )
    if not args.out:
        return
    left_out = pd.DataFrame(
        [(cohort, p.patient, "", "labels", f"{args.table.name} {p}") for p in problems], columns=EXCLUDED_COLUMNS
    )
    patients = labels.patients_of(exams)
    if args.scans:
        scanned = set(read_table(args.scans)["patient"]) - set(left_out["patient"])
        patients = patients.merge(pd.DataFrame({"patient": sorted(scanned)}), on="patient", how="outer")
        patients = patients.assign(cohort=cohort)[list(labels.PATIENT_COLUMNS)]
    write_table(args.out, patients)
    if args.aliases:
        write_table(args.aliases, names)
    if args.dictionary:
        write_json(args.dictionary, described)
    if args.problems:
        write_table(args.problems, left_out)
    if args.decided:
        write_table(args.decided, decided)


def run_audit(args: argparse.Namespace) -> None:
    """Take every test patient out of the pretraining manifest, and report what overlaps and what nobody could tell."""
    from neurorad.cohorts.crosswalks import read_crosswalk
    from neurorad.cohorts.groups import group_of, merge_tiny
    from neurorad.cohorts.identity import audit
    from neurorad.cohorts.releases import RELEASES

    cohorts = json.loads(args.cohorts)
    volumes = pd.concat([read_table(path) for path in args.volumes], ignore_index=True)
    usable = volumes.loc[volumes["status"] == "ok", ["cohort", "patient", "scan", "session", "volume", "sha256"]]
    diseases = {name: block["disease"] for name, block in cohorts.items()}
    tables = [pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in args.tables]
    usable = usable.assign(group=group_of(usable, args.groups, diseases, tables))
    aliases = pd.concat([read_table(path, text=("patient", "alias")) for path in args.aliases], ignore_index=True)
    # A release that RELEASES lacks is `generic`, whose patients are private.
    private = [c for c, b in cohorts.items() if b["release"] not in RELEASES or RELEASES[b["release"]].private]
    crosswalks = [
        read_crosswalk(Path(entry["table"]), entry.get("covers"), private) for entry in json.loads(args.crosswalks)
    ]
    pretrained = np.array(["pretrain" in cohorts[name]["role"] for name in usable["cohort"]], bool)
    manifest, removed, test_patients, report = audit(
        usable,
        {name: block["role"] for name, block in cohorts.items()},
        {name: block["release"] for name, block in cohorts.items()},
        aliases,
        crosswalks,
        _thumbnails(list(usable["volume"]), pretrained) if pretrained.any() else None,
        args.max_scans,
    )
    manifest, report["groups"] = merge_tiny(manifest, diseases, args.min_patients, args.groups)
    if args.frozen:
        stamp = "LEAKAGE NOT EXCLUDED: the finished encoders were pretrained outside this study"
        report["stamp"] = "; ".join(filter(None, [stamp, report["stamp"]]))
        test_patients = test_patients.assign(status="unproven", why="the encoders were pretrained outside this study")
        report["patients"]["clean"] = 0
    elif any("pretrain" in block["role"] for block in cohorts.values()) and manifest.empty:
        raise InputError(
            "the leakage audit leaves no scan to pretrain on: every pretraining patient is also a test patient"
        )
    write_table(args.removed, removed)
    write_table(args.test_patients, test_patients)
    write_json(args.report, report)
    write_table(args.manifest, manifest)
    print(f"audit: {report['scans']}; {report['stamp'] or 'leakage excluded'}", file=sys.stderr)
    if args.encoders and (stale := _trained_on_others(args.encoders, sha256(args.manifest))):
        print(
            f"audit: the scans to pretrain on have changed: {len(stale)} finished encoders ({', '.join(stale)}) will be "
            "trained again; stop here to keep them",
            file=sys.stderr,
        )


def _trained_on_others(folder: Path, manifest: str) -> list[str]:
    """The finished encoders below `folder` that were trained on another manifest than that with this sha256."""
    cards = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/card.json"))}
    return [name for name, card in cards.items() if card.get("manifest_sha256") != manifest]


def _thumbnails(volumes: list[str], pretrained: np.ndarray) -> np.ndarray:
    """`[n, 4, v]` float16 of the v voxels that are brain in nine of ten pretraining scans.

    The rim differs with each release's brain mask, and 9,000 scans must fit in memory.
    """
    first = _thumbnail(volumes[0])

    def read(volume: str) -> np.ndarray:
        found = _thumbnail(volume)
        if found.shape != first.shape:
            raise InputError(f"{volume}: made with other imaging settings than {volumes[0]}; remove one and run again")
        return found

    count = np.zeros(first.shape[1:], int)
    for i in np.flatnonzero(pretrained):
        count += read(volumes[i]).any(axis=0)
    brain = count >= 0.9 * pretrained.sum()
    inside = np.empty((len(volumes), len(first), int(brain.sum())), np.float16)
    for i, volume in enumerate(volumes):
        inside[i] = read(volume)[:, brain]
    return inside


def _thumbnail(volume: str) -> np.ndarray:
    path = Path(volume).with_suffix(".thumbnail.npy")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{path}: no thumbnail of the volume ({problem}); remove the index of its shard (shards/*.tsv) and run again"
        ) from problem


def run_excluded(args: argparse.Namespace) -> None:
    """Every scan and patient of a cohort that left, with the stage and the reason."""
    from neurorad.cohorts.exclusions import excluded

    scans, volumes = read_table(args.scans).fillna(""), read_table(args.volumes).fillna("")
    labels, removed = read_table(args.labels).fillna(""), read_table(args.removed).fillna("")
    write_table(args.out, excluded(scans, volumes, labels, removed, read_table(args.manifest)))
