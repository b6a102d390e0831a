"""Every file of a crate is hashed again: what changed or is missing is named, what is whole is not."""

import pytest

from neurorad.cli import main
from neurorad.files import read_json, write_json
from neurorad.problems import InputError
from neurorad.provenance.crate import build
from neurorad.provenance.verify import Finding, verify
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


def test_a_file_that_the_crate_does_not_list_is_nobodys_business(crate):
    (crate.parent / "notes.txt").write_text("mine")
    assert check(crate) == (4, [])


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
    assert capsys.readouterr().out == "4 files listed, 0 missing or changed\n"


def test_the_verb_names_what_is_wrong_and_exits_with_1(crate, capsys):
    (crate.parent / "a.csv").write_text("new")
    (crate.parent / "b c%20.svg").unlink()
    with pytest.raises(SystemExit) as left:
        main(["verify", str(crate)])
    assert left.value.code == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("changed  a.csv  (sha256 ")
    assert second == "missing  b c%20.svg  (no such file)"
    assert last == "4 files listed, 2 missing or changed"


@pytest.mark.parametrize(
    ("content", "hint"), [(None, "no such file; a crate is made by"), ({}, "not an RO-Crate"), ("{", "not JSON")]
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
