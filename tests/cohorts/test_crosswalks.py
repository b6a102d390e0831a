"""Published mappings by their own columns, own pairs, and every spelling of one patient."""

import pandas as pd
import pytest

from neurorad.cohorts.crosswalks import BRATS_2021, COLLECTION, TCIA_ID, name_of, read_crosswalk
from neurorad.cohorts.inventory import pseudonym
from neurorad.problems import InputError


def written(path, rows, columns):
    table = pd.DataFrame(rows, columns=columns)
    if path.suffix == ".xlsx":
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (("BraTS2021_00097", "BraTS-GLI-00097", "BraTS-GLI-00097-000"), "brats-gli/00097"),
        (("UPENN-GBM-00011", "UPENN-GBM-00011_11", "UPENN-GBM-00011_21"), "upenn-gbm/UPENN-GBM-00011"),
        (("UCSF-PDGM-004", "UCSF-PDGM-0004"), "ucsf-pdgm/UCSF-PDGM-0004"),
        (("UCSF-PDGM-0315", "UCSF-PDGM-0433", "UCSF-PDGM-0433_FU007d", "UCSF-PDGM-433"), "ucsf-pdgm/UCSF-PDGM-0433"),
        (("BraTS20_Training_001",), "id/brats20_training_001"),
        (("BraTS-MEN-00097",), "here/BraTS-MEN-00097"),
        (("00097",), "here/00097"),
    ],
)
def test_all_spellings_of_a_patient_are_one_name(spellings, name):
    assert {name_of("here", spelled) for spelled in spellings} == {name}


def test_own_pairs_say_what_they_cover_and_private_ids_are_pseudonyms(tmp_path):
    path = written(
        tmp_path / "p.csv",
        [("cuimc", "MRN 7", "gli", "BraTS-GLI-00001")],
        ["cohort_a", "patient_a", "cohort_b", "patient_b"],
    )
    found = read_crosswalk(path, ["cuimc", "brats-gli-pre"], private=["cuimc"])
    assert found.pairs == ((f"cuimc/{pseudonym('cuimc', 'MRN 7')}", "brats-gli/00001"),)
    assert found.covers == ("cuimc", "brats-gli-pre")
    with pytest.raises(InputError, match="own pairs need `covers:`"):
        read_crosswalk(path, None)


@pytest.mark.parametrize("suffix", [".xlsx", ".csv"])
def test_the_mapping_of_brats_2021_to_tcia(tmp_path, suffix):
    columns = [COLLECTION, "Site ID", TCIA_ID, BRATS_2021]
    rows = [
        ("UPENN-GBM", "1", "UPENN-GBM-00011_11", "BraTS2021_00005"),
        ("UCSF-PDGM", "9", "4", "BraTS2021_00097"),
        ("UCSF-PDGM", "9", "315", "BraTS2021_00758"),
        ("TCGA-LGG", "8", "TCGA-CS-4942", "BraTS2021_01476"),
        ("UCSF-PDGM_Additional", "9", "new-not-previously-in-TCIA", "00169"),
        ("UPENN-GBM_Additional", "1", "new-not-previously-in-TCIA", "BraTS2021_00017"),
        ("Collection3", "3", "new-not-previously-in-TCIA", "BraTS2021_00100"),
        ("Collection3", "3", "new-not-previously-in-TCIA", "BraTS2021_00101"),
        ("", "", "", ""),
        ("Site ID: where it was acquired", "", "", ""),
    ]
    found = read_crosswalk(written(tmp_path / f"m{suffix}", rows, columns), None)
    assert found.pairs == (
        ("brats-gli/00005", "upenn-gbm/UPENN-GBM-00011"),
        ("brats-gli/00097", "ucsf-pdgm/UCSF-PDGM-0004"),
        ("brats-gli/00758", "ucsf-pdgm/UCSF-PDGM-0433"),
        ("brats-gli/01476", "id/tcga-cs-4942"),
    )
    assert found.covers == ("brats-gli-pre", "ucsf-pdgm", "upenn-gbm")
    assert found.unresolved == (("brats-gli/00169", "ucsf-pdgm"), ("brats-gli/00017", "upenn-gbm"))
    with pytest.raises(InputError, match="drop `covers:`"):
        read_crosswalk(tmp_path / f"m{suffix}", ["ucsf-pdgm"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("UCSF-PDGM", "1", "4", "BraTS2021_97"), "row 2, column 'BraTS2021 ID': 'BraTS2021_97' is no id"),
        (("UPENN-GBM", "1", "UPENN-11", "BraTS2021_00097"), "'UPENN-11' is no patient id of UPENN-GBM"),
        (
            ("Collection3", "1", "not in TCIA", "BraTS2021_00097"),
            "row 2.*'not in TCIA' is no patient id of Collection3",
        ),
        (("UCSF-PDGM", "9", "4", ""), "row 2, column 'BraTS2021 ID': '' is no id"),
    ],
)
def test_an_impossible_id_is_named_with_its_row(tmp_path, row, message):
    path = written(tmp_path / "m.csv", [row], [COLLECTION, "Site ID", TCIA_ID, BRATS_2021])
    with pytest.raises(InputError, match=message):
        read_crosswalk(path, None)


def test_the_mapping_of_brats_2023_joins_the_names_of_a_row(tmp_path):
    columns = ["BraTS2023", "BraTS2021", "BraTS2020", "Site No (represents the originating institution)"]
    rows = [
        ("BraTS-GLI-00005-000", "BraTS2021_00005", "BraTS20_Training_007", "1"),
        ("BraTS-GLI-01700-000", "", "", "2"),
    ]
    found = read_crosswalk(written(tmp_path / "m.xlsx", rows, columns), None)
    assert found.pairs == (("brats-gli/00005", "brats-gli/00005"), ("brats-gli/00005", "id/brats20_training_007"))


def test_the_real_name_mapping_joins_four_years(shared):
    found = read_crosswalk(shared / "tables" / "BraTS_name_mapping.csv", None)
    table = pd.read_csv(shared / "tables" / "BraTS_name_mapping.csv", dtype=str, keep_default_na=False)
    names = table[[c for c in table.columns if c.endswith("subject_ID")]].replace("NA", "")
    assert len(found.pairs) == sum(max(0, (row != "").sum() - 1) for _, row in names.iterrows()) > 500
    assert found.covers == ()


def test_a_table_of_no_known_kind_is_refused_with_the_known_ones(tmp_path):
    path = written(tmp_path / "x.csv", [("1", "2")], ["patient", "other"])
    with pytest.raises(InputError, match=r"columns patient, other are of no known mapping; known are cohort_a"):
        read_crosswalk(path, None)
    with pytest.raises(InputError, match="does not exist"):
        read_crosswalk(tmp_path / "absent.csv", None)
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 not a workbook")
    with pytest.raises(InputError, match="neither CSV in UTF-8 nor an Excel workbook"):
        read_crosswalk(tmp_path / "broken.xlsx", None)


def test_an_empty_cell_of_own_pairs_is_named(tmp_path):
    path = written(tmp_path / "p.csv", [("a", "", "b", "2")], ["cohort_a", "patient_a", "cohort_b", "patient_b"])
    with pytest.raises(InputError, match="row 2: empty cohort_a or patient_a"):
        read_crosswalk(path, ["a", "b"])
