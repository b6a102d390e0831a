"""A chain of records is walked back to its sources; a row's encoder and cohort narrow it; later changes are seen."""

import hashlib
import json
from base64 import urlsafe_b64encode

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, write_table
from neurorad.problems import InputError
from neurorad.provenance.trace import in_words, record_of, scans_in_words, trace
from neurorad.volumes import save

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


ROW = {"encoder": "a", "endpoint": "idh1", "protocol": "within_site", "site": "east"}


@pytest.fixture
def scored(tmp_path):
    """A table's chain of one job that judged the encoder a on two scans of one site, of NIfTI and of DICOM."""
    raw = {name: tmp_path / "raw" / name for name in ("e1_t1.nii.gz", "e1_flair.nii.gz", "session/1.dcm")}
    for name, path in raw.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in raw}
    sources = {
        "e1": {"t1n": digests["e1_t1.nii.gz"], "t2f": digests["e1_flair.nii.gz"]},
        # The sum over the sums of the session's files, here one.
        "e2": {"dicom": hashlib.sha256(digests["session/1.dcm"].encode()).hexdigest()},
        "w1": {"dicom": "e" * 64},
    }
    for scan, made_from in sources.items():
        cohort = "west" if scan == "w1" else "east"
        (tmp_path / "results/volumes" / cohort).mkdir(parents=True, exist_ok=True)
        path = tmp_path / f"results/volumes/{cohort}/{scan}.b2nd"
        save(path, np.full((4, 3, 3, 3), len(scan)), {"made_from": {"sources": made_from}})
    listed = pd.DataFrame(
        {
            "scan": ["e1", "e2"],
            "t1n": ["raw/e1_t1.nii.gz", ""],
            "t2f": ["raw/e1_flair.nii.gz", ""],
            "dicom": ["", "raw/session"],
        }
    )
    write_table(tmp_path / "results/cohorts/east/scans.tsv", listed)
    # The same scans at other cells of the table, which are no part of the row.
    cells = [ROW, ROW, {**ROW, "protocol": "combined", "site": "all"}, {**ROW, "endpoint": "mgmt"}]
    where = pd.DataFrame(cells).assign(cohort=["east", "east", "west", "east"], scan=["e1", "e2", "w1", "e1"])
    write_table(tmp_path / "results/evaluation/probe/a.predictions.parquet", where)
    table = pd.DataFrame([{**ROW, "value": 0.7}, {"encoder": "a", "site": "east", "value": 0.1}])
    write_table(tmp_path / "results/tables/t.csv", table)
    records = tmp_path / ".snakemake" / "metadata"
    records.mkdir(parents=True)
    rows = "results/evaluation/probe/a.parquet"
    (tmp_path / rows).write_text("rows")
    for path, inputs in {"results/tables/t.csv": [rows], rows: []}.items():
        record = {"rule": "r", "input": inputs, "starttime": 0, "endtime": 1}
        (records / urlsafe_b64encode(path.encode()).decode()).write_text(json.dumps(record))
    return tmp_path, digests


def test_a_number_ends_at_the_raw_files_of_each_scan_it_was_counted_on(scored, capsys):
    study, digests = scored
    main(["trace", "results/tables/t.csv", "--row", "1", "--directory", str(study)])
    told = capsys.readouterr().out.splitlines()
    assert told[3] == "2 files of 1 rules; 0 are sources"
    assert told[4:] == [
        "2 scans, scored in results/evaluation/probe/a.predictions.parquet",
        told[5],
        f"    raw/e1_t1.nii.gz, sha256 {digests['e1_t1.nii.gz'][:12]}",
        f"    raw/e1_flair.nii.gz, sha256 {digests['e1_flair.nii.gz'][:12]}",
        told[8],
        f"    raw/session, sha256 {hashlib.sha256(digests['session/1.dcm'].encode()).hexdigest()[:12]}",
    ]
    assert told[5].startswith("  results/volumes/east/e1.b2nd  sha256 of the voxels ")
    assert told[8].startswith("  results/volumes/east/e2.b2nd  sha256 of the voxels ")


def test_a_raw_file_or_volume_that_is_another_by_now_is_marked(scored):
    study, _ = scored
    steps = trace(study, "results/tables/t.csv")
    (study / "raw/e1_t1.nii.gz").write_text("other")
    (study / "raw/e1_flair.nii.gz").unlink()
    (study / "raw/session/2.dcm").write_text("one slice more")
    lines = scans_in_words(study, steps, ROW).splitlines()
    assert lines[2].endswith(", CHANGED SINCE") and lines[3] == "    raw/e1_flair.nii.gz, MISSING NOW"
    assert lines[5].startswith("    raw/session, sha256 ") and lines[5].endswith(", CHANGED SINCE")
    (study / "results/volumes/east/e2.b2nd").unlink()
    assert scans_in_words(study, steps, ROW).splitlines()[4:] == [
        "  results/volumes/east/e2.b2nd  CHANGED SINCE OR MISSING NOW"
    ]
    listed = read_table(study / "results/cohorts/east/scans.tsv")
    write_table(study / "results/cohorts/east/scans.tsv", listed[listed["scan"] != "e2"])
    assert scans_in_words(study, steps, ROW).splitlines()[4:] == [
        "  results/volumes/east/e2.b2nd  NOT IN results/cohorts/east/scans.tsv NOW"
    ]


def test_a_row_that_nothing_was_predicted_for_has_no_scans(scored):
    study, _ = scored
    steps = trace(study, "results/tables/t.csv")
    assert scans_in_words(study, steps, {**ROW, "encoder": "b"}) == ""
    assert scans_in_words(study, steps, {"encoder": "a", "site": "east"}) == ""
