"""Figure 2D: scans, age, sex and labels of each cohort against a count by hand."""

import numpy as np
import pandas as pd
import pytest

from neurorad.endpoints import endpoints
from neurorad.reporting.cohort_figures import label_counts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.registry import figure

from .reading import legend, texts


def cohorts_of(picture) -> list[str]:
    return [label.get_text() for label in picture.axes[0].get_yticklabels()]


def test_bars_and_their_texts_count_scans_and_patients(drawn, study):
    axes = drawn("fig2d_cohorts").axes[0]
    said = [text.strip() for text in texts(axes)]
    for name, bar in zip(cohorts_of(drawn("fig2d_cohorts")), axes.patches, strict=True):
        mine = study.scans[study.scans["cohort"] == name]
        assert bar.get_width() == len(mine)
        assert f"{len(mine)} / {len(set(mine['patient']))}" in said
    assert "9 / 5" in said


def test_ages_are_a_dot_a_patient_with_median_and_quartiles(drawn, study):
    axes = drawn("fig2d_cohorts").axes[1]
    for y, name in enumerate(cohorts_of(drawn("fig2d_cohorts"))):
        ages = study.patients.loc[study.patients["cohort"] == name, "age"].dropna()
        lines = [line for line in axes.lines if abs(np.mean(line.get_ydata()) - y) < 0.3]
        if ages.empty:
            assert lines == []
            continue
        dots, box, middle = lines
        assert np.allclose(dots.get_xdata(), np.sort(ages))
        assert np.allclose(box.get_xdata(), np.percentile(ages, [25, 75]))
        assert np.allclose(middle.get_xdata(), ages.median())
    assert texts(axes).count("unknown") == 1


def test_shares_of_sex_sum_to_100_and_unknown_is_its_own(drawn, study):
    picture = drawn("fig2d_cohorts")
    names, bars = cohorts_of(picture), picture.axes[2].patches
    widths = np.array([bar.get_width() for bar in bars]).reshape(3, len(names))
    assert np.allclose(widths.sum(axis=0), 100)
    for i, name in enumerate(names):
        sex = study.patients.loc[study.patients["cohort"] == name, "sex"]
        expected = [(sex == "F").mean(), (sex == "M").mean(), sex.isna().mean()]
        assert np.allclose(widths[:, i], 100 * np.array(expected))
    assert legend(picture) == ["women", "men", "unknown"]


def test_labels_count_positive_over_known(drawn, study):
    axes = drawn("fig2d_cohorts").axes[3]
    said = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in axes.texts}
    labels = [label.get_text() for label in axes.get_xticklabels()]
    for y, name in enumerate(cohorts_of(drawn("fig2d_cohorts"))):
        mine = study.patients[study.patients["cohort"] == name]
        for endpoint in endpoints().values():
            known = mine[endpoint.name].dropna()
            positive = sum(v >= endpoint.cutoff if endpoint.cutoff else v == 1 for v in known)
            expected = f"{positive}/{len(known)}" if len(known) else "–"
            assert said[labels.index(endpoint.label), y] == expected
    assert list(said.values()).count("–") == 1


def test_the_shade_of_a_cell_is_the_share_it_says(drawn):
    axes = drawn("fig2d_cohorts").axes[3]
    shares = axes.images[0].get_array()
    for text in axes.texts:
        x, y = (round(place) for place in text.get_position())
        if "/" in text.get_text():
            positive, known = map(int, text.get_text().split("/"))
            assert shares[y, x] == pytest.approx(positive / known)
        else:
            assert np.ma.getmaskarray(shares)[y, x]


def test_label_counts_cut_numbers_at_the_declared_value_and_skip_what_is_absent():
    table = pd.DataFrame(
        {
            "cohort": ["a", "a", "a", "b"],
            "patient": list("1234"),
            "ki67": [9.9, 10.0, None, None],
            "grade": [3, 4, 4, 2],
            "left_open": None,
        }
    )
    counts = label_counts(table).set_index(["cohort", "endpoint"])
    assert set(counts.index.get_level_values("endpoint")) == {"ki67", "grade"}
    assert counts.loc[("a", "ki67"), ["patients", "n", "n_positive"]].tolist() == [3, 2, 1]
    assert counts.loc[("a", "grade"), ["patients", "n", "n_positive"]].tolist() == [3, 3, 2]
    assert counts.loc[("b", "ki67"), ["patients", "n", "n_positive"]].tolist() == [1, 0, 0]
    assert counts.loc[("a", "ki67"), "cutoff"] == endpoints()["ki67"].cutoff


def test_a_cohort_without_patients_or_without_scans_keeps_its_row():
    scans = pd.DataFrame({"cohort": ["a"], "scan": ["1"], "patient": ["1"], "problem": [""]})
    patients = pd.DataFrame({"cohort": ["b"], "patient": ["2"], "age": [50.0], "sex": ["F"], "idh1": [1.0]})
    picture = figure("fig2d_cohorts", Tables(scans=scans, patients=patients.assign(left_open="")))
    assert cohorts_of(picture) == ["b", "a"]
    assert [text.strip() for text in texts(picture.axes[0]) if "/" in text and "scans" not in text] == [
        "0 / 0",
        "1 / 1",
    ]
    assert texts(picture.axes[1]).count("unknown") == 1


def test_patients_without_any_known_endpoint_column_are_still_drawn():
    scans = pd.DataFrame({"cohort": ["a"], "scan": ["1"], "patient": ["1"], "problem": [""]})
    patients = pd.DataFrame({"cohort": ["a"], "patient": ["1"], "age": [50.0], "sex": ["F"]})
    picture = figure("fig2d_cohorts", Tables(scans=scans, patients=patients))
    assert "no label in any table" in texts(picture.axes[3])
