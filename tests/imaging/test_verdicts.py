"""Verdicts: read strictly, with file, row and value in every refusal; a fail leaves, a pass changes nothing."""

import re

import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, write_table
from neurorad.imaging.verdicts import read_verdicts
from neurorad.problems import InputError

HEADER = "scan\tverdict\tcomment\twho\twhen\tsha256\n"


def index(folder):
    table = pd.DataFrame(
        [
            ("a", "s1", "p1", "1.b2nd", "aa", "ok", ""),
            ("a", "s2", "p2", "2.b2nd", "bb", "ok", ""),
            ("a", "s3", "p3", "", "", "excluded", "dark"),
        ],
        columns=["cohort", "scan", "patient", "volume", "sha256", "status", "reason"],
    )
    write_table(folder / "shard.tsv", table)
    return folder / "shard.tsv"


def written(folder, *rows: str, header: str = HEADER):
    path = folder / "verdicts.tsv"
    path.write_text(header + "".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def indexed(folder, *rows: str) -> pd.DataFrame:
    out = folder / "volumes.tsv"
    main(["volumes-index", str(index(folder)), "--verdicts", str(written(folder, *rows)), "--out", str(out)])
    return read_table(out).fillna("")


def test_a_fail_leaves_with_its_comment_and_keeps_its_volume_to_be_looked_at_again(tmp_path):
    table = indexed(tmp_path, "s2\tfail\tcerebellum cut\tAB\t2026-01-02\tbb").set_index("scan")
    assert table.loc["s2", ["status", "reason", "volume"]].tolist() == [
        "failed",
        "failed by eye: cerebellum cut",
        "2.b2nd",
    ]
    assert table.loc["s1", "status"] == "ok"


def test_a_pass_or_a_comment_changes_no_byte_of_the_index(tmp_path):
    indexed(tmp_path, "s1\tpass\t\tAB\t2026-01-02\taa", "s2\t\tlook again\tAB\t2026-01-02\tbb")
    with_verdicts = (tmp_path / "volumes.tsv").read_bytes()
    main(["volumes-index", str(tmp_path / "shard.tsv"), "--out", str(tmp_path / "plain.tsv")])
    assert with_verdicts == (tmp_path / "plain.tsv").read_bytes()


def test_a_scan_without_a_volume_keeps_its_own_reason(tmp_path):
    table = indexed(tmp_path, "s3\tfail\t\tAB\t2026-01-02\t").set_index("scan")
    assert table.loc["s3", ["status", "reason"]].tolist() == ["excluded", "dark"]


def test_what_a_spreadsheet_makes_of_the_file_is_read_too(tmp_path):
    path = tmp_path / "v.tsv"
    path.write_bytes(
        b'\xef\xbb\xbfwhen\twho\tscan\tverdict\tcomment\r\n2026-01-02\tAB\t s1 \tfail\t"says ""no"""\r\n\t\t\t\t\r\n'
    )
    row = read_verdicts(path).iloc[0]
    assert (row["scan"], row["comment"], row["row"], row["sha256"]) == ("s1", 'says "no"', 2, "")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["s1\tbad\t\tAB\t2026-01-02\t"], "row 2: verdict 'bad' is none of pass, fail or nothing"),
        (["s1\tpass\t\tAB\t2026-01-02\t", "s1\tfail\t\tAB\t2026-01-02\t"], "row 3: scan 's1' is in row 2 too"),
        (["s1\tpass\t\t\t2026-01-02\t"], "row 2: nobody gave this verdict"),
        (["s1\tpass\t\tAB\t02.01.2026\t"], "row 2: when '02.01.2026' is no day written YYYY-MM-DD"),
        (["s1\t\t\tAB\t2026-01-02\t"], "row 2: neither a verdict nor a comment"),
        (["\tpass\t\tAB\t2026-01-02\t"], "row 2: no scan"),
        (["s1\tpass"], "row 2 has 2 cells, the header 6"),
        (
            ["s1\tpass\t\tAB\t2026-01-02\t", "s2x\tfail\t\tAB\t2026-01-02\t"],
            "row 3: .* no volume of scan 's2x'; is 's2' meant?",
        ),
    ],
)
def test_a_wrong_row_is_refused_by_file_row_and_value(tmp_path, rows, said, capsys):
    with pytest.raises(SystemExit) as left:
        indexed(tmp_path, *rows)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "verdicts.tsv") in error
    assert re.search(said, error), error


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("scan\tverdict\tcomment\twho\n", "column 'when' is missing"),
        (HEADER.replace("sha256", "mood"), "column 'mood' is unknown"),
        ("", "column 'scan' is missing"),
    ],
)
def test_another_table_is_no_verdict_file(tmp_path, header, said):
    with pytest.raises(InputError, match=said):
        read_verdicts(written(tmp_path, header=header))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.tsv: cannot be read"):
        read_verdicts(tmp_path / "nowhere.tsv")
