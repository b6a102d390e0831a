"""Every file of a crate is hashed again: what changed or is missing is named, what is whole is not."""

from base64 import urlsafe_b64encode

import pytest

from neurorad.cli import main
from neurorad.files import read_json, write_json
from neurorad.problems import InputError
from neurorad.provenance.crate import build
from neurorad.provenance.verify import Finding, foreign, verify
from tests.provenance.test_crate import MADE, SOURCES

LISTED = ("results/a.csv", "results/b c%20.svg", "Snakefile")


@pytest.fixture
def crate(tmp_path):
    """A crate over four files; the path of its metadata."""
    for name in ("config.yaml", "results/a.csv", "results/b c%20.svg", "Snakefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    out = tmp_path / "results" / "ro-crate-metadata.json"
    crate = build(out, tmp_path / "config.yaml", [tmp_path / name for name in LISTED], MADE, SOURCES)
    write_json(out, crate)
    return out


def check(crate) -> tuple[int, list[Finding]]:
    return verify(read_json(crate), crate.parent)


def test_an_untouched_study_has_no_findings(crate):
    assert check(crate) == (4, [])


@pytest.mark.parametrize("name", ["a.csv", "b c%20.svg", "../Snakefile", "../config.yaml"])
def test_a_changed_file_is_found_by_its_path(crate, name):
    path = crate.parent / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    number, (finding,) = check(crate)
    assert (number, finding.path, finding.kind) == (4, name, "changed")


def test_a_missing_file_is_found_and_a_folder_in_its_place_too(crate):
    (crate.parent / "a.csv").unlink()
    (crate.parent / "b c%20.svg").unlink()
    (crate.parent / "b c%20.svg").mkdir()
    number, findings = check(crate)
    assert [(finding.path, finding.kind) for finding in findings] == [("a.csv", "missing"), ("b c%20.svg", "missing")]
    assert number == 4


def test_findings_are_listed_by_path(crate):
    for name in ("../config.yaml", "a.csv", "../Snakefile"):
        (crate.parent / name).write_text("new")
    assert [finding.path for finding in check(crate)[1]] == ["../Snakefile", "../config.yaml", "a.csv"]


@pytest.fixture
def study(tmp_path):
    """A study with one table that is listed and one that a job made; the path of its crate."""
    tables, out = tmp_path / "results" / "tables", tmp_path / "results" / "provenance" / "ro-crate-metadata.json"
    tables.mkdir(parents=True)
    out.parent.mkdir()
    for path in (tables / "listed.csv", tables / "made.csv", tmp_path / "Snakefile", out.parent / "config.yaml"):
        path.write_text(path.name)
    made = [tables / "listed.csv", tmp_path / "Snakefile"]
    write_json(out, build(out, out.parent / "config.yaml", made, MADE, SOURCES))
    record = tmp_path / ".snakemake" / "metadata" / urlsafe_b64encode(b"results/tables/made.csv").decode()
    record.parent.mkdir(parents=True)
    record.write_text('{"rule": "table_made"}')
    return out


def test_what_is_listed_or_made_by_a_job_is_not_foreign(study):
    (study.parent.parent / "encoders" / "a").mkdir(parents=True)
    (study.parent.parent / "encoders" / "a" / "events.out.tfevents.1").write_text("x")
    assert foreign(study.parent, read_json(study)) == []


def test_a_file_that_no_job_made_is_foreign(study, capsys):
    (study.parent.parent / "tables" / "mine.csv").write_text("x")
    assert [(f.path, f.kind) for f in foreign(study.parent, read_json(study))] == [("../tables/mine.csv", "foreign")]
    with pytest.raises(SystemExit) as left:
        main(["verify", str(study)])
    assert left.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "3 files listed, 0 missing or changed, 1 foreign"


def test_what_lies_in_a_folder_that_is_a_jobs_output_is_not_foreign(study):
    native = study.parent.parent / "explanation" / "byol-base-s0" / "idh1" / "native"
    native.mkdir(parents=True)
    (native / "s0.evidence.nii.gz").write_text("x")
    assert [finding.kind for finding in foreign(study.parent, read_json(study))] == ["foreign"]
    name = urlsafe_b64encode(b"results/explanation/byol-base-s0/idh1/native").decode()
    (study.parents[2] / ".snakemake" / "metadata" / name).write_text('{"rule": "native"}')
    assert foreign(study.parent, read_json(study)) == []


def test_a_file_beside_the_results_is_nobodys_business(study):
    (study.parent.parent / "notes.txt").write_text("mine")
    assert foreign(study.parent, read_json(study)) == []


def test_a_moved_study_is_still_whole(crate, tmp_path):
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert check(moved / "results" / crate.name) == (4, [])


def test_what_is_no_crate_is_refused():
    with pytest.raises(InputError, match="not an RO-Crate: no @graph"):
        verify({"files": []}, None)


def test_a_file_without_a_checksum_is_refused(crate):
    metadata = read_json(crate)
    for entity in metadata["@graph"]:
        if entity["@id"] == "a.csv":
            del entity["sha256"]
    with pytest.raises(InputError, match="lists a.csv without sha256"):
        verify(metadata, crate.parent)


def test_the_verb_says_that_all_is_well_and_exits_with_0(crate, capsys):
    main(["verify", str(crate)])
    assert capsys.readouterr().out == "4 files listed, 0 missing or changed, 0 foreign\n"


def test_the_verb_names_what_is_wrong_and_exits_with_1(crate, capsys):
    (crate.parent / "a.csv").write_text("new")
    (crate.parent / "b c%20.svg").unlink()
    with pytest.raises(SystemExit) as left:
        main(["verify", str(crate)])
    assert left.value.code == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("changed  a.csv  (sha256 ")
    assert second == "missing  b c%20.svg  (no such file)"
    assert last == "4 files listed, 2 missing or changed, 0 foreign"


@pytest.mark.parametrize(
    ("content", "hint"), [(None, "no such file; a crate is made by"), ({}, "not an RO-Crate"), ("{", "damaged file")]
)
def test_a_crate_that_cannot_be_read_is_one_line_and_exits_with_2(tmp_path, capsys, content, hint):
    path = tmp_path / "ro-crate-metadata.json"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        write_json(path, content)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(path)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1
