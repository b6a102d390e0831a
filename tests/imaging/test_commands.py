"""The verbs of the stage on a scan of the phantom: missing sequences, one's own choice of series, threads, equal bytes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from neurorad.cli import THREAD_VARIABLES, main
from neurorad.files import read_table
from neurorad.imaging.commands import read_choices
from neurorad.problems import InputError
from neurorad.volumes import load, load_card

SETTINGS = {"spacing": 4, "shape": [40, 48, 40], "n4": False, "brain_mask": {"method": "deepbet"}}
TEXT = ("patient", "session", "scan", "absent", "sha256")


def listed(images, folder, missing="exclude"):
    arguments = ["--cohort", images.name, "--release", images.name, "--images", str(images), "--missing", missing]
    main(["inventory", *arguments, "--out", str(folder / "scans.tsv")])
    return folder / "scans.tsv"


def volumes(scans, folder, settings, *more):
    out = folder / "shard.tsv"
    where = ["--scans", str(scans), "--folder", str(folder), "--out", str(out)]
    main(["volumes", *where, "--settings", json.dumps(settings), *more])
    return read_table(out, TEXT).fillna("")


@pytest.mark.parametrize("lacks", ["t2f", "t1n", "t1c"])
def test_a_scan_that_lacks_a_sequence_is_left_out_or_gets_an_empty_channel_and_a_flag(one_scan, tmp_path, lacks):
    images = tmp_path / "brats-gli-pre"
    (original,) = one_scan("brats-gli-pre").iterdir()
    (images / original.name).mkdir(parents=True)
    for path in original.iterdir():
        if f"-{lacks}." not in path.name:
            shutil.copy(path, images / original.name)
    problem = f"missing sequence {lacks}"
    assert read_table(listed(images, tmp_path))["problem"].tolist() == [problem]
    assert not len(volumes(tmp_path / "scans.tsv", tmp_path / "excluded", SETTINGS))

    scans = listed(images, tmp_path, "zero")
    if lacks == "t1c":
        # Everything is aligned to it: no policy can do without.
        assert read_table(scans)["problem"].tolist() == [problem]
        return
    # A settings block that says otherwise than the inventory leaves it out too, by name.
    assert volumes(scans, tmp_path / "refused", SETTINGS)["reason"].tolist() == [problem]
    (row,) = volumes(scans, tmp_path / "made", SETTINGS | {"missing_sequence": "zero"}).to_dict("records")
    assert (row["status"], row["absent"]) == ("ok", lacks)
    card = load_card(row["volume"])
    assert card["present"] == [name for name in ("t1n", "t1c", "t2w", "t2f") if name != lacks]
    assert card["preprocessing"]["missing_sequence"] == "zero"
    filled = dict(zip(card["sequences"], (load(row["volume"]) != 0).any(axis=(1, 2, 3)), strict=True))
    assert filled == {name: name != lacks for name in card["sequences"]}


GOOD = "scan\tsequence\tseries\nA\tt2w\t9\nA\tt1c\t2.25.7\nB\tt2w\t3\n"


def test_a_series_table_is_read_as_written(tmp_path):
    path = tmp_path / "series.tsv"
    path.write_text(GOOD + "NA\tt2w\t4\n")
    chosen = {"A": {"t2w": "9", "t1c": "2.25.7"}, "B": {"t2w": "3"}, "NA": {"t2w": "4"}}
    assert read_choices(path, {"A", "B", "NA"}) == chosen


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        (b"\xff\xfe\x00scan", "cannot be read"),
        ("scan\tsequence\nA\tt2w\n", "needs the columns scan, sequence, series; has scan, sequence"),
        ("scan,sequence,series\nA,t2w,9\n", "needs the columns"),
        (GOOD + "C\tt2w\t9\n", "line 5: scan 'C' is none of the cohort's"),
        (GOOD + "B\tT2\t9\n", "line 5: sequence 'T2' is none of t1n, t1c, t2w, t2f"),
        (GOOD + "B\tt2w\t4\n", "line 5: B t2w needs one series"),
        (GOOD + "B\tt1n\t\n", "line 5: B t1n needs one series"),
    ],
)
def test_a_bad_series_table_is_one_error_with_file_line_and_value(tmp_path, content, said):
    path = tmp_path / "series.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=said) as found:
        read_choices(path, {"A", "B"})
    assert str(found.value).startswith(f"series table {path}")
    with pytest.raises(InputError, match="cannot be read"):
        read_choices(tmp_path / "none.tsv", {"A"})


def test_the_users_series_decide_through_the_command_and_an_unknown_one_leaves_the_scan_out(one_scan, tmp_path, capsys):
    scans = listed(one_scan("cuimc"), tmp_path)
    scan = read_table(scans)["scan"].item()
    table = tmp_path / "series.tsv"
    table.write_text(f"scan\tsequence\tseries\n{scan}\tt2w\t99\n")
    (row,) = volumes(scans, tmp_path, SETTINGS, "--series", str(table)).to_dict("records")
    assert row["status"] == "excluded"
    assert row["reason"].startswith("t2w: 0 series match the chosen '99' (seen: series 1")
    table.write_text("scan\tsequence\tseries\nsomeone\tt2w\t3\n")
    with pytest.raises(SystemExit) as left:
        volumes(scans, tmp_path, SETTINGS, "--series", str(table))
    assert left.value.code == 2
    assert "line 2: scan 'someone' is none of the cohort's" in capsys.readouterr().err


def test_every_library_gets_the_threads_of_the_rule(tmp_path, monkeypatch):
    for variable in THREAD_VARIABLES:
        monkeypatch.setenv(variable, "7")
    before = torch.get_num_threads()
    scans = tmp_path / "scans.tsv"
    columns = ["cohort", "scan", "patient", "session", "t1n", "t1c", "t2w", "t2f", "dicom", "tumour", "problem"]
    scans.write_text("\t".join([*columns, "tumour_labels", "cavity_labels", "state"]) + "\n")
    try:
        volumes(scans, tmp_path, SETTINGS, "--threads", "3")
        assert {os.environ[variable] for variable in THREAD_VARIABLES} == {"3"}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_whole_scan_has_the_same_bytes_from_two_processes(one_scan, tmp_path, threads):
    """DICOM to volume, with brain mask, registration of every sequence and N4: nothing differs, pictures included."""
    scans = listed(one_scan("cuimc"), tmp_path)
    settings = json.dumps(SETTINGS | {"n4": True})
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        where = ["--scans", str(scans), "--folder", "volumes", "--out", "volumes/shard.tsv"]
        folder.mkdir()
        command = [sys.executable, "-m", "neurorad", "volumes", *where, "--settings", settings]
        subprocess.run([*command, "--threads", str(threads)], cwd=folder, check=True, capture_output=True)
        files = sorted(path for path in (folder / "volumes").iterdir())
        made.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert made[0] == made[1]
    assert {name.split(".", 1)[1] for name in made[0]} >= {"b2nd", "json", "thumbnail.npy", "qc.webp", "qc.png", "tsv"}
    row = read_table(tmp_path / "one" / "volumes" / "shard.tsv", TEXT).iloc[0]
    assert row["status"] == "ok"
    assert np.any(load(tmp_path / "one" / row["volume"]))
