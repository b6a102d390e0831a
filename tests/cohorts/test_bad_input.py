"""What people hand in by mistake, through the commands: one clear line or a row with the reason, and nothing half written."""

import openpyxl
import pandas as pd
import pytest

from neurorad.cli import main

from .layouts import FIRST, brats, write

HEADER = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,1p/19q,IDH,1-dead 0-alive,OS,EOR"
)
ROW = 'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",negative,unknown,wildtype,1,1303,STR'


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a verb that must exit with status 2, say one line and leave no file in `tmp_path/out`; returns the line."""
    (tmp_path / "out").mkdir()

    def attempt(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(part) for part in arguments])
        assert end.value.code == 2
        assert list((tmp_path / "out").iterdir()) == []
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("neurorad ")]
        return line

    return attempt


def inventory(tmp_path, folder, release="brats-gli-pre"):
    out = tmp_path / "out"
    flags = ["inventory", "--cohort", "gli", "--release", release, "--images", folder, "--out", out / "scans.tsv"]
    return [*flags, "--unknown", out / "unknown_files.txt"]


def labels(tmp_path, content, name="table.csv"):
    path, out = tmp_path / name, tmp_path / "out"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = ["labels", "--release", "ucsf-pdgm", "--cohort", "ucsf", "--table", path, "--out", out / "patients.tsv"]
    return [
        *flags,
        "--aliases",
        out / "aliases.tsv",
        "--problems",
        out / "problems.tsv",
        "--dictionary",
        out / "p.json",
    ]


def excel(tmp_path) -> bytes:
    book = openpyxl.Workbook()
    book.active.append(HEADER.split(","))
    book.save(tmp_path / "book.xlsx")
    return (tmp_path / "book.xlsx").read_bytes()


def test_a_missing_folder(refused, tmp_path):
    line = refused(*inventory(tmp_path, tmp_path / "nowhere"))
    assert "nowhere does not exist; mend `images:`" in line


def test_an_empty_release(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no scan of release 'brats-gli-pre'" in (line := refused(*inventory(tmp_path, tmp_path / "empty")))
    assert "found no file" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEADER}\n{ROW}\n{ROW}\n", "row 3, column 'ID': 'UCSF-PDGM-004' is a second row for one exam; keep one"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('-004', '-0004')}\n", "row 3, column 'ID': 'UCSF-PDGM-0004' is a second row"),
        (
            f"{HEADER}\n{ROW.replace('UCSF-PDGM-004', 'ucsf_pdgm_4')}\n",
            "'ucsf_pdgm_4' is no id of this release (expected",
        ),
        (f"{HEADER}\n{ROW.replace('UCSF-PDGM-004', '../../x')}\n", "'../../x' is no id of this release (expected UCSF"),
        (f"{HEADER}\n{ROW}\n".replace("wildtype,1", "wildtyp,1"), "column 'IDH': 'wildtyp' is unknown; did you mean"),
        (f"{HEADER}\n{ROW}\n".replace(",66,", ',"66,5",'), "'66,5' is not a number; write a decimal point"),
        (f"{HEADER}\n{ROW}\n".replace(",66,", ",66,5,"), "row 2 has 12 cells, the header 11; a decimal comma"),
        (f"{HEADER}\n{ROW}\n".replace(",", ";").replace(";66;", ";66,5;"), "'66,5' is not a number; write a decimal"),
        (f"exported by X\n\n{HEADER}\n{ROW}\n", "the header is in row 3; delete the rows above it"),
        (f"{HEADER}\n,{ROW}\n", "row 2 has 12 cells, the header 11"),
        (f"{HEADER.replace(',', ',x,', 1)}\n{ROW}\n", "row 2 has 11 cells, the header 12"),
        (f"{HEADER}\n{ROW.replace('STR', 'é')}\n".encode("latin-1"), "not UTF-8 at byte"),
        (f"{HEADER}\n{ROW.replace('1303', '-3')}\n", "column 'OS': '-3' is not between 0 and 12000"),
        ("", "empty"),
    ],
)
def test_a_label_table_that_is_not_what_it_should_be(refused, tmp_path, content, said):
    assert said in refused(*labels(tmp_path, content))


def test_an_excel_file_where_csv_is_expected(refused, tmp_path):
    line = refused(*labels(tmp_path, excel(tmp_path)))
    assert "by its content an Excel workbook, but ucsf-pdgm has its labels in CSV" in line


def test_with_quarantine_the_bad_rows_are_listed_and_the_others_go_on(tmp_path):
    (tmp_path / "out").mkdir()
    rows = [ROW, ROW.replace("-004", "-005").replace("66", "x"), ROW.replace("UCSF-PDGM-004", "../../x")]
    main([str(part) for part in [*labels(tmp_path, "\n".join([HEADER, *rows])), "--unknown", "quarantine"]])
    patients = pd.read_csv(tmp_path / "out" / "patients.tsv", sep="\t")
    assert patients["patient"].tolist() == ["UCSF-PDGM-0004"]
    problems = pd.read_csv(tmp_path / "out" / "problems.tsv", sep="\t").fillna("")
    assert problems["patient"].tolist() == ["UCSF-PDGM-0005", ""]
    assert problems["reason"].str.contains("'x' is not a number|'../../x' is no id").all()


@pytest.fixture
def listed(tmp_path):
    """Row of the one scan with its problem, and the unexplained files, after the folder was spoilt."""

    def attempt(folder):
        (tmp_path / "out").mkdir()
        main([str(part) for part in inventory(tmp_path, folder)])
        table = pd.read_csv(tmp_path / "out" / "scans.tsv", sep="\t", dtype=str).fillna("")
        return table, (tmp_path / "out" / "unknown_files.txt").read_text().splitlines()

    return attempt


def test_two_files_for_one_sequence_are_a_row_that_names_both(tmp_path, listed):
    brats(tmp_path / "one")
    brats(tmp_path / "one" / "copy", names=("t2w",))
    scans, unknown = listed(tmp_path / "one")
    named = f"{FIRST}/{FIRST}-t2w.nii.gz and copy/{FIRST}/{FIRST}-t2w.nii.gz"
    assert scans["problem"].tolist() == [f"2 files for sequence t2w: {named}"]
    assert unknown == []


def test_an_id_in_another_spelling_is_listed_with_how_the_release_spells_it(tmp_path, listed):
    brats(tmp_path / "one")
    write(tmp_path / "one" / "brats_gli_2" / "brats_gli_2_t1c.nii.gz")
    write(tmp_path / "one" / "BraTS-GLI-2-000" / "BraTS-GLI-2-000-t1c.nii.gz")
    scans, unknown = listed(tmp_path / "one")
    assert len(scans) == 1
    assert [line.split("\t")[0].split("/")[0] for line in unknown] == ["BraTS-GLI-2-000", "brats_gli_2"]
    assert "spelled otherwise than the release does" in unknown[0]


def test_a_link_out_of_the_folder_is_listed_and_its_scan_left_out(tmp_path, listed):
    brats(tmp_path / "one")
    brats(tmp_path / "elsewhere")
    link = tmp_path / "one" / FIRST / f"{FIRST}-t2w.nii.gz"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere" / FIRST / f"{FIRST}-t2w.nii.gz")
    scans, unknown = listed(tmp_path / "one")
    assert scans["problem"].tolist() == ["missing sequence t2w"]
    assert unknown == [f"{FIRST}/{FIRST}-t2w.nii.gz\ta link out of the folder"]


@pytest.mark.parametrize("folder", ["x..%2f..%2fx", "; rm -rf x", "$(id)", "-rf"])
def test_a_folder_named_to_do_harm_is_no_scan_of_a_public_release(tmp_path, listed, folder):
    brats(tmp_path / "one")
    write(tmp_path / "one" / folder / f"{folder}-t1c.nii.gz")
    scans, unknown = listed(tmp_path / "one")
    assert scans["scan"].tolist() == ["BraTS-GLI-00001_000"]
    assert unknown == [f"{folder}/{folder}-t1c.nii.gz"]
