"""Names of image files: which sequence they say, and whether a folder's files are one patient's."""

from pathlib import Path

import pytest

from neurorad.sequence_names import of_two_patients, spelled


def sequence_of(name, folder=""):
    found = spelled(name, folder)
    return found and found.sequence


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("BraTS-GLI-00005-100-t1c.nii.gz", "t1c"),
        ("BraTS2021_00000_t1ce.nii.gz", "t1c"),
        ("UPENN-GBM-00001_11_T1GD.nii.gz", "t1c"),
        ("UCSF-PDGM-0004_T2.nii.gz", "t2w"),
        ("sub-01_ses-1_ce-gadolinium_T1w.nii.gz", "t1c"),
        ("sub-01_T1w.nii", "t1n"),
        ("T2_FLAIR.nii.gz", "t2f"),
        ("patient_t1_post.nii.gz", "t1c"),
        ("BraTS2021_00000_seg.nii.gz", None),
        ("T1_brain_mask.nii.gz", None),
        ("UCSF-PDGM-0006_T1_bias.nii.gz", None),
        ("dwi.nii.gz", None),
    ],
)
def test_a_file_is_known_by_a_word_of_its_name(name, sequence):
    assert sequence_of(name) == sequence


@pytest.mark.parametrize(
    ("folder", "name", "sequence"),
    [
        ("trial-t1-007", "trial-t1-007_flair.nii.gz", "t2f"),
        ("trial-t1-007", "trial-t1-007_t2.nii.gz", "t2w"),
        ("trial-t1-007", "trial-t1-007_dwi.nii.gz", None),
        ("T1", "T1_t2.nii.gz", "t2w"),
        # Only whole words are the folder's, and something is left.
        ("t1", "t1ce.nii.gz", "t1c"),
        ("t1", "t1.nii.gz", "t1n"),
        ("t1", "t1_.nii.gz", "t1n"),
        ("t2", "t2f.nii.gz", "t2f"),
        ("F", "FLAIR.nii.gz", "t2f"),
        ("T", "T1.nii.gz", "t1n"),
        ("t", "T2.nii.gz", "t2w"),
    ],
)
def test_the_name_of_the_folder_is_not_read_as_a_sequence(folder, name, sequence):
    assert sequence_of(name, folder) == sequence


@pytest.mark.parametrize(
    ("name", "sequence", "written"),
    [
        # Contrast, and words before it that deny it.
        ("T1_pre_contrast", "t1n", "T1_pre_contrast"),
        ("T1_without_contrast_x", "t1n", "T1_without_contrast"),
        ("T1_non_contrast", "t1n", "T1_non_contrast"),
        ("T1_w_o_gad", "t1n", "T1_w_o_gad"),
        ("no_gd_T1", "t1n", "no_gd_T1"),
        ("T1_pre", "t1n", "T1"),
        ("T1_post_contrast", "t1c", "T1_post"),
        ("pre_T1ce", "t1c", "T1ce"),
        ("T1+C", "t1c", "T1+C"),
        ("T1_C_sag", "t1c", "T1_C"),
        ("C_T1", "t1n", "T1"),
        ("km_t1", "t1c", "km_t1"),
        ("T1_enhanced", "t1c", "T1_enhanced"),
        # It may be either.
        ("pre_T1_post", None, None),
        ("T1_pre_contrast_gad", None, None),
        ("T2_FLAIR_x", "t2f", "T2_FLAIR"),
        ("FLAIR_T2", "t2f", "FLAIR_T2"),
        ("T2_x_FLAIR", "t2f", "FLAIR"),
    ],
)
def test_words_of_contrast_and_their_denial(name, sequence, written):
    found = spelled(f"a_{name}.nii.gz")
    assert (found and found.sequence, found and found.written) == (sequence, written)
    if found:
        assert f"a_{name}".startswith(found.before + found.written)


@pytest.mark.parametrize(
    ("names", "two"),
    [
        (("smith_t1", "smith_t1ce", "jones_t2", "jones_flair"), True),
        (("p1-t1", "p2-t1ce"), True),
        (("001_t1", "001_t1ce", "002_t2", "002_flair"), True),
        (("t1", "ann_t1ce"), True),
        (("a_t1", "a_t1ce", "a_t2", "a_flair"), False),
        (("T1 pre", "T1 post gad", "T2", "FLAIR"), False),
        # A scanner's words and numbers of series.
        (("ax_t1", "SAG_3D_t1ce_mprage", "cor_t2", "flair"), False),
        (("3_t1", "12_t1ce", "4_t2", "7_flair"), False),
        (("ann_3_t1", "ann_12_t1ce"), False),
    ],
)
def test_files_that_begin_unlike_may_be_of_two_patients(names, two):
    files = [Path("all", f"{name}.nii.gz") for name in names]
    found = of_two_patients({path: spelled(path.name, "all") for path in files})
    assert (found is not None) == two
    if found:
        assert {*found} <= {*files} and len({*found}) == 2
