"""Cells of real tables, changed: no label is wrong or lost in silence."""

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neurorad.cohorts.labels import EXAM_COLUMNS, harmonise

MU_DAYS = {
    "Number of days from Diagnosis to death (Days)",
    "Number of days from Diagnosis to date of First Progression",
    "Number of days from Diagnosis to Radiation Therapy Start date",
    "Number of days from Diagnosis to Initial Chemo Therapy Start date",
}
# Treatment began before the diagnosis in the real table too (at most 744 days): another sign is a change that nobody sees.
SIGNED = {name for name in MU_DAYS if "Therapy" in name}
# What the releases' tables themselves leave blank or write for missing; the dictionaries are not asked.
BLANK = {
    "UCSF-PDGM-metadata_v5.csv": {"MGMT status", "1p/19q", "OS", "EOR", "BraTS21 ID"},
    "UPENN-GBM_clinical_info_v2.1.csv": set(),
    "BraTS2020_survival_info.csv": {"Survival_days", "Extent_of_Resection"},
    "MU-Glioma-Post_ClinicalData-July2025.xlsx": {"Number of days from Diagnosis to death (Days)"},
}
NUMBERS = {
    "Age at MRI",
    "OS",
    "Age_at_scan_years",
    "Survival_from_surgery_days_UPDATED",
    "Survival_Censor",
    "KPS",
    "Age",
}
NUMBERS |= {"Survival_days", "Age at diagnosis", *MU_DAYS}
IDS = {"ID", "Patient_ID", "Brats20ID"}
MISSING = {"unknown", "Not Available", "Not Applicable", "NA"}


def read_columns(rules):
    columns = [rules["id"]["column"], *rules.get("aliases", {})]
    for rule in rules["columns"].values():
        columns += rule.get("first_of") or [rule["column"]]
    flat = [name for item in columns for name in ([item] if isinstance(item, str) else item)]
    return list(dict.fromkeys(flat))


def mutated(data, raw, name, row, column):
    """A changed cell, as a hand or a spreadsheet changes it. A digit for a digit, or another's id, is a change that nobody sees."""
    text = raw.loc[row, column]
    kind = data.draw(st.sampled_from(["blank", "spaces", "case", "insert", "replace", "delete", "transpose"]))
    if kind == "blank":
        return ""
    if kind == "spaces":
        return data.draw(st.sampled_from([" ", "\u00a0", "\t"])) + text + " "
    if kind == "case":
        return data.draw(st.sampled_from([text.upper(), text.lower(), text.swapcase(), text.title()]))
    at = data.draw(st.integers(0, max(len(text) - 1, 0)))
    letter = data.draw(st.sampled_from("aeOl,_ ;%" if column in SIGNED else "aeOl,-_ ;%"))
    if column in {*NUMBERS, *IDS} or kind == "insert":
        return text[:at] + letter + text[at:]
    if kind == "replace":
        return text[:at] + letter + text[at + 1 :]
    if kind == "delete":
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_cell_keeps_its_label_is_an_allowed_missing_or_a_named_problem(real, data):
    name = data.draw(st.sampled_from(sorted(BLANK)))
    raw, rules, exams = real[name]
    columns = [column for column in read_columns(rules) if column in raw]
    row = data.draw(st.sampled_from(list(raw.index)))
    column = data.draw(st.sampled_from(columns))
    others = [number for number in list(raw.index[:4]) if number != row]
    before = raw.loc[[row, *others]].copy()
    after = before.copy()
    # Spaces around a cell are gone when a table is read.
    after.loc[row, column] = text = mutated(data, raw, name, row, column).strip()
    assume(text == raw.loc[row, column] or text not in set(raw[column]) - MISSING - {""})
    truth = exams.set_index(raw.index).loc[before.index]
    now, problems, _ = harmonise(after, rules, exams["cohort"].iloc[0])
    if problems:
        assert {problem.row for problem in problems} == {row}
        assert any(problem.column == column and problem.value == text for problem in problems)
        expected = truth[truth["patient"] != truth.loc[row, "patient"]]
        left = now[now["patient"] != truth.loc[row, "patient"]]
        pd.testing.assert_frame_equal(left.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False)
        return
    truth = truth.reset_index(drop=True)
    changed = {
        label
        for label in EXAM_COLUMNS
        if not (now[label].eq(truth[label]).fillna(False) | (now[label].isna() & truth[label].isna())).all()
    }
    if not changed:
        return
    assert text in MISSING or (text == "" and column in BLANK[name]), (column, text, changed)
    assert now.loc[0, sorted(changed)].isna().all()
    pd.testing.assert_frame_equal(now.iloc[1:], truth.iloc[1:], check_dtype=False)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_two_swapped_cells_of_a_row_are_a_named_problem(real, data):
    name = data.draw(st.sampled_from([n for n in sorted(BLANK) if n.endswith(".csv")]))
    raw, rules, exams = real[name]
    columns = [column for column in read_columns(rules) if column in raw]
    one, other = data.draw(st.lists(st.sampled_from(columns), min_size=2, max_size=2, unique=True))
    row = data.draw(st.sampled_from(list(raw.index)))
    # Two numbers of one row may each be possible in the other's place: see the next test for whole columns.
    assume(raw.loc[row, one] != raw.loc[row, other] and not {one, other} <= NUMBERS)
    after = raw.loc[[row]].copy()
    after[[one, other]] = after[[other, one]].to_numpy()
    _, problems, _ = harmonise(after, rules, exams["cohort"].iloc[0])
    assert {problem.column for problem in problems} & {one, other}


@pytest.mark.parametrize("name", [name for name in sorted(BLANK) if name.endswith(".csv")])
def test_two_swapped_columns_are_never_read(real, name):
    """MU-Glioma-Post is left out: its columns of 0 and 1 can only be told apart by their names."""
    raw, rules, exams = real[name]
    columns = [column for column in read_columns(rules) if column in raw]
    times = {"Survival_from_surgery_days_UPDATED", "Survival_Censor"}
    for i, one in enumerate(columns):
        for other in columns[:i]:
            after = raw.copy()
            after[[one, other]] = raw[[other, one]].to_numpy()
            now, problems, _ = harmonise(after, rules, exams["cohort"].iloc[0])
            if {one, other} == times:
                assert now.equals(exams)
            else:
                assert {problem.column for problem in problems} & {one, other}, (one, other)
