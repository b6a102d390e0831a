"""Outputs are whole or absent, whatever ends the writer."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from neurorad.files import (
    PARTIAL,
    atomic,
    date_back,
    folder_sha256,
    read_json,
    read_table,
    remove_partial,
    sha256,
    visible_files,
    write_json,
    write_table,
)
from neurorad.problems import InputError

KILLED_WHILE_WRITING = """
import os, signal, sys
from neurorad.files import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_failed_writer_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.tsv"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "volumes" / "a.b2nd"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = path.parent.iterdir()
    assert partial.name.startswith(PARTIAL)
    (tmp_path / f"{PARTIAL}folder" / "inner").mkdir(parents=True)
    (tmp_path / "kept.tsv").write_text("whole")
    remove_partial(tmp_path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["kept.tsv", "volumes"]
    remove_partial(tmp_path / "absent")


def test_a_link_to_a_folder_elsewhere_is_removed_without_its_content(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("whole")
    results = tmp_path / "results"
    results.mkdir()
    (results / f"{PARTIAL}link").symlink_to(tmp_path / "elsewhere")
    remove_partial(results)
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert not list(results.iterdir())


def test_what_is_dated_in_the_future_gets_the_present_time(tmp_path):
    ahead, right = tmp_path / "folder" / "ahead", tmp_path / "right"
    ahead.parent.mkdir()
    for path, seconds in ((ahead, time.time() + 86400), (right, 1e9)):
        path.write_text("whole")
        os.utime(path, (seconds, seconds))
    assert date_back(tmp_path) == 1
    assert ahead.stat().st_mtime <= time.time()
    assert right.stat().st_mtime == 1e9
    assert date_back(tmp_path) == date_back(tmp_path / "absent") == 0


def test_the_temporary_name_keeps_the_suffixes_and_the_file_its_usual_mode(tmp_path):
    with atomic(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.endswith("a.nii.gz")
        temporary.write_text("whole")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "a.nii.gz").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet"])
def test_identifiers_stay_text(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(path, pd.DataFrame({"patient": ["007", "08"], "age": [50.0, None]}))
    table = read_table(path)
    assert table["patient"].tolist() == ["007", "08"]
    assert table["age"].isna().tolist() == [False, True]


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_only_an_empty_cell_is_missing_whatever_patients_and_sessions_are_called(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    names = ["NA", "null", "nan", "None", "N/A", "NULL"]
    table = pd.DataFrame({"patient": names, "session": names[::-1], "kind": ["None", None] * 3, "age": [5.5, None] * 3})
    write_table(path, table)
    again = read_table(path)
    assert again["patient"].tolist() == names and again["session"].tolist() == names[::-1]
    assert again["kind"].fillna("").tolist() == ["None", ""] * 3
    assert again["age"].dtype == float and again["age"].isna().tolist() == [False, True] * 3


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match="not '.xlsx'"):
        write_table(tmp_path / "table.xlsx", pd.DataFrame())
    with pytest.raises(InputError, match="not '.xlsx'"):
        read_table(tmp_path / "table.xlsx")
    assert not list(tmp_path.iterdir())


def test_json_is_sorted_and_holds_no_nan(tmp_path):
    path = tmp_path / "card.json"
    write_json(path, {"b": 1, "a": None})
    assert path.read_text() == '{\n "a": null,\n "b": 1\n}\n'
    assert read_json(path) == {"a": None, "b": 1}
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": None, "b": 1}


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_sum_of_a_folder_is_over_its_files_in_the_order_of_their_paths(tmp_path):
    texts = {"b/a/2": "two", "b/10": "ten", "b.txt": "text", "a": "first"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    in_order = [hashlib.sha256(texts[name].encode()).hexdigest() for name in ("a", "b/10", "b/a/2", "b.txt")]
    expected = hashlib.sha256("".join(in_order).encode()).hexdigest()
    assert folder_sha256(tmp_path) == expected
    (tmp_path / "b" / ".hidden").mkdir()
    (tmp_path / "b" / ".hidden" / "x").write_text("other")
    (tmp_path / ".DS_Store").write_text("other")
    assert folder_sha256(tmp_path) == expected
    (tmp_path / "b" / "a" / "2").write_text("changed")
    assert folder_sha256(tmp_path) != expected


def test_links_are_followed_and_every_folder_is_entered_once_as_itself_rather_than_by_a_link(tmp_path):
    for name in ("mine/z/deep/1", "mine/.hidden/z/1", "archive/2"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    mine = tmp_path / "mine"
    (mine / "a").symlink_to(mine / "z" / "deep")
    (mine / "b").symlink_to(tmp_path / "archive")
    (mine / "c").symlink_to(tmp_path / "archive")
    (mine / "z" / "up").symlink_to(mine)
    (mine / "loop").symlink_to(mine / "loop")
    (mine / "gone").symlink_to(tmp_path / "nowhere")
    (mine / "file").symlink_to(tmp_path / "archive" / "2")
    assert [str(path.relative_to(mine)) for path in visible_files(mine)] == ["b/2", "file", "z/deep/1"]


def test_a_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    (tmp_path / "seen").touch()
    listed = os.listdir

    def refuse(folder):
        if str(folder).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match=r"shut cannot be read \(Permission denied\); mend its permissions"):
        visible_files(tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_in_a_stored_table_is_refused_wherever_it_is(tmp_path, place):
    path = tmp_path / "rows.parquet"
    rows = pd.DataFrame({"scan": [f"s{i}" for i in range(500)], "e0": [i / 7 for i in range(500)]})
    write_table(path, rows)
    pd.testing.assert_frame_equal(read_table(path), rows)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    try:
        read = read_table(path)
    except InputError as problem:
        assert "damaged file" in str(problem) and "delete it" in str(problem)
    else:
        # What no page holds is in the footer, twice, or describes how the file was written.
        pd.testing.assert_frame_equal(read, rows)


@pytest.mark.parametrize("name", ["card.json", "rows.parquet", "rows.tsv"])
def test_an_empty_file_is_named_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: damaged file .*; delete it and give the same command again"):
        (read_json if name.endswith("json") else read_table)(tmp_path / name)
