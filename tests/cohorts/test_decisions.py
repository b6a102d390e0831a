"""What a study decides about labels: each choice against counts of the real tables, and counted as it says."""

import pandas as pd
import pytest

from neurorad.cohorts.labels import (
    EXAM_COLUMNS,
    SAFE,
    decisions,
    harmonise,
    patients_of,
)
from neurorad.endpoints import CUTOFFS, endpoints
from neurorad.problems import InputError
from tests.cohorts.raw_tables import counts, own, table, ucsf

DECIDED = [
    (
        "mgmt_indeterminate",
        "UCSF-PDGM-metadata_v5.csv",
        "mgmt",
        {"missing": 85, "negative": (302, 119), "positive": (307, 114)},
    ),
    (
        "relative_codeletion",
        "UCSF-PDGM-metadata_v5.csv",
        "1p19q",
        {"missing": 97, "negative": (9, 401), "positive": (15, 395)},
    ),
    ("idh_not_specified", "UPENN-GBM_clinical_info_v2.1.csv", "idh1", {"missing": 106, "wildtype": (19, 652)}),
    ("uncertain_date_of_death", "UPENN-GBM_clinical_info_v2.1.csv", "event", {"missing": 3, "dead": (647, 24)}),
]


@pytest.mark.parametrize(("decision", "name", "column", "choices"), DECIDED)
def test_a_decision_changes_its_own_label_alone_and_is_counted(real, decision, name, column, choices):
    raw, rules, safe = real[name]
    for choice, expected in choices.items():
        exams, problems, effects = harmonise(raw, rules, "x", decisions({decision: choice}))
        assert problems == []
        positive, negative, missing = counts(exams[column])
        assert (missing if choice == "missing" else (positive, negative)) == expected
        others = [other for other in EXAM_COLUMNS if other not in (column, "os_days", "left_open", "cohort")]
        pd.testing.assert_frame_equal(exams[others], safe[others])
        (row,) = effects[effects["decision"] == decision].to_dict("records")
        changed = {"mgmt": 5, "1p19q": 6, "idh1": 106, "event": 3}[column]
        assert (row["choice"], row["column"], row["exams"]) == (choice, column, changed)
        left_open = exams["left_open"].fillna("").str.split().map(lambda names: column in names)
        assert left_open.sum() == (changed if choice == "missing" else 0)
        assert exams.loc[left_open, column].isna().all()
        patients = patients_of(exams)
        assert row["patients"] <= row["exams"]
        if choice == "missing":
            assert row["patients"] == patients["left_open"].fillna("").str.contains(column).sum()


def test_decisions_are_counted_in_the_exams_that_are_kept():
    rows = [ucsf(**{"ID": f"UCSF-PDGM-0433{session}", "MGMT status": "indeterminate"}) for session in ("", "_FU007d")]
    rows.append(ucsf(**{"MGMT status": "indeterminate", "Sex": "?"}))
    exams, problems, effects = harmonise(*table("ucsf-pdgm", *rows), "ucsf")
    assert (len(exams), len(problems)) == (2, 1)
    assert effects[["value", "exams", "patients"]].to_numpy().tolist()[0] == ["indeterminate", 2, 1]


def test_an_uncertain_death_counts_on_its_last_known_day_if_so_decided(real):
    raw, rules, safe = real["UPENN-GBM_clinical_info_v2.1.csv"]
    exams, _, _ = harmonise(raw, rules, "upenn-gbm", decisions({"uncertain_date_of_death": "dead"}))
    gained = exams["os_days"].notna() & safe["os_days"].isna()
    assert sorted(exams[gained]["os_days"]) == [24, 141, 142]


@pytest.mark.parametrize(
    ("cutoff", "expected"), [(10, [1, 0, 1, 0, -1]), (9.9, [1, 1, 1, 0, -1]), (60, [0, 0, 1, 0, -1])]
)
def test_tp53_is_cut_only_where_no_status_is_given(cutoff, expected):
    percent, status = ["10", "9.9", "0", "50", ""], ["", "", "1", "0", ""]
    rows = [
        own(patient=f"P{i}", tp53=given, tp53_percent=share)
        for i, (given, share) in enumerate(zip(status, percent, strict=True))
    ]
    exams, problems, effects = harmonise(*table("cuimc", *rows), "cuimc", decisions({"tp53_cutoff": cutoff}))
    assert problems == []
    assert exams["tp53"].fillna(-1).tolist() == expected
    mine = effects[effects["decision"] == "tp53_cutoff"].set_index("value")
    cut = [float(percent[i]) >= cutoff for i in (0, 1)]
    assert mine["exams"].to_dict() == {"at or above": sum(cut), "below": 2 - sum(cut)}
    assert set(mine["choice"]) == {str(cutoff)}


def test_both_sides_of_the_cut_off_of_ki67_are_counted_and_its_value_stays():
    rows = [own(patient=f"P{i}", ki67=share) for i, share in enumerate(("19.9", "20", "", "80"))]
    exams, _, effects = harmonise(*table("cuimc", *rows), "cuimc", decisions({"ki67_cutoff": 20}))
    assert exams["ki67"].fillna(-1).tolist() == [19.9, 20, -1, 80]
    mine = effects[effects["decision"] == "ki67_cutoff"].set_index("value")
    assert mine["choice"].tolist() == ["20", "20"]
    assert mine["patients"].to_dict() == {"at or above": 2, "below": 1}
    # What the decision says is what the evaluation divides by.
    assert endpoints({"ki67_cutoff": 20})["ki67"].cutoff == 20
    assert SAFE["ki67_cutoff"] == endpoints()["ki67"].cutoff == 10


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mgmt": "missing"}, "unknown decision 'mgmt'"),
        ({"mgmt_indeterminate": "wildtype"}, "choose missing, negative, positive"),
        ({"tp53_cutoff": 0}, "must be a percentage above 0"),
        ({"tp53_cutoff": "10"}, "must be a percentage above 0"),
        ({"ki67_cutoff": True}, "ki67_cutoff is True; must be a percentage above 0"),
    ],
)
def test_a_decision_nobody_knows_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        decisions(wrong)


def test_the_safe_choice_is_that_what_is_not_settled_is_missing():
    assert {choice for name, choice in SAFE.items() if name not in CUTOFFS} == {"missing"}
