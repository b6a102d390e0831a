"""docs/errors.md lists what a user can do wrong; each entry is made here, and ends in one message without a traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neurorad.cli import main
from neurorad.files import write_json, write_table

ROOT = Path(__file__).resolve().parents[1]
LISTED = ROOT / "docs" / "errors.md"

Case = Callable[[Path], list[object]]
"""Puts a mistake into a folder and returns the arguments of the verb that meets it."""


def config(folder: Path, **changes: object) -> Path:
    settings = yaml.safe_load((ROOT / "config.yaml").read_text()) | changes
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder / "mine.yaml"


def inventory(folder: Path, release: str = "ucsf-pdgm", images: str = "images", *more: str) -> list[object]:
    flags = ["--cohort", "mine", "--release", release, "--images", folder / images, *more]
    return ["inventory", *flags, "--out", folder / "scans.tsv"]


def labels(folder: Path, text: str) -> list[object]:
    (folder / "table.csv").write_text(text)
    return ["labels", "--release", "cuimc", "--cohort", "cuimc", "--table", folder / "table.csv"]


def unknown_folder(folder: Path) -> list[object]:
    return inventory(folder)


def other_release(folder: Path) -> list[object]:
    (folder / "images").mkdir()
    (folder / "images" / "holiday.jpg").touch()
    return inventory(folder)


def unknown_release(folder: Path) -> list[object]:
    (folder / "images").mkdir()
    return inventory(folder, "ucsf")


def pattern_without_patient(folder: Path) -> list[object]:
    (folder / "images").mkdir()
    spelled = json.dumps({"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR"})
    return inventory(
        folder, "generic", "images", "--pattern", "{sequence}.nii.gz", "--sequences", spelled, "--state", "skull"
    )


def no_label_table(folder: Path) -> list[object]:
    return ["labels", "--release", "cuimc", "--cohort", "cuimc", "--table", folder / "gone.csv"]


def label_table_of_other_columns(folder: Path) -> list[object]:
    return labels(folder, "a,b\n1,2\n")


def misnamed_column(folder: Path) -> list[object]:
    return labels(folder, "patient,IDH1\nA,1\n")


def time_without_event(folder: Path) -> list[object]:
    return labels(folder, "patient,os_days\nA,400\n")


def wrong_config_key(folder: Path) -> list[object]:
    return ["doctor", "--configfile", config(folder, colour="red")]


def no_config(folder: Path) -> list[object]:
    return ["doctor", "--configfile", folder / "gone.yaml"]


def broken_config(folder: Path) -> list[object]:
    (folder / "mine.yaml").write_text("cohorts: [")
    return ["doctor", "--configfile", folder / "mine.yaml"]


def unknown_preset(folder: Path) -> list[object]:
    return ["cost", "--preset", "huge", "--method", "byol"]


def no_manifest(folder: Path) -> list[object]:
    flags = ["--method", "byol", "--objective", "base", "--seed", "0", "--preset", "demo"]
    return ["pretrain", *flags, "--manifest", folder / "gone.tsv", "--out", folder / "encoder"]


def no_verdicts(folder: Path) -> list[object]:
    columns = ["cohort", "scan", "volume", "sha256", "status", "reason"]
    write_table(folder / "volumes.tsv", pd.DataFrame([["a", "s", "", "", "excluded", "no brain"]], columns=columns))
    (folder / "verdicts.tsv").write_text("scan\tverdict\n")
    return [
        "qc",
        "--volumes",
        folder / "volumes.tsv",
        "--verdicts",
        folder / "verdicts.tsv",
        "--out",
        folder / "qc.html",
    ]


def no_images(folder: Path) -> list[object]:
    return ["embed", "--encoder", folder / "gone", folder, "--out", folder / "e.parquet"]


def damaged_table(folder: Path) -> list[object]:
    (folder / "probe.parquet").write_bytes(b"PAR1 cut")
    return ["figure", "fig3a_rivals", "--probe", folder / "probe.parquet", "--out", folder / "f"]


def wrong_table(folder: Path) -> list[object]:
    write_table(folder / "probe.csv", pd.DataFrame({"encoder": ["a"], "site": ["b"]}))
    return ["table", "probe", "--probe", folder / "probe.csv", "--out", folder / "t.csv"]


def unknown_figure(folder: Path) -> list[object]:
    return ["figure", "fig9", "--out", folder / "f"]


def missing_flag(folder: Path) -> list[object]:
    return ["figure", "fig1_flow", "--out", folder / "f"]


def missing_file(folder: Path) -> list[object]:
    return ["table", "probe", "--probe", folder / "gone.parquet", "--out", folder / "t.csv"]


def foreign_figure(folder: Path) -> list[object]:
    (folder / "f.svg").write_text("<svg/>")
    write_json(folder / "audit.json", {"stamp": ""})
    write_table(folder / "excluded.tsv", pd.DataFrame(columns=["cohort", "scan", "stage", "reason"]))
    write_table(folder / "t.csv", pd.DataFrame({"a": [1]}))
    files = ["--excluded", folder / "excluded.tsv", "--audit", folder / "audit.json", "--config", config(folder)]
    return ["report", "--figures", folder / "f.svg", "--tables", folder / "t.csv", *files, "--out", folder / "r.html"]


def no_crate(folder: Path) -> list[object]:
    return ["verify", folder / "ro-crate-metadata.json"]


def untraced_file(folder: Path) -> list[object]:
    (folder / "mine.csv").write_text("a\n1\n")
    return ["trace", "mine.csv", "--directory", folder]


def filled_phantom_folder(folder: Path) -> list[object]:
    (folder / "p").mkdir()
    (folder / "p" / "x").touch()
    return ["phantom", "--cohort", "cuimc", "--out", folder / "p", "--seed", "0", "--scale", "1", "--spacing", "4"]


def config_that_exists(folder: Path) -> list[object]:
    return ["init", folder, "--out", config(folder)]


def no_encoders(folder: Path) -> list[object]:
    return ["init", folder, "--encoders", folder, "--out", folder / "new.yaml"]


def unrecognised_folder(folder: Path) -> list[object]:
    np.save(folder / "a.npy", np.zeros(2))
    return ["init", folder, "--out", folder / "new.yaml"]


def folder_for_file(folder: Path) -> list[object]:
    write_table(
        folder / "probe.csv", pd.DataFrame(columns=["encoder", "site", "endpoint", "protocol", "metric", "value"])
    )
    (folder / "t.csv").mkdir()
    return ["table", "probe", "--probe", folder / "probe.csv", "--out", folder / "t.csv"]


CASES: dict[str, Case] = {
    name.replace("_", "-"): case
    for name, case in list(globals().items())
    if callable(case) and getattr(case, "__annotations__", {}).get("return") == list[object]
    if name not in ("inventory", "labels")
}


def listed() -> dict[str, str]:
    """Name -> message of every row of the page; `...` stands for what differs."""
    rows = re.findall(r"^\| `([a-z-]+)` \| `(.+?)` \|", LISTED.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_the_page_lists_what_is_tested_and_nothing_else():
    assert sorted(listed()) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_ends_in_the_message_of_the_page(name, tmp_path, capsys):
    arguments = [str(argument) for argument in CASES[name](tmp_path)]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    told = capsys.readouterr()
    assert left.value.code == 2, told
    last = told.err.strip().splitlines()[-1]
    assert last.startswith(f"neurorad {arguments[0]}: ")
    assert "Traceback" not in told.err + told.out
    expected = ".*".join(re.escape(part) for part in listed()[name].split("..."))
    assert re.search(expected, last), last


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (PermissionError(13, "Permission denied", "a/b.tsv"), "a/b.tsv: Permission denied; mend the permissions, then"),
        (OSError(28, "No space left on device", "x.b2nd"), "x.b2nd: No space left on device; free some disk, then"),
        (
            FileNotFoundError(2, "No such file or directory", "c.tsv"),
            "c.tsv: No such file or directory; mend the path, then",
        ),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line_too(fault, said, monkeypatch, capsys):
    def refuse(args: object) -> None:
        raise fault

    monkeypatch.setattr("neurorad.doctor.commands.run_doctor", refuse)
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and error.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(args: object) -> None:
        raise KeyError("a column")

    monkeypatch.setattr("neurorad.doctor.commands.run_doctor", fail)
    with pytest.raises(KeyError):
        main(["doctor"])
