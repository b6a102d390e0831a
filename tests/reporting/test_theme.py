"""Names, order and colours that hold in every figure, the foot of a figure, and files that do not depend on the clock."""

import base64
import io
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from neurorad.encoder_names import OBJECTIVES
from neurorad.reporting.theme import (
    ALARM,
    COHORTS,
    DENSE,
    METHOD_COLOURS,
    OBJECTIVE_LABELS,
    OBJECTIVE_LINES,
    OBJECTIVE_MARKERS,
    PALETTE,
    colours,
    count_range,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    say_nothing,
    site_label,
    theme,
    write_figure,
)

from .reading import outside, overlapping, shown_texts, texts


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("byol-dro-s0", "BYOL +DRO"),
        ("moco-base-s2", "MoCo base (seed 2)"),
        ("random-s0", "random weights"),
        ("clinical", "age + sex"),
        ("newer-dro-s0", "newer +DRO"),
        ("mae-balanced-s0", "MAE balanced"),
        ("mae-excess-s1", "MAE +excess DRO (seed 1)"),
        ("mae-worst-s0", "MAE worst group"),
    ],
)
def test_an_encoder_is_labelled_by_its_name(name, label):
    assert encoder_label(name) == label


def test_encoders_are_ordered_by_method_then_base_before_dro_then_seed():
    names = ["clinical", "zebra-base-s0", "mae-dro-s0", "byol-dro-s0", "random-s0", "byol-base-s1", "byol-base-s0"]
    expected = ["byol-base-s0", "byol-base-s1", "byol-dro-s0", "mae-dro-s0", "random-s0", "clinical", "zebra-base-s0"]
    assert order_encoders(names) == order_encoders(reversed(names)) == expected


def test_every_objective_has_a_label_a_marker_and_a_line_of_its_own():
    for look in (OBJECTIVE_LABELS, OBJECTIVE_MARKERS, OBJECTIVE_LINES):
        assert set(OBJECTIVES) <= set(look)
        assert len(set(look.values())) == len(look)
    names = [f"byol-{objective}-s0" for objective in (*OBJECTIVES, "newest")]
    assert order_encoders(reversed(names)) == names


def test_labels_of_sites():
    assert site_label("all") == "all sites"
    assert site_label("cuimc+ucsf-pdgm->upenn-gbm") == "CUIMC+UCSF-PDGM → UPENN-GBM"


def test_a_cohort_of_the_paper_has_one_colour_whichever_others_are_shown():
    everybody = colours(COHORTS)
    assert len(set(everybody.values())) == len(COHORTS)
    for name in COHORTS:
        assert colours([name]) == {name: everybody[name]}


def test_other_names_take_the_colours_that_are_left_by_sorted_order():
    shade = colours(["site-b", "cuimc", "site-a"])
    assert shade == colours(["site-a", "site-b", "cuimc"])
    assert len(set(shade.values())) == 3
    assert set(shade.values()) <= set(PALETTE)
    assert len(colours(f"site {i}" for i in range(40))) == 40


def test_methods_have_different_colours():
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([36, 36], "36"),
        ([36.0, 34.0, float("nan")], "34–36"),
        ([], "?"),
        ([None, float("nan")], "?"),
        (pd.Series([pd.NA, 12], dtype="Int64"), "12"),
        (pd.Series([pd.NA], dtype="Int64"), "?"),
    ],
)
def test_a_count_is_a_number_a_range_or_a_question_mark(counts, text):
    assert count_range(counts) == text


def test_the_theme_leaves_the_settings_of_the_caller_alone():
    before = dict(mpl.rcParams)
    with theme():
        assert mpl.rcParams["svg.hashsalt"] == "neurorad"
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("stamp", ["", "LEAKAGE NOT EXCLUDED", "LEAKAGE NOT EXCLUDED: " + "no crosswalk given; " * 40])
def test_the_foot_holds_legend_and_stamp_without_touching_the_panel(stamp):
    with theme():
        figure = new_figure(2.0, width=4.0)
        axes = figure.subplots()
        axes.set_xlabel("months")
        handles = axes.plot([0, 1], [0, 1], label="base") + axes.plot([0, 1], [1, 0], label="+DRO")
        finish(figure, stamp, handles)
        figure.draw_without_rendering()
    assert {"base", "+DRO"} <= set(texts(figure))
    assert outside(figure) == []
    assert overlapping(figure) == []
    stamps = [text for text in shown_texts(figure) if text.get_color() == ALARM]
    assert [text.get_text().split(":")[0] for text in stamps] == ([stamp.split(":")[0]] if stamp else [])
    assert all(text.get_text().count("\n") < 3 for text in stamps)


def test_a_text_beyond_the_canvas_and_a_text_on_another_are_found():
    with theme():
        figure = new_figure(2.0, width=2.0)
        figure.text(0.9, 0.5, "much too long for this place", in_layout=False)
        figure.text(0.1, 0.5, "one", in_layout=False)
        figure.text(0.1, 0.5, "two", in_layout=False)
        figure.draw_without_rendering()
    assert outside(figure) == ["much too long for this place"]
    assert overlapping(figure) == [("one", "two")]


def test_a_panel_with_nothing_says_why():
    with theme():
        figure = new_figure(1.0)
        say_nothing(figure.subplots(), "no patient")
    assert texts(figure) == ["no patient"]


def test_an_axis_that_an_empty_panel_shares_brings_it_no_ticks():
    with theme():
        figure = new_figure(2.0)
        empty, drawn = figure.subplots(2, sharex=True)
        say_nothing(empty, "not estimable")
        drawn.set_xticks([12, 18, 24])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ink = np.asarray(canvas.buffer_rgba())[::-1, :, :3].min(axis=2) < 250
    # A strip of pixels below each panel, where ticks stick out.
    below = [ink[round(y) - 3 : round(y) - 1].sum() for y in (p.get_window_extent().y0 for p in (empty, drawn))]
    assert below[0] == 0 and below[1] > 0


def test_files_carry_title_and_description_and_no_date(tmp_path):
    with theme():
        figure = new_figure(1.0)
        say_nothing(figure.subplots(), "x")
    write_figure(figure, tmp_path / "new" / "f", "Title & more", "One <two>")
    svg = (tmp_path / "new" / "f.svg").read_text(encoding="utf-8")
    assert "<dc:title>Title &amp; more</dc:title>" in svg
    assert "<dc:description>One &lt;two&gt;</dc:description>" in svg
    assert "dc:date" not in svg
    assert re.search(rb"matplotlib version|Software", (tmp_path / "new" / "f.png").read_bytes()) is None
    assert b"CreationDate" not in (tmp_path / "new" / "f.pdf").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["f.pdf", "f.png", "f.svg"]


def test_the_last_digits_of_the_layout_do_not_reach_the_files(tmp_path):
    def drawn(name: str, shift: float) -> bytes:
        with theme():
            figure = new_figure(2.0)
            for axes in figure.subplots(1, 3):
                axes.plot([0, 1], [0, 1])
            laid_out = figure.draw_without_rendering

            def shifted() -> None:
                laid_out()
                for axes in figure.axes:
                    position = [edge + shift for edge in axes.get_position(original=True).bounds]
                    axes._set_position(position)

            figure.draw_without_rendering = shifted
            write_figure(figure, tmp_path / name, "title", "text")
        return (tmp_path / f"{name}.svg").read_bytes()

    assert drawn("one", 0.0) == drawn("two", 1e-9)
    assert drawn("one", 0.0) != drawn("three", 1e-2)


def pictures_in(svg: str) -> list[np.ndarray]:
    stored = re.findall(r'data:image/png;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGBA")) for one in stored]


@pytest.mark.parametrize("points", [DENSE, DENSE + 1])
def test_only_a_cloud_of_too_many_points_is_stored_as_a_picture(points, tmp_path):
    with theme():
        drawn = new_figure(2.0)
        drawn.subplots().plot(np.arange(points), np.arange(points) % 7, ".")
    write_figure(drawn, tmp_path / "cloud", "Title", "Text")
    assert len(pictures_in((tmp_path / "cloud.svg").read_text())) == (points > DENSE)


def test_a_grey_picture_is_stored_with_one_channel_and_the_same_pixels(tmp_path):
    with theme():
        drawn = new_figure(2.0)
        drawn.subplots().imshow(np.random.default_rng(0).random((20, 30)), cmap="gray", interpolation="none")
        drawn.savefig(tmp_path / "matplotlib.svg", format="svg")
    write_figure(drawn, tmp_path / "grey", "Title", "Text")
    (stored,) = re.findall(r'data:image/png;base64,([^"]+)"', (tmp_path / "grey.svg").read_text())
    assert Image.open(io.BytesIO(base64.b64decode(stored))).mode == "L"
    (shown,), (expected,) = (pictures_in((tmp_path / name).read_text()) for name in ("grey.svg", "matplotlib.svg"))
    assert np.array_equal(shown, expected) and shown.std() > 50


def test_places_have_two_digits_and_the_texts_keep_theirs(tmp_path):
    with theme():
        drawn = new_figure(2.0)
        drawn.subplots().plot([0, 1, 3], [0, 1 / 3, 1])
    write_figure(drawn, tmp_path / "line", "Title", 'AUC d="0.123456"')
    head, _, body = (tmp_path / "line.svg").read_text().partition("</metadata>")
    assert "0.123456" in head
    assert not re.search(r'\sd="[^"]*\.\d{3}', body)
