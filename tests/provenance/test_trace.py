"""A chain of records is walked back to its sources; a row's encoder and cohort narrow it; later changes are seen."""

import hashlib
import json
from base64 import urlsafe_b64encode

import pytest

from neurorad.cli import main
from neurorad.problems import InputError
from neurorad.provenance.trace import in_words, record_of, trace

MADE = {
    "results/tables/probe.csv": ("table_probe", ["results/probe/a.parquet", "results/probe/b.parquet"]),
    "results/probe/a.parquet": (
        "probe",
        ["results/embeddings/a/east.parquet", "results/embeddings/a/west.parquet", "folds.tsv"],
    ),
    "results/probe/b.parquet": (
        "probe",
        ["results/embeddings/b/east.parquet", "results/embeddings/b/west.parquet", "folds.tsv"],
    ),
    **{
        f"results/embeddings/{encoder}/{cohort}.parquet": ("embed", [f"results/cohorts/{cohort}/scans.tsv"])
        for encoder in "ab"
        for cohort in ("east", "west")
    },
    "results/cohorts/east/scans.tsv": ("inventory", []),
    "results/cohorts/west/scans.tsv": ("inventory", []),
}


@pytest.fixture
def study(tmp_path):
    contents = {path: f"content of {path}" for path in [*MADE, "folds.tsv"]}
    contents["results/tables/probe.csv"] = "encoder,cohort,value\na,east,0.7\nb,west,\n"
    for path, text in contents.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    records = tmp_path / ".snakemake" / "metadata"
    records.mkdir(parents=True)
    for path, (rule, inputs) in MADE.items():
        checksums = {name: "sha256:" + hashlib.sha256(contents[name].encode()).hexdigest() for name in inputs}
        record = {"rule": rule, "input": inputs, "starttime": 0, "endtime": 2.5, "input_checksums": checksums}
        (records / urlsafe_b64encode(path.encode()).decode()).write_text(json.dumps(record))
    return tmp_path


def test_every_file_of_the_chain_comes_once_and_sources_end_it(study):
    steps = trace(study, "results/tables/probe.csv")
    assert sorted(step.path for step in steps) == sorted([*MADE, "folds.tsv"])
    assert [step.path for step in steps if step.record is None] == ["folds.tsv"]
    assert {step.path: step.depth for step in steps}["results/cohorts/west/scans.tsv"] == 3


def test_the_names_of_a_row_leave_the_other_encoder_and_cohort_out(study):
    assert [step.path for step in trace(study, "results/tables/probe.csv", ("a", "east"))] == [
        "results/tables/probe.csv",
        "results/probe/a.parquet",
        "results/embeddings/a/east.parquet",
        "results/cohorts/east/scans.tsv",
        "folds.tsv",
    ]


def test_a_file_that_changed_or_went_since_is_marked(study):
    (study / "folds.tsv").write_text("other")
    (study / "results" / "embeddings" / "a" / "west.parquet").unlink()
    lines = in_words(study, trace(study, "results/tables/probe.csv")).splitlines()
    assert sum("CHANGED SINCE" in line for line in lines) == 1
    assert [line.split()[0] for line in lines if "MISSING NOW" in line] == ["results/embeddings/a/west.parquet"]


def test_the_verb_prints_the_row_and_its_chain(study, capsys):
    main(["trace", "results/tables/probe.csv", "--row", "1", "--directory", str(study)])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "encoder=a  cohort=east  value=0.7"
    assert told[1].startswith("results/tables/probe.csv  by table_probe, 1970-01-01 00:00:00 UTC, 2.5 s, sha256 ")
    assert told[-1] == "5 files of 4 rules; 1 are sources"


@pytest.mark.parametrize(
    ("path", "hint"), [("results/none.csv", "no such file"), ("folds.tsv", "no job of this study made it")]
)
def test_what_no_job_made_is_refused(study, path, hint):
    with pytest.raises(InputError, match=hint):
        trace(study, path)


def test_a_row_that_is_not_there_is_one_line(study, capsys):
    with pytest.raises(SystemExit):
        main(["trace", "results/tables/probe.csv", "--row", "3", "--directory", str(study)])
    assert "rows 1 to 2" in capsys.readouterr().err


def test_the_record_of_a_name_too_long_for_one_file_is_found(study):
    path = "results/" + "x" * 240 + "/y.tsv"
    code = urlsafe_b64encode(path.encode()).decode()
    folder = study / ".snakemake" / "metadata" / f"@{code[:254]}"
    folder.mkdir()
    (folder / code[254:]).write_text('{"rule": "long"}')
    assert record_of(study, path) == {"rule": "long"}
