"""A pattern is written only where words tell the four sequences, and never one that takes an enhanced T1 for the native one."""

import itertools
import re
from pathlib import PurePath

import pytest

from neurorad.cohorts.releases import generic
from neurorad.doctor.own_names import own_pattern
from neurorad.sequence_names import spelled


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["p/t1.nii", "p/t1c.nii", "p/t2.nii", "p/flair.nii"], "{patient}/*{sequence}.nii"),
        (["p/t1_x.nii", "p/t1c.nii", "p/t2.nii", "p/flair.nii"], "{patient}/*{sequence}*.nii"),
        (["p/s/anat/t1.nii.gz", "p/s/anat/t1gd.nii.gz", "p/s/anat/t2.nii.gz", "p/s/anat/flair.nii.gz"],
         "{patient}/{session}/*/*{sequence}.nii.gz"),
        (["p/t1.nii", "p/t1_gad.nii", "p/t2.nii", "p/flair.nii"], "{patient}/*{sequence}.nii"),
        (["p/t1.nii", "p/t2.nii", "p/flair.nii"], None),
    ],
)  # fmt: skip
def test_a_pattern_is_guessed_only_where_words_tell_all_four(names, expected):
    found = own_pattern([PurePath(name) for name in names])
    assert (found["pattern"] if found else None) == expected


FOUR = ["T1", "T1ce", "T2", "FLAIR"]


def found_in(**folders):
    """What is found in folders (`__` for a slash) of files of the given names."""
    return own_pattern(
        [PurePath(folder.replace("__", "/"), f"{name}.nii.gz") for folder, names in folders.items() for name in names]
    )


@pytest.mark.parametrize(
    "folders",
    [
        # The folder's name is not the image's, so `spelled` leaves it out; here it may say the contrast.
        {"A__post": ["post_T1", "post_T1ce", "post_T2", "post_FLAIR"]},
        # One file among many that the others' pattern would take for t1n.
        {"A": FOUR, "B": FOUR, "C": ["post_T1", "T1ce", "T2", "FLAIR"]},
        {"A": [f"{name}_x" for name in FOUR], "B": ["T1_Gd_x", "T1ce_x", "T2_x", "FLAIR_x"]},
        {"A": [f"{name}_x" for name in FOUR], "B": ["T1_T1Gd_x", "T1ce_x", "T2_x", "FLAIR_x"]},
        # A series' folder says what its only file does not.
        {"A__1__all": FOUR, "B__1__post": ["T1"], "B__1__other": ["T1ce", "T2", "FLAIR"]},
        {"A__1__all": FOUR, "B__1__T1Gd": ["T1"], "B__1__other": ["T1ce", "T2", "FLAIR"]},
        # Before, without, no contrast: the native image, whose enhanced one is then called T1.
        {"A": ["T1", "T1_pre_contrast", "T2", "FLAIR"]},
        {"A": ["T1", "T1_wo_gad", "T2", "FLAIR"]},
        {"A": ["T1", "no_Gd_T1", "T2", "FLAIR"]},
        # Both enhanced, both native.
        {"A": ["T1_post", "T1_gd", "T2", "FLAIR"]},
        {"A": ["T1_pre", "T1", "T2", "FLAIR"]},
        # The pattern would take a mask for its image.
        {"A": ["T1_x", "T1ce_x", "T2_x", "FLAIR_x", "T1_seg_x"]},
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_not_described(folders):
    assert found_in(**folders) is None


@pytest.mark.parametrize(
    ("folders", "t1n", "t1c"),
    [
        ({"A": ["T1_pre", "T1_post", "T2", "FLAIR"]}, "T1", "T1_post"),
        ({"A": ["pre_T1", "pre_T1ce", "pre_T2", "pre_FLAIR"]}, "T1", "T1ce"),
        ({"A__post": FOUR}, "T1", "T1ce"),
        ({"A__1__post": FOUR}, "T1", "T1ce"),
        ({"CE-1": FOUR, "CE-2": FOUR[:1]}, "T1", "T1ce"),
        ({"A": [*FOUR, "T1ce_seg"]}, "T1", "T1ce"),
        ({"A": FOUR, "B": [f"{name}_x" for name in FOUR], "C": FOUR}, "T1", "T1ce"),
    ],
)
def test_what_words_tell_is_described(folders, t1n, t1c):
    assert found_in(**folders)["sequences"] == {"t1n": t1n, "t1c": t1c, "t2w": "T2", "t2f": "FLAIR"}


def test_a_t2_flair_is_described_with_its_t2():
    for end in ("", "_x"):
        found = found_in(A=[f"{name}{end}" for name in ("T1", "T1ce", "T2", "T2_FLAIR")])
        assert found["sequences"] == {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "T2_FLAIR"}


ALL = [
    words
    for number in (1, 2, 3)
    for words in itertools.permutations(("t1", "t1ce", "post", "gad", "contrast", "pre"), number)
    if {"t1", "t1ce"} & set(words)
]


@pytest.mark.parametrize("folder", ["A", "post", "A/gad", "A/1/pre"])
@pytest.mark.parametrize("end", ["", "_x"])
def test_of_any_two_names_of_t1_the_one_taken_for_native_says_no_contrast_and_what_is_read_back_is_what_was_said(
    folder, end
):
    described = 0
    for pair in itertools.combinations(ALL, 2):
        names = ["_".join(words) + end for words in (*pair, ("t2",), ("flair",))]
        files = [PurePath(folder, f"{name}.nii.gz") for name in names]
        found = own_pattern(files)
        if found is None:
            continue
        described += 1
        release = generic(found["pattern"], found["sequences"], "skull")
        taken = {kind: {f for f in files if re.fullmatch(p, str(f))} for kind, (p,) in release.files.items()}
        assert sorted(map(len, taken.values())) == [1, 1, 1, 1], names
        assert all(spelled(path.name).sequence == kind for kind, (path,) in taken.items()), names
        (native,), (enhanced,) = taken["t1n"], taken["t1c"]
        assert not {"t1ce", "post", "gad", "contrast"} & set(native.stem.split(".")[0].split("_")), names
        words = set(enhanced.stem.split(".")[0].split("_"))
        assert "t1ce" in words or "pre" not in words, names
    assert described > 100
