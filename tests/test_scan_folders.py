"""Any user's folders become scans: one patient's files each, under a name of its own, and nothing is lost without a word."""

import os
from pathlib import Path

import numpy as np
import pytest

from neurorad.files import read_table
from neurorad.imaging import volume as imaging
from neurorad.problems import InputError
from neurorad.scan_folders import find_scans, settings_of, volumes_of
from neurorad.volumes import SEQUENCES, load

from .embedding.conftest import CONTRACT, store, volume
from .imaging.conftest import slice_file

FOUR = ("a_t1.nii.gz", "a_t1ce.nii.gz", "a_t2.nii.gz", "a_flair.nii.gz")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def study(folder: Path, uid: str, series: tuple[str, ...] = ("T1", "T2"), **elements: str) -> None:
    """A folder a series, all of one DICOM study (none without `uid`)."""
    for name in series:
        slice_file(folder / name / "1", **({"StudyInstanceUID": uid} if uid else {}), **elements)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`volumes_of` through the imaging stage, but for the images: a scan's voxels are those of the seed in its t1c file."""

    def made(files, tumour, declared, settings, *rest):
        if missing := [name for name in SEQUENCES if name not in files]:
            raise imaging.ScanError(f"missing sequence {', '.join(missing)}")
        quality = {"snr": 1.0}
        pictures = {".qc.webp": b"", ".qc.png": b""}
        voxels = volume(int(files["t1c"].read_text() or 0))
        return imaging.Volume(voxels, None, "skull", SEQUENCES, {}, quality, {}, [], {}, pictures)

    monkeypatch.setattr(imaging, "make_volume", made)

    def run(*folders: Path):
        path = volumes_of(folders, lambda: settings_of(CONTRACT, None, "deepbet"), tmp_path / "keep", device="cpu")
        return read_table(path).fillna("")

    return run


def test_scans_are_found_one_a_folder_or_below_it(tmp_path):
    touch(tmp_path / "one", *FOUR, "a_seg.nii.gz")
    (row,) = find_scans(tmp_path / "one")
    assert row["scan"] == "one" and row["t1c"].endswith("a_t1ce.nii.gz")
    assert row["state"] == "stripped or defaced or skull"
    touch(tmp_path / "many" / "x", *FOUR)
    touch(tmp_path / "many" / "y", *FOUR)
    assert [row["scan"] for row in find_scans(tmp_path / "many")] == ["x", "y"]
    touch(tmp_path / "two", *FOUR, "b_t2.nii.gz")
    (row,) = find_scans(tmp_path / "two")
    assert "a_t2.nii.gz and b_t2.nii.gz are all named as t2w" in row["problem"]
    touch(tmp_path / "none", "image.nii.gz")
    with pytest.raises(
        InputError, match=r"none: holds no scan; .*no file that is named as a sequence \(a name needs a word"
    ):
        find_scans(tmp_path / "none")
    touch(tmp_path / "lacks", "t1.nii.gz", "t2.nii.gz")
    (row,) = find_scans(tmp_path / "lacks")
    assert "no file is named as t1c" in row["problem"]


def test_scans_are_found_below_patients_and_sessions_and_what_is_none_is_named(tmp_path, capsys):
    for place in ("Ann/2023", "Ann/2024", "Ben/2023", "Ben/2023/raw", "Cy", ".trash/x"):
        touch(tmp_path / place, "T1 pre.nii.gz", "T1 post gad.nii.gz", "T2.nii.gz", "FLAIR.nii")
    touch(tmp_path / "Cy", "._T1.nii.gz")
    touch(tmp_path / "Ben" / "masks", "whole_seg.nii.gz")
    rows = find_scans(tmp_path)
    assert [(row["scan"], row["patient"], row["session"]) for row in rows] == [
        ("Ann_2023", "Ann", "2023"),
        ("Ann_2024", "Ann", "2024"),
        ("Ben_2023", "Ben", "2023"),
        ("Cy", "Cy", "1"),
    ]
    assert not any(row["problem"] for row in rows)
    assert rows[0]["t1c"].endswith("Ann/2023/T1 post gad.nii.gz") and rows[0]["t1n"].endswith("T1 pre.nii.gz")
    said = capsys.readouterr().err
    assert "lie inside a scan's folder: 1 folders, such as Ben/2023/raw" in said
    assert "hold no file that is named as a sequence" in said and "1 folders, such as Ben/masks" in said


@pytest.mark.parametrize("stray", [("t1ce.nii.gz",), (*FOUR, "b_t1ce.nii.gz"), ("flair_template.nii.gz",)])
def test_a_stray_file_at_the_top_hides_no_patient_below(tmp_path, stray):
    touch(tmp_path / "top", *stray)
    touch(tmp_path / "top" / "Ann", *FOUR)
    study(tmp_path / "top" / "Ben", "1.1")
    assert [row["scan"] for row in find_scans(tmp_path / "top")] == ["Ann", "top", "Ben"]


def test_links_are_followed_once_and_a_scan_has_the_name_of_its_real_folder(tmp_path):
    touch(tmp_path / "archive" / "p1", *FOUR)
    touch(tmp_path / "mine" / "real", *FOUR)
    mine = tmp_path / "mine"
    (mine / "a-link").symlink_to(mine / "real")
    (mine / "patient-1").symlink_to(tmp_path / "archive" / "p1")
    (mine / "patient-1-again").symlink_to(tmp_path / "archive" / "p1")
    (tmp_path / "archive" / "p1" / "up").symlink_to(mine)
    assert [row["scan"] for row in find_scans(mine)] == ["patient-1", "real"]


def test_each_dicom_study_is_a_scan_and_mixed_ones_are_refused(tmp_path):
    for patient, session, uid in (("Ann", "a", "1.1"), ("Ann", "b", "1.2"), ("Ben", "a", "1.3")):
        study(tmp_path / "tidy" / patient / session, uid)
    (tmp_path / "tidy" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    rows = find_scans(tmp_path / "tidy")
    assert [(row["scan"], row["dicom"], row["problem"]) for row in rows] == [
        (f"{patient}_{session}", str(tmp_path / "tidy" / patient / session), "")
        for patient, session in (("Ann", "a"), ("Ann", "b"), ("Ben", "a"))
    ]
    # One patient's two studies, series beside series; another patient's one study beside them.
    for name, uid in (("1", "2.1"), ("2", "2.2"), ("3", "2.1"), ("4", "2.2")):
        study(tmp_path / "mixed" / "Ann", uid, (name,))
    study(tmp_path / "mixed" / "Ben", "2.3", ("1",))
    rows = find_scans(tmp_path / "mixed")
    assert [row["scan"] for row in rows] == ["Ann", "Ben_1"]
    assert "holds 2 DICOM studies mixed" in rows[0]["problem"] and not rows[1]["problem"]
    # All in one folder.
    slice_file(tmp_path / "flat" / "1", StudyInstanceUID="3.1")
    slice_file(tmp_path / "flat" / "2", StudyInstanceUID="3.2")
    (row,) = find_scans(tmp_path / "flat")
    assert row["scan"] == "flat" and "2 DICOM studies" in row["problem"]


def test_a_study_is_never_widened_to_the_folder_that_was_given(tmp_path):
    study(tmp_path / "given" / "Ann", "1.1")
    slice_file(tmp_path / "given" / "Ben" / "T1" / "1")
    first, second = find_scans(tmp_path / "given")
    assert (first["scan"], first["dicom"], first["problem"]) == ("Ann", str(tmp_path / "given" / "Ann"), "")
    assert second["scan"] == "Ben_T1" and "without StudyInstanceUID" in second["problem"]


def test_dicom_without_a_study_is_no_scan_and_spoils_that_of_its_folder_alone(tmp_path):
    study(tmp_path / "Ann", "1.1")
    slice_file(tmp_path / "Ann" / "T1c" / "1")
    study(tmp_path / "Ben", "1.2")
    study(tmp_path / "Cy", "", PatientID="Cy-3")
    rows = find_scans(tmp_path)
    assert [row["scan"] for row in rows] == ["Ann", "Ben", "Cy_T1", "Cy_T2"]
    unknown = "holds DICOM files without StudyInstanceUID, which may be of several scans; export them with it"
    assert [row["problem"] for row in rows] == [unknown, "", unknown, unknown]


def test_only_mr_counts_as_a_study_and_dicom_of_other_kinds_is_named(tmp_path, capsys):
    for name in ("1", "2"):
        slice_file(tmp_path / "flat" / name, StudyInstanceUID="1.1")
    slice_file(tmp_path / "flat" / "ct", StudyInstanceUID="1.2", Modality="CT")
    study(tmp_path / "flat" / "dose", "1.3", Modality="SR")
    (row,) = find_scans(tmp_path / "flat")
    assert (row["scan"], row["problem"]) == ("flat", "")
    assert "hold DICOM files but no MR series: 2 folders, such as dose/T1" in capsys.readouterr().err
    study(tmp_path / "ct", "1.4", Modality="CT")
    with pytest.raises(InputError, match="ct: holds no scan; .*no MR series: 2 folders, such as T1"):
        find_scans(tmp_path / "ct")


def test_dicom_in_or_below_the_folder_of_a_nifti_scan_is_passed_over_by_name(tmp_path, capsys):
    touch(tmp_path / "Ann", *FOUR)
    study(tmp_path / "Ann" / "raw", "1.1")
    touch(tmp_path / "Ben", *FOUR)
    slice_file(tmp_path / "Ben" / "1", StudyInstanceUID="1.2")
    rows = find_scans(tmp_path)
    assert [(row["scan"], row["dicom"], row["problem"]) for row in rows] == [("Ann", "", ""), ("Ben", "", "")]
    said = capsys.readouterr().err
    assert "hold DICOM in or below the folder of a NIfTI scan: 3 folders, such as Ann/raw/T1" in said


@pytest.mark.parametrize("place", ["Ben", ".Ben"])
def test_dicom_of_two_patients_under_one_study_never_becomes_a_scan(tmp_path, make, capsys, place):
    study(tmp_path / "given" / "Ann", "1.71", PatientID="Ann-1")
    study(tmp_path / "given" / place, "1.71", PatientID="Ben-2")
    with pytest.raises(InputError, match="no scan could be used"):
        make(tmp_path / "given")
    said = capsys.readouterr().err
    assert ("more than one PatientID (its MR files have 2)" in said) == (place == "Ben")
    assert not any(value in said for value in ("Ann-1", "Ben-2", "1.71"))
    # What is hidden is not there at all: of the visible patient alone, T1 and T2 without physics are no scan.
    assert ("Ann: left out: missing sequence" in said) == (place == ".Ben")


def test_patients_whose_names_other_programs_take_for_missing_have_a_volume_each(tmp_path, make):
    names = ("NA", "None", "nan", "null")
    for seed, name in enumerate(names, start=1):
        touch(tmp_path / "given" / name / "NA", *FOUR)
        (tmp_path / "given" / name / "NA" / "a_t1ce.nii.gz").write_text(str(seed))
    table = make(tmp_path / "given")
    assert table["patient"].tolist() == list(names) and table["session"].tolist() == ["NA"] * 4
    assert table["scan"].tolist() == [f"{name}_NA" for name in names]
    for seed, path in enumerate(table["volume"], start=1):
        np.testing.assert_array_equal(load(path), volume(seed).astype(np.float16))


def test_of_several_folders_the_own_name_of_each_comes_first(tmp_path, make):
    for patient in ("patient-1", "patient-2"):
        for session in ("2023", "2024"):
            touch(tmp_path / patient / session, *FOUR)
    table = make(tmp_path / "patient-1", tmp_path / "patient-2")
    assert table["scan"].tolist() == [f"patient-{n}_{year}" for n in (1, 2) for year in (2023, 2024)]
    assert table["patient"].tolist() == ["patient-1"] * 2 + ["patient-2"] * 2
    assert table["session"].tolist() == ["2023", "2024"] * 2
    assert make(tmp_path / "patient-1")["scan"].tolist() == ["2023", "2024"]


def test_finished_volumes_of_several_folders_are_told_apart_and_stay_patients(tmp_path, make):
    for folder in ("here", "there"):
        store(tmp_path / folder, "mine", 2, masks=False)
    os.rename(tmp_path / "there" / "mine", tmp_path / "there" / "yours")
    (tmp_path / "here" / "mine" / ".writing-x.b2nd").touch()
    table = make(tmp_path / "here" / "mine", tmp_path / "there" / "yours")
    assert table["scan"].tolist() == ["mine_mine-0", "mine_mine-1", "yours_mine-0", "yours_mine-1"]
    assert table["patient"].tolist() == table["scan"].tolist()
    assert (table["status"] == "ok").all()


def test_a_study_that_lies_in_the_folder_itself_has_its_name(tmp_path):
    slice_file(tmp_path / "Ann" / "1", StudyInstanceUID="1.1")
    for several in (False, True):
        assert [row["scan"] for row in find_scans(tmp_path / "Ann", several)] == ["Ann"]


def test_a_clash_of_names_stops_only_the_scans_that_have_it(tmp_path, make, capsys):
    for place in ("a/b_c", "a_b/c", "d"):
        touch(tmp_path / "given" / place, *FOUR)
    # A DICOM study beside NIfTI files that are no whole scan: neither is taken for the other.
    touch(tmp_path / "given" / "e", "t1ce.nii.gz")
    slice_file(tmp_path / "given" / "e" / "1", StudyInstanceUID="1.1")
    table = make(tmp_path / "given")
    assert table.loc[table["status"] == "ok", "scan"].tolist() == ["d"]
    said = capsys.readouterr().err
    for name in ("a_b_c", "e"):
        assert said.count(f"{name}: left out: 2 scans are called so, by the folders on the way to them; rename") == 1


def test_a_folder_without_scans_among_several_is_named_and_one_that_is_not_there_stops(tmp_path, make, capsys):
    touch(tmp_path / "Ann", *FOUR)
    touch(tmp_path / "empty")
    touch(tmp_path / "odd", "image.nii.gz")
    assert make(tmp_path / "empty", tmp_path / "Ann", tmp_path / "odd")["scan"].tolist() == ["Ann"]
    said = capsys.readouterr().err
    assert f"left out: {tmp_path}/empty: holds neither NIfTI nor DICOM images" in said
    assert f"left out: {tmp_path}/odd: holds no scan; " in said
    with pytest.raises(InputError, match="empty: holds neither .*; .*odd: holds no scan"):
        make(tmp_path / "empty", tmp_path / "odd")
    with pytest.raises(InputError, match="gone: no such folder"):
        make(tmp_path / "Ann", tmp_path / "gone")


def test_names_that_are_not_utf8_leave_out_their_scan_alone(tmp_path, make, capsys):
    odd = os.fsdecode(b"J\xfcrg")
    touch(tmp_path / "given" / "Ann", *FOUR)
    touch(tmp_path / "given" / odd, *FOUR)
    touch(tmp_path / "given" / odd / "raw", *FOUR)
    touch(tmp_path / "given" / "Ben", *(f"{odd}_{name}" for name in FOUR))
    study(tmp_path / "given" / "Cy" / odd, "1.1")
    table = make(tmp_path / "given")
    assert table.loc[table["status"] == "ok", "scan"].tolist() == ["Ann"]
    said = capsys.readouterr().err
    for name in (r"J\udcfcrg", "Ben", r"Cy_J\udcfcrg"):
        assert (
            f"{name}: left out: the name of its folder, or of a file in it, is not UTF-8 or breaks a line; rename it"
            in said
        )
    assert r"lie inside a scan's folder: 1 folders, such as J\udcfcrg/raw" in said


def test_a_sequence_that_is_missing_is_the_reason(tmp_path, make, capsys):
    touch(tmp_path / "given" / "Ann", *FOUR)
    touch(tmp_path / "given" / "Ben", *FOUR[:2])
    assert make(tmp_path / "given").set_index("scan")["reason"].to_dict() == {
        "Ann": "",
        "Ben": "missing sequence t2w, t2f",
    }
    assert capsys.readouterr().err.count("Ben: left out: missing sequence t2w, t2f") == 1


def test_a_folder_with_files_of_two_patients_is_left_out(tmp_path, make, capsys):
    touch(tmp_path / "all", "smith_t1.nii.gz", "smith_t1ce.nii.gz", "jones_t2.nii.gz", "jones_flair.nii.gz")
    touch(tmp_path / "own", *FOUR)
    assert make(tmp_path).set_index("scan")["status"].to_dict() == {"all": "excluded", "own": "ok"}
    assert "all: left out: smith_t1.nii.gz and jones_t2.nii.gz may be of two patients; call" in capsys.readouterr().err


def test_a_t1_before_contrast_is_never_the_enhanced_one(tmp_path):
    touch(tmp_path / "a", "T1_pre_contrast.nii.gz", "T1_post_contrast.nii.gz", "T2.nii.gz", "T2_FLAIR.nii.gz")
    touch(tmp_path / "b", "T1_pre_contrast.nii.gz", "T2.nii.gz", "FLAIR.nii.gz")
    first, second = find_scans(tmp_path)
    assert {Path(first[name]).name[:-7] for name in ("t1n", "t1c")} == {"T1_pre_contrast", "T1_post_contrast"}
    assert Path(first["t1n"]).name == "T1_pre_contrast.nii.gz" and not first["problem"]
    assert second["t1c"] == "" and "no file is named as t1c" in second["problem"]


def test_folders_called_by_numbers_are_given_from_where_they_lie(tmp_path, monkeypatch, capsys):
    """As `cd cohort; neurorad embed 001 7`."""
    monkeypatch.chdir(tmp_path)
    for name in ("001", "7"):
        study(Path(name), f"1.{int(name)}")
    with pytest.raises(InputError, match="no scan could be used"):
        volumes_of(
            [Path("001"), Path("7")], lambda: settings_of(CONTRACT, None, "deepbet"), tmp_path / "keep", device="cpu"
        )
    said = capsys.readouterr().err
    assert "001: left out: missing sequence" in said and "7: left out: missing sequence" in said


def test_what_lies_beside_finished_volumes_is_named(tmp_path, capsys):
    folder = store(tmp_path, "here", 2, masks=True).parent
    assert len(find_scans(folder)) == 2
    assert capsys.readouterr().err == ""
    touch(folder / "c", *FOUR)
    assert len(find_scans(folder)) == 2
    assert "only its finished volumes (.b2nd) are taken; passed over: 4 other image files, such as c/a_flair" in (
        capsys.readouterr().err
    )


def test_folders_of_files_that_are_no_images_are_named_unless_they_lie_around_scans(tmp_path, capsys):
    touch(tmp_path / "Ann" / "2023", *FOUR)
    touch(tmp_path / "Ann", "notes.txt")
    touch(tmp_path / "Ann" / "2023" / "more", "notes.txt")
    assert len(find_scans(tmp_path)) == 1
    assert capsys.readouterr().err == ""
    touch(tmp_path / "Ben", "t1.mgz", "t2.mgz")
    touch(tmp_path / "Cy" / "a", "DICOMDIR")
    assert len(find_scans(tmp_path)) == 1
    assert "hold neither NIfTI nor DICOM files that can be read: 2 folders, such as Ben" in capsys.readouterr().err


def test_a_volume_without_a_usable_card_is_left_out_and_the_others_go_on(tmp_path, capsys):
    folder = store(tmp_path, "x", 4, masks=False).parent
    (folder / "x-1.json").unlink()
    (folder / "x-2.json").write_text("{")
    (folder / "x-3.json").write_text("{}")
    table = read_table(volumes_of([folder], dict, tmp_path / "keep")).set_index("scan")
    assert table["status"].tolist() == ["ok", "excluded", "excluded", "excluded"]
    said = capsys.readouterr().err
    assert "x-1: left out: no card x-1.json beside it" in said
    assert said.count("is damaged; make the volume again") == 2


def test_names_too_long_or_with_a_line_break_and_files_that_may_not_be_read_leave_out_their_scan_alone(
    tmp_path, make, capsys, monkeypatch
):
    for place in ("Ann", f"{'x' * 150}/{'y' * 100}", "Ben\rC", "Dan"):
        touch(tmp_path / "given" / place, *FOUR)
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "Dan" not in str(path) and readable(path, mode))
    table = make(tmp_path / "given")
    assert table.loc[table["status"] == "ok", "scan"].tolist() == ["Ann"]
    assert len(table) == 4
    said = capsys.readouterr().err
    assert "has more than 200 bytes; shorten" in said
    assert r"Ben\rC: left out: the name of its folder" in said
    assert "Dan: left out: a file in its folder may not be read; mend its permissions" in said


def test_a_stray_image_beside_a_dicom_study_does_not_stop_it(tmp_path, capsys):
    touch(tmp_path / "p", "old_t2.nii.gz")
    study(tmp_path / "p", "1.1")
    (tmp_path / "keep").mkdir()
    with pytest.raises(InputError):
        volumes_of([tmp_path], lambda: settings_of(CONTRACT, None, "deepbet"), tmp_path / "keep", device="cpu")
    said = capsys.readouterr().err
    assert "p: passed over beside its scan: no file is named as t1c" in said
    # It was the study that was looked at.
    assert "p: left out: missing sequence t1n: no DICOM series fits" in said


def test_an_empty_modality_is_taken_for_mr(tmp_path):
    study(tmp_path / "p", "1.1", Modality="")
    (row,) = find_scans(tmp_path)
    assert row["dicom"].endswith("p") and not row["problem"]
