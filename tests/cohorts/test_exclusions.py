"""Who was left out: every scan once for each reason, with the stage that refused it."""

import pandas as pd
import pytest

from neurorad.cohorts.exclusions import EXCLUDED_COLUMNS, excluded

SCANS = pd.DataFrame(
    [
        ("a", "p1", "p1_0", ""),
        ("a", "p1", "p1_1", ""),
        ("a", "p2", "p2_0", "missing sequence t2f"),
        ("a", "p3", "p3_0", ""),
        ("a", "p4", "p4_0", ""),
    ],
    columns=["cohort", "patient", "scan", "problem"],
)
VOLUMES = pd.DataFrame(
    [("a", "p1", "p1_0", "ok", ""), ("a", "p1", "p1_1", "ok", ""), ("a", "p3", "p3_0", "excluded", "t1c: truncated")],
    columns=["cohort", "patient", "scan", "status", "reason"],
)


def rows(*items: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(items, columns=EXCLUDED_COLUMNS)


def manifest(*scans: str) -> pd.DataFrame:
    return pd.DataFrame({"cohort": ["a"] * len(scans), "scan": list(scans)})


def test_each_stage_contributes_its_own_scans():
    removed = rows(("a", "p4", "p4_0", "leakage", "same patient"), ("b", "q", "q_0", "leakage", "same patient"))
    table = excluded(SCANS, VOLUMES, rows(), removed, manifest())
    assert table[["scan", "stage", "reason"]].to_numpy().tolist() == [
        ["p2_0", "inventory", "missing sequence t2f"],
        ["p3_0", "volume", "t1c: truncated"],
        ["p4_0", "leakage", "same patient"],
    ]
    assert set(table["cohort"]) == {"a"}


def test_a_volume_that_failed_by_eye_leaves_at_qc():
    seen = VOLUMES.assign(status=["failed", "ok", "excluded"], reason=["failed by eye: cut", "", "t1c: truncated"])
    table = excluded(SCANS, seen, rows(), rows(), manifest())
    assert table.loc[table["stage"] == "qc", ["scan", "reason"]].to_numpy().tolist() == [["p1_0", "failed by eye: cut"]]
    assert table.loc[table["stage"] == "volume", "scan"].tolist() == ["p3_0"]


def test_an_unusable_label_leaves_every_scan_of_its_patient_out():
    table = excluded(SCANS, VOLUMES, rows(("a", "p1", "", "labels", "typo")), rows(), manifest())
    assert table.loc[table["stage"] == "labels", "scan"].tolist() == ["p1_0", "p1_1"]


def test_a_scan_that_is_pretrained_on_needs_no_label():
    table = excluded(SCANS, VOLUMES, rows(("a", "p1", "", "labels", "typo")), rows(), manifest("p1_0"))
    assert table.loc[table["stage"] == "labels", "scan"].tolist() == ["p1_1"]


def test_a_patient_of_the_table_without_scans_is_listed_without_one():
    table = excluded(SCANS, VOLUMES, rows(("a", "p9", "", "labels", "typo")), rows(), manifest())
    assert table.loc[table["stage"] == "labels", ["patient", "scan"]].to_numpy().tolist() == [["p9", ""]]


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_nothing_left_out_is_an_empty_table_with_its_header_and_order_does_not_matter(order):
    sound = SCANS[SCANS["problem"] == ""].iloc[order]
    fine = VOLUMES[VOLUMES["status"] == "ok"].iloc[order]
    table = excluded(sound, fine, rows(), rows(), manifest())
    assert list(table.columns) == EXCLUDED_COLUMNS
    assert table.empty
