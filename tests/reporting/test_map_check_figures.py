"""Figure 6, beside its pictures: the numbers drawn are the table's, each beside its prior."""

import numpy as np
import pandas as pd
import pytest

from neurorad.reporting.inputs import Tables
from neurorad.reporting.map_check_figures import map_agreement
from neurorad.reporting.registry import figure
from neurorad.reporting.theme import GREY, METHOD_COLOURS, encoder_label

from .reading import title


def test_every_encoder_stands_beside_the_priors_with_its_interval(drawn, study):
    overlap = drawn("fig6_map_checks").axes[0]
    rows = study.checks[study.checks["metric"] == "mass_in_tumour"]
    marks = [line for line in overlap.lines if line.get_marker() not in ("None", None, "")]
    assert sorted(float(line.get_xdata()[0]) for line in marks) == pytest.approx(sorted(rows["value"]))
    assert {line.get_color() for line in marks} == {*(METHOD_COLOURS[m] for m in ("byol", "dino", "mae", "moco")), GREY}
    bars = [
        tuple(line.get_xdata()) for line in overlap.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2
    ]
    expected = {tuple(pair) for pair in rows[["ci_low", "ci_high"]].to_numpy().round(9)}
    assert expected <= {tuple(np.round(np.asarray(bar, float), 9)) for bar in bars}
    assert [label.get_text() for label in overlap.get_yticklabels()] == [
        encoder_label(name)
        for name in ("byol-base-s0", "byol-dro-s0", "dino-base-s0", "dino-dro-s0")
        + ("mae-base-s0", "mae-dro-s0", "moco-base-s0", "moco-dro-s0")
    ]


def test_randomisation_is_drawn_stage_by_stage(drawn, study):
    panel = drawn("fig6_map_checks").axes[2]
    assert title(panel) == "Does it change with the model?" or panel.get_title(loc="left").startswith("Does it change")
    lines = [line for line in panel.lines if len(line.get_xdata()) == 5]
    assert len(lines) == 8
    one = study.checks[(study.checks["encoder"] == "byol-base-s0") & study.checks["metric"].str.startswith("cascade")]
    assert np.allclose(lines[0].get_ydata(), one["value"])


def test_maps_that_could_not_be_checked_leave_a_reason(study):
    study.checks = study.checks.assign(value=np.nan)
    picture = figure("fig6_map_checks", study)
    assert picture.get_label() == "Nothing to draw: no map could be checked."


def check(endpoint: str, metric: str, value: float, low: float, high: float, n: int = 16) -> dict:
    told = {"value": value, "ci_low": low, "ci_high": high, "n": n}
    return {"encoder": "byol-dro-s0", "endpoint": endpoint, "protocol": "gradcam", "metric": metric, **told}


def test_the_table_says_what_the_intervals_say():
    dice = "dice_top_5_percent"
    rows = [
        check("idh1", dice, 0.3, 0.2, 0.4),
        check("idh1", f"{dice}_minus_prior", 0.1, 0.02, 0.2),
        check("idh1", f"{dice}_minus_untrained", 0.1, -0.02, 0.2),
        check("idh1", "cascade_stem", 0.1, -0.1, 0.3, 5),
        check("os", dice, 0.1, 0.0, 0.2),
        check("os", f"{dice}_minus_prior", -0.2, -0.3, -0.1),
        check("os", f"{dice}_minus_untrained", 0.1, np.nan, np.nan, 3),
        check("os", "cascade_stem", 0.6, 0.4, 0.8, 5),
        check("mgmt", dice, np.nan, np.nan, np.nan, 0),
    ]
    table = map_agreement(Tables(checks=pd.DataFrame(rows))).set_index("endpoint")
    assert list(table.index) == ["idh1", "mgmt", "os"]
    assert table.loc["idh1", f"{dice}_minus_prior"] == "0.10 (0.02 to 0.20)"
    assert table["verdict"].tolist() == [
        "beats the centre prior; cannot be told from the untrained encoder; destroyed by randomisation",
        "against the centre prior not estimable; against the untrained encoder not estimable; randomisation not estimable",
        "loses to the centre prior; against the untrained encoder not estimable; not shown to be destroyed by randomisation",
    ]
    assert table.loc["os", f"{dice}_minus_untrained"] == "0.10 (no interval, n = 3)"
    assert table.loc["mgmt", dice] == table.loc["idh1", "pointing_hit"] == "not estimable"
    assert table["n"].tolist() == [16, 0, 16]
