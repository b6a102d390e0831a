"""The tables of the supplement against a count by hand, and the same rows whatever the order of the files."""

import numpy as np
import pandas as pd
import pytest

from neurorad.endpoints import endpoints
from neurorad.problems import InputError
from neurorad.reporting.inputs import Tables
from neurorad.reporting.tables import PAPER_LABELS, PAPER_PRETRAINING, TABLES, table


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


def test_the_last_row_is_the_sum_of_ours_and_of_the_papers_pretraining(study):
    made = table("supplementary_1_cohorts", study).set_index("cohort")
    for column in ("scans", "patients", "left_out_scans", "pretraining_scans", "evaluated_patients"):
        assert made.loc["total", column] == made[column].iloc[:-1].sum()
    assert made["paper_pretraining_scans"].iloc[:-1].sum() == made.loc["total", "paper_pretraining_scans"] == 7414


def test_the_papers_numbers_stand_beside_all_its_cohorts_and_what_is_unknown_is_empty_and_said(study):
    made = table("supplementary_1_cohorts", study).set_index("cohort")
    assert made["paper_pretraining_scans"].iloc[:-1].dropna().to_dict() == {
        cohort: number for cohort, (number, _) in PAPER_PRETRAINING.items()
    }
    assert made["paper_test"].dropna().to_dict() == {"ucsf-pdgm": 111, "upenn-gbm": 95}
    assert made.loc["cuimc", "note"] == "private; the paper's number is not known here"
    assert made.loc["lumiere", "note"] == "complete sessions of 91 patients"


def test_scans_that_read_as_bias_corrected_already_are_counted_where_a_field_was_measured(study):
    nothing = table("supplementary_1_cohorts", study).set_index("cohort")["bias_corrected_before"]
    assert nothing.isna().all()
    measured = study.volumes["cohort"].isin(["ucsf-pdgm", "upenn-gbm"])
    flat = study.volumes["cohort"].eq("ucsf-pdgm") & study.volumes["scan"].str.endswith(("3", "4", "5"))
    for name, raw, again in (("t1n", 0.19, 0.03), ("t1c", 0.26, 0.1), ("t2w", 0.26, 0.15), ("t2f", 0.23, 0.2)):
        study.volumes[f"{name}_bias"] = np.where(flat, again, raw)
        study.volumes.loc[~measured, f"{name}_bias"] = np.nan
    made = table("supplementary_1_cohorts", study).set_index("cohort")["bias_corrected_before"]
    assert made["ucsf-pdgm"] == (flat & study.volumes["status"].eq("ok")).sum() > 0
    assert made["upenn-gbm"] == 0
    assert made.drop(["ucsf-pdgm", "upenn-gbm"]).isna().all()


def test_every_row_of_labels_adds_up_and_scans_are_those_of_its_patients(study):
    made = table("supplementary_2_labels", study)
    assert (made["n"] + made["left_open"] + made["not_stated"] == made["patients"]).all()
    assert made["left_open"].sum() > 0
    assert set(made.loc[made["left_open"] > 0, "endpoint"]) == {"mgmt"}
    for row in made.itertuples():
        mine = study.patients[study.patients["cohort"] == row.cohort]
        column = "event" if row.endpoint == "os" else row.endpoint
        with_label = set(mine.loc[mine[column].notna(), "patient"])
        scans = study.scans[(study.scans["cohort"] == row.cohort) & study.scans["patient"].isin(with_label)]
        assert row.scans == len(scans)
        assert row.scans_positive <= row.scans
        assert row.paper.startswith("counts not known") and PAPER_LABELS.get(row.endpoint, "") in row.paper
    lumiere = made[(made["cohort"] == "lumiere") & (made["endpoint"] == "grade")].iloc[0]
    assert lumiere["scans"] > lumiere["n"]


def test_a_decided_cut_off_is_the_one_that_is_counted_by(study):
    first = table("supplementary_2_labels", study).set_index(["cohort", "endpoint"])
    cut = {"cohort": "cuimc", "decision": "ki67_cutoff", "choice": "40", "column": "ki67", "value": "below"}
    study.decisions = pd.concat([study.decisions, pd.DataFrame([{**cut, "exams": 1, "patients": 1}])])
    made = table("supplementary_2_labels", study).set_index(["cohort", "endpoint"])
    mine = study.patients[study.patients["cohort"] == "ucsf-pdgm"]["ki67"]
    assert made.loc[("ucsf-pdgm", "ki67"), ["cutoff", "n_positive"]].tolist() == [40, (mine >= 40).sum()]
    assert first.loc[("ucsf-pdgm", "ki67"), ["cutoff", "n_positive"]].tolist() == [10, (mine >= 10).sum()]


def test_a_label_that_is_known_and_left_open_is_refused(study):
    study.patients["left_open"] = "grade"
    with pytest.raises(InputError, match="a label grade of .* is known and left open"):
        table("supplementary_2_labels", study)


def test_labels_are_counted_as_by_hand(study):
    made = table("supplementary_2_labels", study).set_index(["cohort", "endpoint"])
    assert len(made) == study.patients["cohort"].nunique() * (len(endpoints()) + 1)
    for (cohort, name), row in made.drop(index="os", level="endpoint").iterrows():
        mine = study.patients[study.patients["cohort"] == cohort]
        known = [value for value in mine[name] if value == value]
        cutoff = endpoints()[name].cutoff
        assert row["patients"] == len(mine)
        assert row["n"] == len(known)
        assert row["n_positive"] == sum(value >= cutoff if cutoff else value == 1 for value in known)
        assert row["label"] == endpoints()[name].label
    for cohort, row in made.xs("os", level="endpoint").iterrows():
        mine = study.patients[study.patients["cohort"] == cohort]
        assert (row["n"], row["n_positive"]) == (len(mine), mine["event"].sum())


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
    without_files = {
        "supplementary_1_cohorts": 1,
        "supplementary_4_presets": len(table("supplementary_4_presets", study)),
    }
    assert len(made) == without_files.get(name, 0)


def test_the_presets_table_says_what_differs_and_what_is_not_reproduced(study):
    made = table("supplementary_4_presets", study).set_index("key")
    assert list(made.loc["training.learning_rate"])[:3] == ["1e-05", "0.0001", "0.0002"]
    assert made.loc["training.learning_rate", "source"].startswith("text: 1e-5; code: AdamW 1e-4")
    assert made.loc["MoCo's key", "modern"] == "a second view"
    assert made.loc["MoCo's key", "source"] == "published: code: the query with 1 % noise"
    assert made.notna().all().all()


@pytest.mark.parametrize("name", [name for name, (_, needs) in TABLES.items() if needs])
def test_a_table_asks_for_what_it_needs_by_flag(study, name):
    for need in TABLES[name][1]:
        setattr(study, need, None)
    with pytest.raises(InputError, match=", ".join(f"--{need}" for need in TABLES[name][1])):
        table(name, study)


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no table is called x; tables: supplementary_1_cohorts, "):
        table("x", Tables())
