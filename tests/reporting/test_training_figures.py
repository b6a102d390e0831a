"""Figure 2: each loss curve and group weight as logged, and base apart from +DRO."""

import numpy as np
import pytest

from neurorad.reporting.registry import figure
from neurorad.reporting.theme import theme

from .reading import legend, outside, panel, texts, title


def test_losses_are_those_of_the_log_base_dashed_and_dro_solid(drawn, study):
    for method in ("byol", "dino", "mae", "moco"):
        axes = panel(drawn("fig2_training"), {"moco": "MoCo"}.get(method, method.upper()))
        for line, objective in zip(axes.lines, ("base", "dro"), strict=True):
            mine = study.history[study.history["encoder"] == f"{method}-{objective}-s0"]
            assert np.array_equal(line.get_xydata(), mine[["step", "loss"]].to_numpy(float))
            assert (line.get_linestyle() == "-") == (objective == "dro")


def test_weights_are_those_of_the_dro_run(drawn, study):
    methods = [title(axes) for axes in drawn("fig2_training").axes[:4]]
    for method, axes in zip(methods, drawn("fig2_training").axes[4:], strict=True):
        mine = study.groups[study.groups["encoder"] == f"{method.lower()}-dro-s0"]
        lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert set(lines) == set(mine["group"])
        for group, part in mine.groupby("group"):
            assert np.allclose(lines[group].get_ydata(), part["weight"])
        (equal,) = [line for line in axes.lines if line.get_label().startswith("_")]
        assert np.allclose(equal.get_ydata(), 1 / mine["group"].nunique())
    assert legend(drawn("fig2_training")) == ["base", "+DRO", *sorted(study.groups["group"].unique())]


def test_rows_out_of_order_are_drawn_by_step(study, drawn):
    study.history = study.history.sample(frac=1, random_state=0)
    study.groups = study.groups.sample(frac=1, random_state=0)
    for one, two in zip(figure("fig2_training", study).axes, drawn("fig2_training").axes, strict=True):
        for a, b in zip(one.lines, two.lines, strict=True):
            assert np.array_equal(a.get_xydata(), b.get_xydata())


def test_a_method_without_a_dro_run_says_so_and_keeps_its_own_axis(study):
    study.history = study.history[study.history["encoder"].isin(["byol-base-s0", "mae-base-s0", "mae-dro-s0"])]
    picture = figure("fig2_training", study)
    with theme():
        picture.draw_without_rendering()
    byol, mae, below = picture.axes[:3]
    assert "no +DRO run" in texts(below)
    assert "no +DRO run" not in texts(picture.axes[3])
    assert byol.get_xlabel() == "step"
    assert [t.get_text() for t in byol.get_xticklabels() if t.get_visible()][:2] == ["0", "5"] or len(
        byol.get_xticks()
    ) > 2
    assert any(tick.label1.get_visible() for tick in byol.xaxis.get_major_ticks())
    assert not any(tick.label1.get_visible() for tick in mae.xaxis.get_major_ticks())
    assert outside(picture) == []


def test_without_the_table_of_weights_it_is_not_said_that_no_run_was_made(study):
    study.groups = None
    said = texts(figure("fig2_training", study))
    assert said.count("no group weights given") == 4
    assert "no +DRO run" not in said


@pytest.mark.parametrize(("number", "encoders"), [(1, "1 encoder"), (2, "2 encoders")])
def test_the_description_says_how_many_encoders_and_how_far(study, number, encoders):
    study.history = study.history[study.history["encoder"].isin(["byol-base-s0", "byol-dro-s0"][:number])]
    assert figure("fig2_training", study).get_label() == (f"{encoders}, up to step 39, on 53 scans of 50 patients.")


def test_other_objectives_have_lines_of_their_own_and_weights_of_the_first_that_weighs(study):
    extra = {"byol-dro-s0": "byol-excess-s0", "mae-dro-s0": "mae-worst-s0"}
    for table in (study.history, study.groups):
        table["encoder"] = table["encoder"].replace(extra)
    picture = figure("fig2_training", study)
    with theme():
        picture.draw_without_rendering()
    byol, mae = picture.axes[4], picture.axes[6]
    assert title(byol) == "under +excess DRO"
    assert title(mae) == "under worst group"
    assert legend(picture)[:4] == ["base", "+DRO", "+excess DRO", "worst group"]
    assert outside(picture) == []
