"""Every figure by name: it draws, says so when there is nothing, fits its canvas, and is the same when drawn again."""

import dataclasses
import re

import pytest
from matplotlib.colors import to_hex

from neurorad.problems import InputError
from neurorad.reporting.inputs import Tables
from neurorad.reporting.registry import CAPTIONS, FIGURES, caption, figure
from neurorad.reporting.theme import METHOD_COLOURS, colours, theme, write_figure

from .reading import estimates, legend, outside, overlapping, panel, texts, title

names = pytest.mark.parametrize("name", list(FIGURES))


@names
def test_it_draws_from_the_planted_study(drawn, name):
    picture = drawn(name)
    assert len(picture.axes) > 0
    assert not any("nothing to draw" in text for text in texts(picture))
    assert re.search(r"\d", picture.get_label())


@names
def test_without_rows_it_says_that_there_is_nothing_to_draw(empty_study, name):
    picture = figure(name, empty_study)
    with theme():
        picture.draw_without_rendering()
    (said,) = [text for text in texts(picture) if text.startswith("nothing to draw: ")]
    assert picture.get_label() == f"N{said[1:]}."
    assert outside(picture) == []


@names
def test_no_text_leaves_the_canvas_or_lies_on_another(drawn, name):
    assert outside(drawn(name)) == []
    assert overlapping(drawn(name)) == []


@names
def test_the_stamp_of_the_audit_is_in_the_foot(drawn, study, name):
    assert study.audit["stamp"] in texts(drawn(name))


@pytest.mark.parametrize("name", ["fig1_flow", "fig4b_kaplan_meier", "fig6a_heat_maps"])
def test_without_a_stamp_the_foot_is_empty(study, name):
    study.audit = {"stamp": ""}
    assert not any("LEAKAGE" in text for text in texts(figure(name, study)))


@names
def test_a_second_drawing_gives_the_same_bytes(written, study, tmp_path, name):
    again = figure(name, study)
    write_figure(again, tmp_path / name, FIGURES[name].title, f"{caption(name)} {again.get_label()}")
    for suffix in ("svg", "png", "pdf"):
        assert (tmp_path / f"{name}.{suffix}").read_bytes() == (written / f"{name}.{suffix}").read_bytes()


@names
def test_it_asks_for_each_table_it_needs_by_its_flag(study, name):
    for need in FIGURES[name].needs:
        with pytest.raises(InputError, match=f"needs --{need}: give"):
            figure(name, dataclasses.replace(study, **{need: None}))


@names
def test_it_draws_without_the_tables_that_only_add_to_it(study, name):
    needed = {need: getattr(study, need) for need in FIGURES[name].needs}
    assert not any("nothing to draw" in text for text in texts(figure(name, Tables(**needed))))


def test_every_figure_has_a_caption_and_every_caption_a_figure():
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {*FIGURES, "training_pages", "report"}


@names
def test_a_caption_is_one_line_of_sentences_without_markup(name):
    text = caption(name)
    assert len(text) > 60
    assert text.endswith(".")
    assert not re.search(r"\n|``|\*\*|  ", text)


def test_every_figure_answers_a_figure_of_the_paper_or_goes_beyond_one():
    assert all(re.fullmatch(r"(beyond )?Figure \d[A-D]?", entry.answers) for entry in FIGURES.values())
    assert len({entry.title for entry in FIGURES.values()}) == len(FIGURES)


def test_an_unknown_figure_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no figure is called fig9; figures: fig1_flow, fig2d"):
        figure("fig9", Tables())


def test_a_method_has_one_colour_in_every_figure(drawn):
    for name, panels in (
        ("fig3b_common_markers", "MGMT"),
        ("fig3c_uncommon_markers", "EGFR"),
        ("fig4a_survival", "CU"),
    ):
        shown = [estimates(axes) for axes in drawn(name).axes if title(axes).startswith(panels)]
        assert shown
        for part in shown:
            for method in ("byol", "dino", "mae", "moco"):
                assert (part["colour"] == METHOD_COLOURS[method].lower()).sum() == 2
    for axes in drawn("fig2_training").axes[:4]:
        method = {"BYOL": "byol", "DINO": "dino", "MAE": "mae", "MoCo": "moco"}[title(axes)]
        assert {to_hex(line.get_color()) for line in axes.lines} == {METHOD_COLOURS[method].lower()}


def test_a_cohort_has_one_colour_in_every_figure(drawn, study):
    expected = {name: colour.lower() for name, colour in colours(study.scans["cohort"]).items()}
    bars = drawn("fig2d_cohorts").axes[0]
    order = [label.get_text() for label in bars.get_yticklabels()]
    assert {name: to_hex(bar.get_facecolor()) for name, bar in zip(order, bars.patches, strict=True)} == expected
    weights = drawn("fig2_training").axes[4]
    groups = {line.get_label(): to_hex(line.get_color()) for line in weights.lines if line.get_label() in expected}
    assert len(groups) == 7
    assert groups == {name: expected[name] for name in groups}
    sites = panel(drawn("fig4c_sites"), "BYOL base")
    shown = {line.get_label().lower(): to_hex(line.get_color()) for line in sites.lines}
    assert len(shown) == 3
    assert shown == {name: expected[name] for name in shown}
    assert legend(drawn("fig4c_sites")) == ["CUIMC", "UCSF-PDGM", "UPENN-GBM"]
