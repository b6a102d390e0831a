"""The tables of the supplement against a count by hand, and the same rows whatever the order of the files."""

import pandas as pd
import pytest

from neurorad.endpoints import endpoints
from neurorad.problems import InputError
from neurorad.reporting.inputs import Tables
from neurorad.reporting.tables import PAPER_SCANS, PAPER_TOTAL, TABLES, table


def test_cohorts_are_counted_as_by_hand(study):
    made = table("supplementary_1_cohorts", study).set_index("cohort")
    assert list(made.index) == [*sorted(set(study.scans["cohort"])), "total"]
    for cohort in made.index[:-1]:
        scans = study.scans[study.scans["cohort"] == cohort]
        row = made.loc[cohort]
        assert row["scans"] == len(scans)
        assert row["patients"] == len(set(scans["patient"]))
        out = study.excluded[study.excluded["cohort"] == cohort]
        trained = study.manifest[study.manifest["cohort"] == cohort]
        tested = scans[~scans["scan"].isin(out["scan"]) & ~scans["scan"].isin(trained["scan"])]
        assert row["left_out_scans"] == len(out)
        assert (row["pretraining_scans"], row["pretraining_patients"]) == (len(trained), len(set(trained["patient"])))
        assert (row["evaluated_scans"], row["evaluated_patients"]) == (len(tested), len(set(tested["patient"])))


def test_the_last_row_is_the_sum_and_says_what_the_papers_total_holds(study):
    made = table("supplementary_1_cohorts", study).set_index("cohort")
    for column in ("scans", "patients", "left_out_scans", "pretraining_scans", "evaluated_patients"):
        assert made.loc["total", column] == made[column].iloc[:-1].sum()
    assert made.loc["total", "paper_scans"] == PAPER_TOTAL == 7414
    assert "BraTS-MEN, -MET and -PED" in made.loc["total", "note"]
    assert (made["note"].iloc[:-1] == "").all()


def test_the_papers_number_stands_beside_the_release_that_it_names(study):
    made = table("supplementary_1_cohorts", study).set_index("cohort")["paper_scans"].iloc[:-1]
    assert made.dropna().to_dict() == PAPER_SCANS
    assert made["cuimc"] is pd.NA


def test_labels_are_counted_as_by_hand(study):
    made = table("supplementary_2_labels", study).set_index(["cohort", "endpoint"])
    assert len(made) == study.patients["cohort"].nunique() * len(endpoints())
    for (cohort, name), row in made.iterrows():
        mine = study.patients[study.patients["cohort"] == cohort]
        known = [value for value in mine[name] if value == value]
        cutoff = endpoints()[name].cutoff
        assert row["patients"] == len(mine)
        assert row["n"] == len(known)
        assert row["n_positive"] == sum(value >= cutoff if cutoff else value == 1 for value in known)
        assert row["label"] == endpoints()[name].label


@pytest.mark.parametrize("name", list(TABLES))
def test_the_order_of_the_input_changes_nothing(study, name):
    expected = table(name, study)
    for need in TABLES[name][1]:
        setattr(study, need, getattr(study, need).sample(frac=1, random_state=4).reset_index(drop=True))
    pd.testing.assert_frame_equal(table(name, study), expected)


@pytest.mark.parametrize("name", ["probe", "survival", "invariance", "comparison"])
def test_an_evaluation_table_loses_no_row_and_no_column(study, name):
    made, given = table(name, study), getattr(study, name)
    assert list(made.columns) == list(given.columns)
    columns = ["metric", "endpoint", "site", "encoder", "value"]
    assert sorted(map(repr, made[columns].to_numpy().tolist())) == sorted(map(repr, given[columns].to_numpy().tolist()))
    assert made["note"].str.contains("not estimable").sum() == given["value"].isna().sum()


@pytest.mark.parametrize("name", list(TABLES))
def test_without_rows_a_table_keeps_its_columns(study, empty_study, name):
    made = table(name, empty_study)
    assert list(made.columns) == list(table(name, study).columns)
    assert len(made) == (name == "supplementary_1_cohorts")


@pytest.mark.parametrize("name", list(TABLES))
def test_a_table_asks_for_what_it_needs_by_flag(study, name):
    for need in TABLES[name][1]:
        setattr(study, need, None)
    with pytest.raises(InputError, match=", ".join(f"--{need}" for need in TABLES[name][1])):
        table(name, study)


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no table is called x; tables: supplementary_1_cohorts, "):
        table("x", Tables())
