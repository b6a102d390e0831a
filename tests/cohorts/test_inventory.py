"""Releases are read as they name themselves; what cannot be used says why."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.cohorts.inventory import files_below, grid_class, list_scans, listing_digest
from neurorad.cohorts.releases import generic
from neurorad.problems import InputError

from .layouts import ALL, FIRST, SPELLED, brats, listed, problem_of, write


def test_a_release_in_its_own_layout(tmp_path):
    brats(tmp_path)
    brats(tmp_path, session="001", names=("t1n", "t1c", "t2w"))
    write(tmp_path / "stray.nii.gz")
    (tmp_path / "name_mapping.csv").touch()
    scans, unknown = listed(tmp_path)
    assert scans["scan"].tolist() == ["BraTS-GLI-00001_000", "BraTS-GLI-00001_001"]
    assert scans["problem"].tolist() == ["", "missing sequence t2f"]
    assert scans["t1c"].tolist()[0] == str(tmp_path / FIRST / f"{FIRST}-t1c.nii.gz")
    assert scans["tumour"].iloc[0] == str(tmp_path / FIRST / f"{FIRST}-seg.nii.gz")
    assert scans["tumour_labels"].iloc[0] == "1 2 3 4"
    assert scans["grid"].iloc[0] == "sri24"
    assert unknown == ["stray.nii.gz"]


def test_real_scans_are_on_the_grid_of_brats(shared):
    scans, unknown = listed(shared / "brats2021")
    assert scans["scan"].tolist() == [f"BraTS2021_0{number}" for number in range(1476, 1482)]
    assert scans["grid"].tolist() == ["sri24"] * 6
    assert (scans["problem"] == "").all()
    assert unknown == []


def test_a_raw_real_scan_has_four_grids(shared):
    release = generic("{patient}/*_{sequence}.nii.gz", SPELLED, "skull")
    scans, _ = list_scans("raw", shared / "raw", release)
    assert scans["grid"].item() == "mixed"
    assert scans["problem"].item() == ""
    assert scans["state"].item() == "skull"


def test_a_release_that_may_be_in_two_states_says_so(tmp_path):
    brats(tmp_path, patient="BraTS-PED-00001")
    scans, _ = listed(tmp_path, "brats-ped")
    assert scans["state"].item() == "stripped or defaced"


# Another grid than the documented one


def test_a_scan_on_another_grid_than_its_release_names_both(tmp_path):
    for name in ALL:
        write(tmp_path / FIRST / f"{FIRST}-{name}.nii.gz", (30, 24, 16))
    problem = problem_of(tmp_path)
    assert problem.startswith(
        "declared grid sri24 or mni152-182, but detected native (t1n 30x24x16 at 10 x 10 x 10 mm,"
    )


def test_one_shifted_sequence_is_another_grid(tmp_path):
    brats(tmp_path)
    write(tmp_path / FIRST / f"{FIRST}-t2w.nii.gz", shift=5.0)
    assert problem_of(tmp_path).startswith("declared grid sri24 or mni152-182, but detected mixed")


def test_a_metastasis_scan_may_be_on_a_grid_of_its_own_but_on_one(tmp_path):
    for name in ALL:
        write(tmp_path / "BraTS-MET-00553-000" / f"BraTS-MET-00553-000-{name}.nii.gz", (30, 24, 16))
    scans, _ = listed(tmp_path, "brats-met")
    assert (scans["grid"].item(), scans["problem"].item()) == ("native", "")
    write(tmp_path / "BraTS-MET-00553-000" / "BraTS-MET-00553-000-t1n.nii.gz", (31, 24, 16))
    assert "detected mixed" in problem_of(tmp_path, "brats-met")


@pytest.mark.parametrize(
    ("shape", "spacing", "name"),
    [
        ((240, 240, 155), 1, "sri24"),
        ((120, 120, 78), 2, "sri24"),
        ((182, 218, 182), 1, "mni152-182"),
        ((193, 229, 193), 1, "mni152-193"),
        ((197, 233, 189), 1, "mni152-197"),
        ((49, 58, 49), 4, "mni152-193"),
        ((256, 224, 26), 1, "native"),
        ((242, 240, 155), 1, "native"),
    ],
)
def test_grid_class(shape, spacing, name):
    assert grid_class(shape, (spacing,) * 3) == name


def test_voxels_that_are_no_cubes_are_no_atlas():
    assert grid_class((240, 240, 31), (1.0, 1.0, 5.0)) == "native"


# Bad files: one row with the reason, never a crash


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", "git-annex pointer"),
        (b"\x1f\x8b\x08\x00 no deflate", "damaged compression"),
        (b"plain bytes that are no image", "not compressed"),
    ],
)
def test_a_file_that_is_no_image_is_a_row_with_the_reason(tmp_path, content, reason):
    brats(tmp_path)
    (tmp_path / FIRST / f"{FIRST}-t2w.nii.gz").write_bytes(content)
    assert re.match(f"t2w: not a readable NIfTI file .*{reason}", problem_of(tmp_path))


def test_a_file_that_may_not_be_opened_is_a_row_with_the_reason(tmp_path, monkeypatch):
    brats(tmp_path)
    opened = open

    def guarded(path, *rest, **named):
        if str(path).endswith("t2w.nii.gz"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **named)

    monkeypatch.setattr("builtins.open", guarded)
    assert problem_of(tmp_path) == "t2w: cannot be read (Permission denied)"


def test_a_folder_that_may_not_be_opened_stops_the_inventory(tmp_path, monkeypatch):
    brats(tmp_path)
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("-000"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(InputError, match=f"{FIRST} cannot be read .Permission denied"):
        listed(tmp_path)


def test_four_dimensions_and_no_orientation_are_seen_in_the_header(tmp_path):
    brats(tmp_path)
    write(tmp_path / FIRST / f"{FIRST}-t2w.nii.gz", (24, 24, 16, 2))
    assert problem_of(tmp_path) == "t2w: expected a 3D image, got shape 24x24x16x2"
    image = nib.Nifti1Image(np.ones((24, 24, 16), np.float32), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / FIRST / f"{FIRST}-t2w.nii.gz")
    assert problem_of(tmp_path) == "t2w: header has no orientation (sform and qform codes are 0)"


def test_two_files_for_one_sequence_are_both_named(tmp_path):
    folder = tmp_path / "BraTS2021_00001"
    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        write(folder / f"BraTS2021_00001_{name}.nii.gz")
    write(folder / "BraTS2021_00001_t2.nii")
    assert problem_of(tmp_path) == (
        "2 files for sequence t2w: BraTS2021_00001/BraTS2021_00001_t2.nii and BraTS2021_00001/BraTS2021_00001_t2.nii.gz"
    )
    (folder / "BraTS2021_00001_t2.nii").unlink()
    write(folder / "BraTS2021_00001_seg.nii")
    assert problem_of(tmp_path).startswith("2 files for the tumour mask: ")


def test_a_scan_that_was_downloaded_twice_is_one_row_that_names_both(tmp_path):
    brats(tmp_path / "first")
    brats(tmp_path / "second")
    scans, _ = listed(tmp_path)
    assert scans["scan"].tolist() == ["BraTS-GLI-00001_000"]
    assert f"first/{FIRST}/{FIRST}-t1n.nii.gz and second/{FIRST}/" in scans["problem"].item()


@pytest.mark.parametrize("spelled", ["UCSF-PDGM-0315", "UCSF-PDGM-0433_FU007d"])
def test_a_follow_up_that_an_older_version_names_as_a_patient_is_the_same_scan(tmp_path, spelled):
    for sequence in ("T1", "T1c", "T2", "FLAIR"):
        write(tmp_path / f"{spelled}_nifti" / f"{spelled}_{sequence}.nii.gz")
    scans, _ = listed(tmp_path, "ucsf-pdgm")
    assert scans[["scan", "patient", "session"]].to_numpy().tolist() == [
        ["UCSF-PDGM-0433_FU007d", "UCSF-PDGM-0433", "FU007d"]
    ]
    assert scans["t1c"].item().endswith(f"{spelled}_T1c.nii.gz")


def test_a_mask_without_images_is_no_scan(tmp_path):
    brats(tmp_path)
    brats(tmp_path, patient="BraTS-GLI-00002", names=("seg",))
    scans, _ = listed(tmp_path)
    assert len(scans) == 1


# Files that belong to no scan: listed, never guessed


def test_an_empty_or_absent_release_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        listed(tmp_path / "none")
    with pytest.raises(InputError, match="found no file"):
        listed(tmp_path)
    write(tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match="no scan of release 'ucsf-pdgm'.*expected UCSF-PDGM-0004_nifti.*other.nii.gz"):
        listed(tmp_path, "ucsf-pdgm")


def test_an_id_in_another_spelling_is_listed_with_the_release_s_own(tmp_path):
    brats(tmp_path)
    brats(tmp_path, patient="BraTS-GLI-2", names=("t1c",))
    brats(tmp_path, patient="brats-gli-00003", names=("t1c",))
    _, unknown = listed(tmp_path)
    assert [line.split("\t")[0][:15] for line in unknown] == ["BraTS-GLI-2-000", "brats-gli-00003"]
    assert all("spelled otherwise than the release does: BraTS-GLI-00000-000/" in line for line in unknown)


def test_radiotherapy_scans_are_refused_by_name(tmp_path):
    write(tmp_path / "BraTS-MEN-RT-0002-1" / "BraTS-MEN-RT-0002-1_t1c.nii.gz")
    with pytest.raises(InputError, match="BraTS-MEN-RT: one sequence"):
        listed(tmp_path, "brats-men")
    brats(tmp_path, patient="BraTS-MEN-00004")
    scans, unknown = listed(tmp_path, "brats-men")
    assert len(scans) == 1
    assert unknown == [
        "BraTS-MEN-RT-0002-1/BraTS-MEN-RT-0002-1_t1c.nii.gz\tBraTS-MEN-RT: one sequence (t1c), no scan of four"
    ]


def test_links_are_followed_to_files_inside_only(tmp_path):
    outside = tmp_path / "outside"
    brats(outside, patient="BraTS-GLI-00009")
    release = tmp_path / "release"
    brats(release, names=("t1n", "t1c"))
    folder = release / FIRST
    (release / "store").mkdir()
    write(release / "store" / "kept.nii.gz")
    (folder / f"{FIRST}-t2w.nii.gz").symlink_to(release / "store" / "kept.nii.gz")
    (folder / f"{FIRST}-t2f.nii.gz").symlink_to(next(outside.rglob("*t2f*")))
    (folder / f"{FIRST}-seg.nii.gz").symlink_to(folder / "absent.nii.gz")
    (release / "BraTS-GLI-00009-000").symlink_to(outside / "BraTS-GLI-00009-000")
    (release / "loop").symlink_to(release)
    scans, unknown = listed(release)
    assert scans["scan"].tolist() == ["BraTS-GLI-00001_000"]
    assert scans["problem"].item() == "missing sequence t2f"
    assert scans["t2w"].item().endswith("-t2w.nii.gz")
    assert unknown == [
        f"{FIRST}/{FIRST}-seg.nii.gz\ta link to no file",
        f"{FIRST}/{FIRST}-t2f.nii.gz\ta link out of the folder",
        "BraTS-GLI-00009-000\ta link out of the folder",
        "loop\ta link out of the folder",
        "store/kept.nii.gz",
    ]


def test_a_pipe_is_listed_and_not_waited_for(tmp_path):
    brats(tmp_path, names=("t1n", "t1c", "t2w"))
    os.mkfifo(tmp_path / FIRST / f"{FIRST}-t2f.nii.gz")
    scans, unknown = listed(tmp_path)
    assert scans["problem"].item() == "missing sequence t2f"
    assert unknown == [f"{FIRST}/{FIRST}-t2f.nii.gz\tno regular file"]


@pytest.mark.parametrize("name", [b"new\nline.nii.gz", b"tab\t.nii.gz", b"latin-\xe9.nii.gz"])
def test_a_name_that_would_break_a_table_is_listed_escaped(tmp_path, name):
    brats(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    _, unknown = listed(tmp_path)
    assert len(unknown) == 1
    assert unknown[0].endswith("\tcontrol characters or no UTF-8 in its name")
    assert "\n" not in unknown[0]
    assert unknown[0].count("\t") == 1
    unknown[0].encode("utf-8")
    assert listing_digest(tmp_path) == listing_digest(tmp_path)


# The command


def test_the_command_writes_both_files_or_none(tmp_path, capsys):
    out = ["--out", str(tmp_path / "scans.tsv"), "--unknown", str(tmp_path / "unknown_files.txt")]
    brats(tmp_path / "images")
    write(tmp_path / "images" / "stray.nii.gz")
    main(["inventory", "--cohort", "gli", "--release", "brats-gli-pre", "--images", str(tmp_path / "images"), *out])
    table = pd.read_csv(tmp_path / "scans.tsv", sep="\t", keep_default_na=False, dtype=str)
    assert table["scan"].tolist() == ["BraTS-GLI-00001_000"]
    assert (tmp_path / "unknown_files.txt").read_text() == "stray.nii.gz\n"
    assert "1 scans of 1 patients, 1 usable, 1 unexplained files" in capsys.readouterr().err
    (tmp_path / "scans.tsv").unlink()
    (tmp_path / "unknown_files.txt").unlink()
    with pytest.raises(SystemExit) as left:
        main(["inventory", "--cohort", "gli", "--release", "ucsf-pdgm", "--images", str(tmp_path / "images"), *out])
    assert left.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_touching_a_file_changes_no_digest_and_a_new_one_does(tmp_path):
    brats(tmp_path)
    before = listing_digest(tmp_path)
    next(tmp_path.rglob("*t1n*")).touch()
    assert listing_digest(tmp_path) == before
    brats(tmp_path, session="001")
    assert listing_digest(tmp_path) != before


def test_hidden_files_are_passed_over(tmp_path):
    brats(tmp_path)
    (tmp_path / ".DS_Store").touch()
    write(tmp_path / ".cache" / "x.nii.gz")
    assert sorted(path for path, _ in files_below(tmp_path)) == sorted(f"{FIRST}/{FIRST}-{name}.nii.gz" for name in ALL)


@pytest.mark.slow
def test_eight_thousand_scans_are_listed_within_two_minutes():
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "inventory.py"
    run = subprocess.run([sys.executable, str(script), "--scans", "8000"], capture_output=True, text=True, check=True)
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("inventory")]
    assert float(re.search(r"([\d.]+) s", line)[1]) <= 120
