"""Every file of a chain is told with what made it, from Snakemake's records and those of the commands."""

import hashlib
import json
from base64 import urlsafe_b64encode

import pytest

from neurorad.cli import main
from neurorad.files import read_json, write_json
from neurorad.job_record import record_path
from neurorad.problems import InputError
from neurorad.provenance.manifest import JOBS, UNKNOWN, command, first_moment, last_moment, manifest, read_manifest

CODE = "ab" * 32
COMMAND = "neurorad probe --encoder a --embeddings 'results/e.parquet' --seed 3 --out results/p.parquet"
SHELL = COMMAND + " 2> >(trap '' TERM USR1; tee results/logs/probe.log >&2)"


def keep_record(study, path: str, **record) -> None:
    folder = study / ".snakemake" / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    complete = {"input": [], "params": [], "starttime": 0, "endtime": 2.5, "input_checksums": {}, **record}
    (folder / urlsafe_b64encode(path.encode()).decode()).write_text(json.dumps(complete))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    for name in ("results/t.csv", "results/p.parquet", "results/e.parquet", "labels.csv"):
        (tmp_path / name).write_text(f"content of {name}")
    seen = {"results/p.parquet": "sha256:" + "1" * 64}
    figure = json.dumps([json.dumps([CODE, {}]), "a title"])
    keep_record(tmp_path, "results/t.csv", rule="table_probe", input=["results/p.parquet"], input_checksums=seen,
                params=[f"'{figure}'"], endtime=9, shellcmd="neurorad table probe --out results/t.csv 2> >(tee x >&2)")  # fmt: skip
    keep_record(tmp_path, "results/p.parquet", rule="probe", params=["3", f"'[\"{CODE}\", {{}}]'"], shellcmd=SHELL,
                input=["results/e.parquet", "/data/hospital/labels.csv", "labels.csv"], starttime=-60)  # fmt: skip
    keep_record(tmp_path, "results/e.parquet", rule="config", shellcmd="printf x > results/e.parquet")
    held = {
        "neurorad": "0.1.0",
        "python": "3.11",
        "packages": {"numpy": "2"},
        "device": "a card",
        "settings": {"seed": 3},
    }
    write_json(record_path(tmp_path / JOBS, command(SHELL)), held)
    return tmp_path


def test_rule_code_settings_versions_device_times_and_sums(study):
    made = manifest(study, ["results/t.csv"])["made"]
    assert set(made) == {"results/t.csv", "results/p.parquet", "results/e.parquet"}
    probe = made["results/p.parquet"]
    assert (probe["rule"], probe["verb"], probe["code"]) == ("probe", "probe", CODE)
    assert probe["settings"] == {"seed": 3}
    assert probe["packages"] == {"neurorad": "0.1.0", "python": "3.11", "numpy": "2"}
    assert probe["device"] == "a card"
    assert (probe["started"], probe["ended"], probe["seconds"]) == (
        "1969-12-31T23:59:00+00:00",
        "1970-01-01T00:00:02+00:00",
        62.5,
    )
    assert probe["sha256"] == hashlib.sha256((study / "results/p.parquet").read_bytes()).hexdigest()


def test_inputs_have_the_sum_when_read_or_else_that_of_the_file(study):
    made = manifest(study, ["results/t.csv"])["made"]
    assert made["results/t.csv"]["inputs"] == {"results/p.parquet": "1" * 64}
    inputs = made["results/p.parquet"]["inputs"]
    assert inputs["results/e.parquet"] == made["results/e.parquet"]["sha256"]
    assert inputs["labels.csv"] == hashlib.sha256(b"content of labels.csv").hexdigest()


def test_a_figures_code_is_found_inside_its_title(study):
    assert manifest(study, ["results/t.csv"])["made"]["results/t.csv"]["code"] == CODE


def test_what_nobody_recorded_is_said_to_be(study):
    made = manifest(study, ["results/t.csv"])["made"]
    assert made["results/t.csv"]["packages"] == made["results/t.csv"]["device"] == UNKNOWN
    assert made["results/e.parquet"]["verb"] == made["results/e.parquet"]["code"] == UNKNOWN


def test_a_place_outside_the_study_is_not_told(study):
    told = json.dumps(manifest(study, ["results/t.csv"]))
    assert "/data/hospital" not in told and str(study) not in told
    assert "/labels.csv" in told


def test_the_first_and_last_moment_of_a_run(study):
    made = manifest(study, ["results/t.csv"])
    assert first_moment(made) == "1969-12-31T23:59:00+00:00"
    assert last_moment(made) == "1970-01-01T00:00:09+00:00"


@pytest.mark.parametrize(
    ("shell", "arguments"),
    [
        (
            SHELL,
            [
                "probe",
                "--encoder",
                "a",
                "--embeddings",
                "results/e.parquet",
                "--seed",
                "3",
                "--out",
                "results/p.parquet",
            ],
        ),
        ("neurorad audit --cohorts '{\"a\": [1]}' 2> >(tee x >&2)", ["audit", "--cohorts", '{"a": [1]}']),
        ("printf '%s' x > y", []),
    ],
)
def test_the_arguments_of_a_command_are_those_the_shell_would_give(shell, arguments):
    assert command(shell) == arguments


def test_the_verb_writes_it_and_it_is_read_back(study):
    main(["manifest", "results/t.csv", "--out", "manifest.json"])
    assert (
        read_manifest(study / "manifest.json")
        == read_json(study / "manifest.json")
        == manifest(study, ["results/t.csv"])
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"made": {}, "sources": {}}'])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=r"m\.json: (not a manifest|a manifest of no file)"):
        read_manifest(tmp_path / "m.json")
