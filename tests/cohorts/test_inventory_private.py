"""Cohorts that a config or a hospital names: nothing that identifies a patient leaves the folder."""

import re
import unicodedata
from dataclasses import replace

import pytest

from neurorad.cohorts.inventory import list_scans, pseudonym
from neurorad.cohorts.releases import RELEASES, generic
from neurorad.problems import InputError

from .layouts import SPELLED, listed, write


@pytest.mark.parametrize("patient", ["MRN 123", "O'Hara; rm -rf x", '"quoted"', "$(id)", "Müller"])
def test_a_private_name_leaves_only_as_a_pseudonym(tmp_path, patient):
    for name in SPELLED.values():
        write(tmp_path / patient / "2020 01" / f"scan_{name}_x.nii.gz")
    release = generic("{patient}/{session}/*{sequence}*.nii.gz", SPELLED, "skull")
    scans, unknown = list_scans("mine", tmp_path, release)
    row = scans.iloc[0]
    assert row["t1c"].endswith("scan_T1ce_x.nii.gz")
    assert row["t1n"].endswith("scan_T1_x.nii.gz")
    assert re.fullmatch(r"mine-[0-9a-f]{10}_[0-9a-f]{10}", row["scan"])
    assert patient not in row["scan"] + row["patient"] + row["session"]
    assert unknown == []


def test_no_problem_of_a_private_scan_names_its_files(tmp_path):
    for name in SPELLED.values():
        write(tmp_path / "MRN123" / f"{name}_a.nii.gz")
    write(tmp_path / "MRN123" / "T2_b.nii.gz")
    scans, _ = list_scans("mine", tmp_path, generic("{patient}/*{sequence}*.nii.gz", SPELLED, "skull"))
    assert scans["problem"].item() == "2 files for sequence t2w: scans.tsv names them"
    assert scans["t2w"].item() == f"{tmp_path}/MRN123/T2_a.nii.gz | {tmp_path}/MRN123/T2_b.nii.gz"


def test_an_error_of_a_private_cohort_names_no_file(tmp_path):
    write(tmp_path / "DOE^JANE" / "a.nii.gz")
    for release in (RELEASES["cuimc"], generic("{patient}/x/*{sequence}*.nii.gz", SPELLED, "skull")):
        with pytest.raises(InputError, match="found 1 other files; mend") as problem:
            list_scans("mine", tmp_path, release)
        assert "DOE" not in str(problem.value)


def test_an_accented_name_is_one_name_however_unicode_spells_it():
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert pseudonym("mine", composed) == pseudonym("mine", decomposed) != pseudonym("mine", "Muller")


def hospital(folder, session, names=("t1n", "t1c", "t2w", "t2f", "tumour")):
    for name in names:
        write(folder / "MRN123" / session / f"{name}.nii.gz")


def test_a_hospital_gives_dicom_or_nifti(tmp_path):
    hospital(tmp_path, "a")
    for name in ("IM0001", "IM0002.dcm", "DICOMDIR"):
        (tmp_path / "MRN456" / "b" / "3-T1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MRN456" / "b" / "3-T1" / name).touch()
    (tmp_path / "MRN456" / "b" / "export.txt").touch()
    scans, unknown = listed(tmp_path, "cuimc")
    scans = scans.set_index("patient")
    nifti, dicom = scans.loc[pseudonym("gli", "MRN123")], scans.loc[pseudonym("gli", "MRN456")]
    assert (nifti["problem"], nifti["dicom"]) == ("", "")
    assert nifti["tumour"].endswith("MRN123/a/tumour.nii.gz")
    assert (dicom["problem"], dicom["t1n"], dicom["dicom"]) == ("", "", str(tmp_path / "MRN456" / "b"))
    assert (scans["tumour_labels"] + "/" + scans["cavity_labels"]).unique().tolist() == ["1 2 3/4"]
    assert unknown == []


def test_a_hospital_session_with_both_or_with_other_names_is_not_guessed(tmp_path):
    hospital(tmp_path, "a")
    (tmp_path / "MRN123" / "a" / "IM0001").touch()
    write(tmp_path / "MRN123" / "a" / "extra_t1.nii.gz")
    scans, unknown = listed(tmp_path, "cuimc")
    assert scans["problem"].item() == "both DICOM and NIfTI files in the session's folder"
    assert unknown == ["MRN123/a/extra_t1.nii.gz"]


def test_a_bids_data_set(tmp_path):
    anat = tmp_path / "sub-01" / "ses-2" / "anat"
    for name in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"):
        write(anat / f"sub-01_ses-2_{name}.nii.gz")
        (anat / f"sub-01_ses-2_{name}.json").touch()
    write(anat / "sub-01_ses-2_T2star.nii.gz")
    (tmp_path / "README").touch()
    release = replace(RELEASES["bids"], state=("skull",))
    scans, unknown = list_scans("open", tmp_path, release)
    assert scans["scan"].tolist() == ["sub-01_ses-2"]
    assert scans["t1n"].item().endswith("ses-2_T1w.nii.gz")
    assert scans["t1c"].item().endswith("ce-gadolinium_T1w.nii.gz")
    assert scans["problem"].item() == ""
    assert unknown == ["sub-01/ses-2/anat/sub-01_ses-2_T2star.nii.gz"]
    write(anat / "sub-01_ses-2_run-2_T1w.nii.gz")
    scans, _ = list_scans("open", tmp_path, release)
    assert scans["problem"].item().startswith("2 files for sequence t1n: ")
