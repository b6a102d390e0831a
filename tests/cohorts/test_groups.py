"""Groups of the manifest by hand-made cohorts whose sizes are known."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorad.cohorts.groups import group_of, later_time_points, merge_tiny
from neurorad.problems import InputError

DISEASES = {"gli": "GLI", "post": "GLI", "men": "MEN", "ped": "PED"}
SCANS = pd.DataFrame(
    [("gli", "s1", "p1"), ("gli", "s2", "p2"), ("post", "s3", "p3"), ("men", "s4", "p4")],
    columns=["cohort", "scan", "patient"],
)


def manifest(**sizes):
    """`group_cohort` -> patients, each with two scans."""
    rows = [
        (name.split("_")[1], f"{name}{n}-{t}", f"{name}{n}", name.split("_")[0])
        for name, count in sizes.items()
        for n in range(count)
        for t in range(2)
    ]
    return pd.DataFrame(rows, columns=["cohort", "scan", "patient", "group"])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("cohort", ["gli", "gli", "post", "men"]),
        ("disease", ["GLI", "GLI", "GLI", "MEN"]),
        ("cohort_x_disease", ["gli GLI", "gli GLI", "post GLI", "men MEN"]),
    ],
)
def test_groups_by_cohort_and_disease(groups, expected):
    assert group_of(SCANS, groups, DISEASES, []).tolist() == expected


def test_a_column_of_patients_or_of_scans_and_the_scan_counts_first():
    patients = pd.DataFrame(
        [("gli", "p1", "GE"), ("gli", "p2", "Siemens"), ("post", "p3", "GE"), ("post", "p1", "Philips")],
        columns=["cohort", "patient", "vendor"],
    )
    scans = pd.DataFrame([("gli", "s2", "Philips"), ("gli", "s1", "")], columns=["cohort", "scan", "vendor"])
    other = pd.DataFrame([("men", "s4", "sri24")], columns=["cohort", "scan", "grid"])
    assert group_of(SCANS, "column:vendor", DISEASES, [patients, other]).tolist() == ["GE", "Siemens", "GE", ""]
    assert group_of(SCANS, "column:vendor", DISEASES, [scans, patients]).tolist() == ["GE", "Philips", "GE", ""]
    with pytest.raises(
        InputError, match="no table has a column 'vendr'; there are cohort, grid, patient, scan, vendor"
    ):
        group_of(SCANS, "column:vendr", DISEASES, [scans, patients, other])


def test_a_scan_without_a_value_is_named_with_its_column():
    table = manifest(GE_gli=9).assign(group=["GE"] * 16 + ["", ""])
    with pytest.raises(InputError, match=r"column:vendor: scan GE_gli8-0 of gli has no value \(nor have 1 others\)"):
        merge_tiny(table, DISEASES, 8, "column:vendor")


def test_tiny_groups_of_a_disease_join_each_other():
    table, report = merge_tiny(manifest(a_gli=5, b_post=4, c_gli=20, d_men=8), DISEASES, 8, "column:x")
    assert report["merged"] == {"a": "other GLI", "b": "other GLI"}
    assert report["patients"] == {"c": 20, "d": 8, "other GLI": 9}
    assert table["group"].value_counts().to_dict() == {"c": 40, "other GLI": 18, "d": 16}


def test_what_is_still_tiny_joins_the_largest_group_of_its_disease_or_the_others():
    _, report = merge_tiny(manifest(a_gli=5, c_gli=20, b_post=30, d_men=3, e_ped=2), DISEASES, 8, "cohort")
    assert report["merged"] == {"a": "b", "d": "other", "e": "other"}
    assert report["patients"] == {"b": 35, "c": 20, "other": 5}


def test_a_single_tiny_group_with_nothing_like_it_keeps_its_name():
    table, report = merge_tiny(manifest(c_gli=20, d_men=3), DISEASES, 8, "cohort")
    assert report["merged"] == {}
    assert sorted(table["group"].unique()) == ["c", "d"]


def test_nothing_to_pretrain_on_has_no_groups():
    table, report = merge_tiny(manifest(c_gli=1).iloc[:0], DISEASES, 8, "cohort")
    assert table.empty
    assert report == {"by": "cohort", "patients": {}, "merged": {}}


@given(
    st.dictionaries(
        st.sampled_from([f"{group}_{cohort}" for group in "abc" for cohort in DISEASES]),
        st.integers(1, 12),
        min_size=1,
    ),
    st.integers(1, 10),
)
def test_merging_loses_no_scan_and_leaves_at_most_one_tiny_group(sizes, least):
    table = manifest(**sizes)
    merged, report = merge_tiny(table, DISEASES, least, "cohort")
    assert merged.drop(columns="group").equals(table.drop(columns="group"))
    assert sum(n < least for n in report["patients"].values()) <= 1
    kept = merged[~table["group"].isin(report["merged"])]
    assert kept["group"].equals(table.loc[kept.index, "group"])
    again, _ = merge_tiny(table.sample(frac=1, random_state=0), DISEASES, least, "cohort")
    assert again["group"].sort_index().equals(merged["group"])


def test_sessions_are_ordered_by_their_numbers():
    scans = pd.DataFrame(
        [("c", f"s{week}", f"week-{week}", "one") for week in ("100", "9", "13")] + [("c", "x", "", "two")],
        columns=["cohort", "scan", "session", "person"],
    )
    assert scans.loc[later_time_points(scans, 1), "scan"].tolist() == ["s100", "s13"]
