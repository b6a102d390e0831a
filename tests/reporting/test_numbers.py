"""The numbers behind each figure are those that it shows, and they name no patient where counts are meant."""

import pandas as pd
import pytest

from neurorad.reporting.numbers import ROWS, patients_behind, rows_behind
from neurorad.reporting.registry import FIGURES


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_numbers_and_an_empty_study_an_empty_table(name, study, empty_study):
    needs = FIGURES[name].needs
    if any(getattr(study, need) is None for need in needs):
        pytest.skip("the planted study has no such table")
    rows = rows_behind(name, needs, study)
    assert len(rows) and len(rows.columns) > 1
    if needs[0] != "maps" and name != "fig2d_cohorts":
        assert len(rows_behind(name, needs, empty_study)) == 0


def test_rows_are_named_after_known_figures():
    assert set(ROWS) <= set(FIGURES)


def test_the_flow_adds_up_and_the_cohorts_are_counts_alone(study):
    flow = rows_behind("fig1_flow", FIGURES["fig1_flow"].needs, study)
    total = flow.groupby("point")["scans"].sum()
    left = total[total.index.str.startswith("left out")].sum()
    assert total["found"] == left + total["pretraining"] + total["evaluated"] == len(study.scans)
    cohorts = rows_behind("fig2d_cohorts", FIGURES["fig2d_cohorts"].needs, study)
    assert "patient" not in cohorts and "scan" not in cohorts
    sexes = cohorts[cohorts["quantity"] == "sex"].groupby("cohort")["value"].sum()
    assert sexes.to_dict() == study.patients["cohort"].value_counts().to_dict()


def test_common_markers_hold_the_drawn_endpoints_of_the_drawn_protocol(study):
    rows = rows_behind("fig3b_common_markers", ("probe",), study)
    assert set(rows["endpoint"]) == {"mgmt", "idh1", "1p19q"} and set(rows["metric"]) == {"auc"}


def test_patients_are_said_from_what_the_rows_hold(study):
    assert patients_behind(pd.DataFrame({"n": [17, 30, None]})) == "Each number rests on 17–30 patients."
    curves = rows_behind("fig4b_kaplan_meier", ("curves",), study)
    assert patients_behind(curves) == "Largest arm: cuimc 12, ucsf-pdgm 18, upenn-gbm 15 patients."
    assert patients_behind(pd.DataFrame({"x": [1]})) == ""


def test_the_phi_audit_reads_what_a_pdf_says_of_itself_and_not_its_fonts(tmp_path, study):
    from matplotlib.figure import Figure

    from neurorad.provenance.phi_formats import read_content
    from neurorad.reporting.theme import write_figure

    figure = Figure()
    figure.text(0.5, 0.5, "words")
    write_figure(figure, tmp_path / "f", "A title of Eleonore", "x")
    content = read_content("f.pdf", (tmp_path / "f.pdf").read_bytes())
    assert content.faults == []
    words = " ".join(text for _, text in content.texts)
    assert "Eleonore" in words
    assert "Copyright" not in words
    assert read_content("f.pdf", b"holiday").faults == ["no PDF"]
