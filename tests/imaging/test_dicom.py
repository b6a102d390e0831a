"""Series are told apart by physics first, names second; what cannot be a structural sequence never is."""

from pathlib import Path

import pytest

from neurorad.imaging.dicom import Series, identify
from neurorad.imaging.scan import ScanError


def series(number, description, tr, te, ti=float("nan"), contrast=False, slices=34, derived=False, thickness=5.0):
    files = tuple(Path(f"{k}.dcm") for k in range(slices))
    return Series(f"1.{number}", files, description, derived, tr, te, ti, contrast, number, thickness)


SESSION = [
    series(1, "localizer", 8, 4, slices=3),
    series(2, "T1W_SE_ax", 570, 12),
    series(3, "T2W_TSE_ax", 4191, 99),
    series(4, "FLAIR_longTR_ax", 8701, 120, 2444),
    series(5, "ep2d_diff_3scan_trace", 6400, 88, slices=68),
    series(6, "T1W_SE_ax_GD", 570, 12),
]


def chosen(session):
    return {name: found.number for name, found in identify(session).items()}


def test_a_session_without_contrast_tags_is_read_from_its_names():
    assert chosen(SESSION) == {"t1n": 2, "t1c": 6, "t2w": 3, "t2f": 4}


def test_the_contrast_tag_counts_without_any_name():
    session = [*SESSION[:5], series(6, "", 570, 12, contrast=True)]
    assert chosen(session)["t1c"] == 6


def test_of_a_repeated_series_the_later_is_taken_and_thinner_slices_win():
    assert chosen([*SESSION, series(7, "T2W_TSE_ax", 4191, 99)])["t2w"] == 7
    assert chosen([*SESSION, series(7, "T2W_TSE_ax", 4191, 99, thickness=6.0)])["t2w"] == 3


def test_subtractions_and_derived_series_are_never_a_sequence():
    with pytest.raises(ScanError, match="missing sequence t1c"):
        identify([*SESSION[:5], series(6, "T1 post subtraction", 570, 12), series(7, "T1 GD", 570, 12, derived=True)])


def test_too_few_slices_are_refused():
    with pytest.raises(ScanError, match="missing sequence t2w"):
        identify([s if s.number != 3 else series(3, "T2W_TSE_ax", 4191, 99, slices=4) for s in SESSION])
