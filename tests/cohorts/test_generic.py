"""Which files a pattern of one's own takes, against a matcher of words that knows no regular expressions."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neurorad.cohorts.releases import generic

from .layouts import SPELLED


def taken(release, path):
    return [kind for kind, (pattern,) in release.files.items() if re.fullmatch(pattern, path, re.ASCII)]


@pytest.mark.parametrize(
    ("pattern", "t1n", "t1c", "files"),
    [
        # A word that ends as the longer spelling begins is another word.
        ("{patient}/*{sequence}*.nii.gz", "T1", "Gd_T1", {"noGd_T1": "t1n", "no_Gd_T1": "t1c"}),
        ("{patient}/*{sequence}*.nii.gz", "noGd_T1", "Gd_T1", {"noGd_T1": "t1n", "x_Gd_T1": "t1c"}),
        ("{patient}/*{sequence}*.nii.gz", "T1", "post_T1", {"nonpost_T1": "t1n", "post_T1": "t1c"}),
        # What the pattern itself says is no part of a spelling.
        ("{patient}/*{sequence}_post.nii.gz", "T1", "T1_post", {"T1_post": "t1n", "T1_post_post": "t1c"}),
        ("{patient}/*{sequence}_brain.nii.gz", "T1", "T1_brain", {"x_T1_brain": "t1n", "T1_brain_brain": "t1c"}),
        # Any of the places where the shorter one stands.
        ("{patient}/*{sequence}*.nii.gz", "T1", "T1_T1_post", {"T1_post": "t1n", "T1_T1_post": "t1c"}),
        ("{patient}/*{sequence}*.nii.gz", "T1", "T1_post", {"T1_T1_post": "t1c", "T1_x_T1": "t1n"}),
        ("{patient}/{patient}_{sequence}.nii.gz", "T1", "T1_post", {"a_T1_post": "t1c", "a_T1": "t1n"}),
        ("{patient}/{session}/../{session}_{sequence}.nii.gz", "T1", "T1_post", {"s/../s_T1_post": "t1c", "s/../r_T1_post": None}),
    ],
)  # fmt: skip
def test_a_file_that_two_spellings_fit_is_the_longer_ones_and_no_other_is_lost(pattern, t1n, t1c, files):
    release = generic(pattern, {**SPELLED, "t1n": t1n, "t1c": t1c}, "skull")
    assert {name: taken(release, f"a/{name}.nii.gz") for name in files} == {
        name: [sequence] if sequence else [] for name, sequence in files.items()
    }


WORDS = ("T1", "post", "Gd", "noGd", "p")
some_words = st.lists(st.sampled_from(WORDS), max_size=2).map(tuple)
four_spellings = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple), min_size=4, max_size=4, unique=True
)


def fits(words, spelling, head, before, literal, after):
    """Whether a file's words are the patient's (one or more, or exactly `p`, or none), any, the spelling, the literal, any."""
    body = spelling + literal
    starts = {"none": [0], "any": range(1, len(words)), "p": [1] if words[:1] == ("p",) else []}[head]
    for start in starts:
        for place in range(start, len(words) if before else start + 1):
            end = place + len(body)
            if words[place:end] == body and (after or end == len(words)):
                return True
    return False


def inside(shorter, longer):
    return shorter != longer and any(
        longer[place : place + len(shorter)] == shorter for place in range(len(longer) - len(shorter) + 1)
    )


@settings(max_examples=500, deadline=None)
@given(
    spellings=four_spellings,
    head=st.sampled_from(["none", "any", "p"]),
    before=st.booleans(),
    literal=st.sampled_from([(), ("post",), ("brain",)]),
    after=st.booleans(),
    filling=st.tuples(some_words, some_words, some_words),
)
def test_each_file_is_that_of_the_spelling_which_holds_all_others_that_fit_or_nobodys(
    spellings, head, before, literal, after, filling
):
    start = {"none": "p/", "any": "", "p": "p/"}[head]
    written = {"none": "{patient}/", "any": "{patient}_", "p": "{patient}/{patient}_"}[head]
    pattern = f"{written}{'*' * before}{{sequence}}{''.join(f'_{word}' for word in literal)}{'*' * after}.nii.gz"
    sequences = dict(zip(SPELLED, map("_".join, spellings), strict=True))
    release = generic(pattern, sequences, "skull")
    patient, one, other = filling
    assume(head != "any" or patient)
    for made, spelling in zip(SPELLED, spellings, strict=True):
        first = {"none": (), "any": patient, "p": ("p",)}[head]
        words = first + one * before + spelling + literal + other * after
        fitting = {
            name: theirs
            for name, theirs in zip(SPELLED, spellings, strict=True)
            if fits(words, theirs, head, before, literal, after)
        }
        assert made in fitting
        expected = [n for n, s in fitting.items() if all(s == other or inside(other, s) for other in fitting.values())]
        assert taken(release, f"{start}{'_'.join(words)}.nii.gz") == expected
        if len(fitting) == 1:
            assert expected == [made]


def test_a_file_that_fits_two_spellings_of_which_none_holds_the_other_is_nobodys():
    release = generic("{patient}/*{sequence}*.nii.gz", {**SPELLED, "t2w": "T2", "t2f": "FLAIR"}, "skull")
    assert taken(release, "a/x_T2_FLAIR_1.nii.gz") == []
    assert (taken(release, "a/x_T2.nii.gz"), taken(release, "a/x_FLAIR.nii.gz")) == (["t2w"], ["t2f"])
    told = generic("{patient}/*{sequence}*.nii.gz", {**SPELLED, "t2w": "T2", "t2f": "T2_FLAIR"}, "skull")
    assert (taken(told, "a/x_T2_FLAIR_1.nii.gz"), taken(told, "a/x_T2.nii.gz")) == (["t2f"], ["t2w"])
