"""Figure 4C: every scan at its coordinates in the colour of its site, and a silhouette that is the table's or none."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from neurorad.reporting.registry import figure
from neurorad.reporting.site_figures import silhouette_text
from neurorad.reporting.theme import colours, encoder_label, theme

from .reading import outside, overlapping, panel, texts, title


def test_every_scan_is_a_mark_at_its_coordinates(drawn, study):
    shade = colours(study.coordinates["cohort"])
    for encoder, mine in study.coordinates.groupby("encoder"):
        axes = panel(drawn("fig4c_sites"), encoder_label(encoder))
        assert len(axes.lines) == 3
        for line, (site, part) in zip(axes.lines, mine.groupby("cohort"), strict=True):
            assert np.array_equal(line.get_xydata(), part[["x", "y"]].to_numpy())
            assert to_hex(line.get_color()) == shade[site].lower()
            assert line.get_label() == site.upper()
        assert len({line.get_marker() for line in axes.lines}) == 3


def test_the_title_says_the_silhouette_of_the_table(drawn, study):
    for row in study.invariance[study.invariance["metric"] == "silhouette"].itertuples():
        said = title(panel(drawn("fig4c_sites"), encoder_label(row.encoder))).split("\n")[1]
        assert said == f"silhouette {row.value:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})"


def test_base_stands_above_dro_of_the_same_method(drawn):
    names = [title(axes).split("\n")[0] for axes in drawn("fig4c_sites").axes]
    methods = ["BYOL", "DINO", "MAE", "MoCo"]
    assert names == [f"{method} base" for method in methods] + [f"{method} +DRO" for method in methods]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("a", "silhouette", 0.214, 0.1, 0.3)], "silhouette 0.21 (0.10 to 0.30)"),
        ([("a", "silhouette", 0.214, np.nan, np.nan)], "silhouette 0.21"),
        ([("a", "silhouette", np.nan, np.nan, np.nan)], "silhouette not estimable"),
        ([("a", "effective_rank", 3.0, 2.0, 4.0), ("b", "silhouette", 0.9, 0.8, 1.0)], "silhouette not estimable"),
        ([], "silhouette not estimable"),
    ],
)
def test_a_silhouette_is_given_or_its_absence_is(rows, text):
    table = pd.DataFrame(rows, columns=["encoder", "metric", "value", "ci_low", "ci_high"])
    assert silhouette_text(table, "a") == text


def test_without_the_table_no_silhouette_is_claimed(study):
    study.invariance = None
    said = [title(axes) for axes in figure("fig4c_sites", study).axes]
    assert all(text.endswith("silhouette not given") for text in said)


def test_the_order_of_the_rows_does_not_change_what_is_drawn(study, drawn):
    study.coordinates = study.coordinates.sample(frac=1, random_state=1)
    for axes, other in zip(figure("fig4c_sites", study).axes, drawn("fig4c_sites").axes, strict=True):
        assert title(axes) == title(other)
        for one, two in zip(axes.lines, other.lines, strict=True):
            assert sorted(map(tuple, one.get_xydata())) == sorted(map(tuple, two.get_xydata()))


@pytest.mark.parametrize("kept", [("byol-dro-s0",), ("byol-base-s0", "byol-dro-s0", "mae-base-s0")])
def test_a_place_without_an_encoder_is_off(study, kept):
    study.coordinates = study.coordinates[study.coordinates["encoder"].isin(kept)]
    picture = figure("fig4c_sites", study)
    with theme():
        picture.draw_without_rendering()
    assert sum(axes.axison for axes in picture.axes) == len(kept)
    assert outside(picture) == []


def test_more_than_four_methods_or_seeds_wrap_into_new_lines(study):
    first = study.coordinates[study.coordinates["encoder"] == "byol-base-s0"]
    more = [first.assign(encoder=name) for name in ("random-s0", "byol-base-s1", "byol-dro-s1", "newer-huge-s0")]
    study.coordinates = pd.concat([study.coordinates, *more])
    picture = figure("fig4c_sites", study)
    with theme():
        picture.draw_without_rendering()
    assert sum(axes.axison for axes in picture.axes) == 12
    assert outside(picture) == []
    assert overlapping(picture) == []
    assert "newer huge\nsilhouette not estimable" in texts(picture)


def test_the_description_counts_the_scans_of_each_site(drawn):
    assert drawn("fig4c_sites").get_label() == "Scans: cuimc 24, ucsf-pdgm 36, upenn-gbm 30."


def test_the_site_probe_stands_before_its_null_and_beside_the_rank(drawn, study):
    page = drawn("fig4c_invariance")
    probe, inside, _, _, rank = page.axes
    rows = study.invariance
    for axes, protocol in ((probe, "combined"), (inside, "glioblastoma")):
        mine = rows[(rows["metric"] == "site_probe_balanced_accuracy") & (rows["protocol"] == protocol)]
        marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
        assert sorted(marks) == pytest.approx(sorted(mine["value"]))
        assert {round(bar.get_x(), 6) for bar in axes.patches} == {0.24}
        assert {round(bar.get_width(), 6) for bar in axes.patches} == {0.19}
    ranks = rows[rows["metric"] == "effective_rank"]["value"]
    marks = [line.get_xdata()[0] for line in rank.lines if len(line.get_xdata()) == 1]
    assert sorted(marks) == pytest.approx(sorted(ranks))
