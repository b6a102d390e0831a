"""Figures 4A, 4B and 5: c-indices as tabled, Kaplan-Meier steps and numbers at risk against a count of the patients."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables
from neurorad.reporting.registry import figure
from neurorad.reporting.survival_figures import MONTH, STRATUM_COLOURS, format_p
from neurorad.reporting.theme import theme

from .reading import estimates, outside, overlapping, panel, texts, title


def patients(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Days (with ties, some on a tick of the axis) and event, a third of them censored."""
    random = np.random.default_rng(seed)
    days = random.integers(1, 60, n) * MONTH / 2
    return days, (random.random(n) > 0.33).astype(int)


def product_limit(days: np.ndarray, event: np.ndarray, **first: str) -> pd.DataFrame:
    times = np.unique(np.r_[0, days])
    at_risk = np.array([(days >= t).sum() for t in times])
    deaths = np.array([((days == t) & (event == 1)).sum() for t in times])
    alive = np.cumprod(1 - deaths / at_risk)
    columns = {"time": times, "survival": alive, "ci_low": alive - 0.05, "ci_high": alive + 0.05, "at_risk": at_risk}
    return pd.DataFrame({**first, **columns})


def groups(encoder: str = "byol-dro-s0", site: str = "cuimc") -> tuple[pd.DataFrame, dict]:
    raw = {"risk high": patients(1, 40), "risk low": patients(2, 55)}
    parts = [product_limit(*raw[name], stratum=name, site=site, encoder=encoder) for name in raw]
    return pd.concat(parts, ignore_index=True), raw


def at_risk_rows(axes) -> dict[str, dict[float, str]]:
    """Colour -> month -> number, of the texts below the axis."""
    rows: dict[str, dict[float, str]] = {}
    for text in axes.texts:
        if text.get_text().isdigit():
            rows.setdefault(to_hex(text.get_color()), {})[float(text.xy[0])] = text.get_text()
    return rows


def test_the_c_index_of_every_encoder_is_drawn_at_its_site(drawn, study):
    rows = study.survival[study.survival["metric"] == "c_index"]
    for site in rows["site"].unique():
        axes = panel(drawn("fig4a_survival"), site.upper())
        mine = rows[rows["site"] == site].sort_values("value")
        shown = estimates(axes).sort_values("value")
        assert np.allclose(shown[["value", "ci_low", "ci_high"]].astype(float), mine[["value", "ci_low", "ci_high"]])
        assert title(axes).split("\n")[1] == f"n = {mine['n'].iloc[0]}, {mine['n_events'].iloc[0]} deaths"


def test_a_site_without_a_c_index_says_so(study):
    here = (study.survival["site"] == "cuimc") & (study.survival["metric"] == "c_index")
    study.survival.loc[here, ["value", "ci_low", "ci_high"]] = np.nan
    axes = panel(figure("fig4a_survival", study), "CUIMC")
    assert texts(axes).count("not estimable") == 6
    assert estimates(axes).empty


def test_steps_are_the_product_limit_of_the_patients():
    curves, raw = groups()
    axes = figure("fig4b_kaplan_meier", Tables(curves=curves)).axes[0]
    for line in axes.lines:
        days, event = raw[f"risk {line.get_label()}"]
        expected = product_limit(days, event)
        assert line.get_drawstyle() == "steps-post"
        assert np.allclose(line.get_xdata(), expected["time"] / MONTH)
        assert np.allclose(line.get_ydata(), expected["survival"])
        assert to_hex(line.get_color()) == STRATUM_COLOURS[line.get_label()].lower()
    assert [line.get_label() for line in axes.lines] == ["high", "low"]


def test_numbers_at_risk_are_a_count_of_the_patients_at_every_tick():
    curves, raw = groups()
    picture = figure("fig4b_kaplan_meier", Tables(curves=curves))
    axes = picture.axes[0]
    rows = at_risk_rows(axes)
    ticks = axes.get_xticks()
    assert len(ticks) >= 3
    for name in ("high", "low"):
        days, _ = raw[f"risk {name}"]
        expected = {float(tick): str((days >= tick * MONTH - 1e-6).sum()) for tick in ticks}
        assert rows[STRATUM_COLOURS[name].lower()] == expected


def test_beyond_the_last_patient_nobody_is_at_risk():
    curves, _ = groups()
    short = (curves["stratum"] == "risk high") & (curves["time"] > 200)
    axes = figure("fig4b_kaplan_meier", Tables(curves=curves[~short])).axes[0]
    assert at_risk_rows(axes)[STRATUM_COLOURS["high"].lower()][24.0] == "0"


def test_the_band_is_the_interval_of_the_table():
    curves, _ = groups()
    axes = figure("fig4b_kaplan_meier", Tables(curves=curves)).axes[0]
    assert len(axes.collections) == 2
    for band, name in zip(axes.collections, ("risk high", "risk low"), strict=True):
        mine = curves[curves["stratum"] == name]
        heights = band.get_paths()[0].vertices[:, 1]
        assert np.isclose(heights.min(), mine["ci_low"].min())
        assert np.isclose(heights.max(), mine["ci_high"].max())


def test_the_order_of_the_rows_of_a_curve_does_not_matter():
    curves, _ = groups()
    one = figure("fig4b_kaplan_meier", Tables(curves=curves)).axes[0]
    two = figure("fig4b_kaplan_meier", Tables(curves=curves.sample(frac=1, random_state=3))).axes[0]
    for a, b in zip(one.lines, two.lines, strict=True):
        assert np.array_equal(a.get_xydata(), b.get_xydata())
    assert at_risk_rows(one) == at_risk_rows(two)


def test_every_encoder_has_a_row_and_every_site_a_column(drawn, study):
    titles = [title(axes) for axes in drawn("fig4b_kaplan_meier").axes]
    assert titles == [f"BYOL {o} · {s}" for o in ("base", "+DRO") for s in ("CUIMC", "UCSF-PDGM", "UPENN-GBM")]


@pytest.mark.parametrize(("p", "says"), [(0.0123, "log-rank p = 0.012"), (np.nan, "log-rank not estimable")])
def test_the_log_rank_test_is_that_of_the_encoder_and_site(p, says):
    curves, _ = groups()
    row = {"encoder": "byol-dro-s0", "site": "cuimc", "endpoint": "os", "protocol": "within_site"}
    rows = [{**row, "metric": "log_rank_p", "value": p}]
    rows += [{**row, **other, "metric": "log_rank_p", "value": 0.5} for other in ({"site": "x"}, {"encoder": "x"})]
    axes = figure("fig4b_kaplan_meier", Tables(curves=curves, survival=pd.DataFrame(rows[::-1]))).axes[0]
    assert says in texts(axes)


def test_no_test_is_claimed_that_nobody_made():
    curves, _ = groups()
    axes = figure("fig4b_kaplan_meier", Tables(curves=curves)).axes[0]
    assert not any("log-rank" in text for text in texts(axes))


def test_a_site_whose_curves_cannot_be_estimated_says_so():
    curves, _ = groups()
    lost = groups(site="upenn-gbm")[0].assign(survival=np.nan)
    axes = panel(figure("fig4b_kaplan_meier", Tables(curves=pd.concat([curves, lost]))), "BYOL +DRO · UPENN-GBM")
    assert "not estimable" in texts(axes)
    assert not axes.lines


def test_an_encoder_without_curves_at_one_site_says_so():
    curves = pd.concat([groups()[0], groups("mae-dro-s0", "upenn-gbm")[0]])
    picture = figure("fig4b_kaplan_meier", Tables(curves=curves))
    said = [texts(axes) for axes in picture.axes]
    assert ["not estimable" in part for part in said] == [False, True, True, False]


def test_eight_encoders_at_three_sites_fit(study):
    parts = [
        study.curves[study.curves["encoder"] == "byol-dro-s0"].assign(encoder=e)
        for e in study.history["encoder"].unique()
    ]
    study.curves = pd.concat(parts, ignore_index=True)
    picture = figure("fig4b_kaplan_meier", study)
    with theme():
        picture.draw_without_rendering()
    assert len(picture.axes) == 24
    assert outside(picture) == []
    assert overlapping(picture) == []


def test_markers_are_lettered_once_whatever_the_number_of_encoders(drawn, study):
    titles = [title(axes) for axes in drawn("fig5_marker_survival").axes]
    markers, sites = ("egfr", "atrx", "tert"), ("CUIMC", "UCSF-PDGM", "UPENN-GBM")
    pairs = [f"{endpoints()[marker].label} · {site}" for marker in markers for site in sites]
    assert titles == [f"{letter}  {pair}" for letter, pair in zip("ABCDEFGHI", pairs, strict=True)]
    for axes in drawn("fig5_marker_survival").axes:
        assert [line.get_label() for line in axes.lines] == ["negative", "positive"]
        assert "log-rank p < 0.001" in texts(axes)


def test_the_curve_of_a_marker_is_that_of_the_table(drawn, study):
    axes = panel(drawn("fig5_marker_survival"), "B  EGFR · UCSF-PDGM")
    for line in axes.lines:
        mine = study.curves[
            (study.curves["encoder"] == "byol-base-s0")
            & (study.curves["site"] == "ucsf-pdgm")
            & (study.curves["stratum"] == f"egfr {line.get_label()}")
        ].drop_duplicates("time")
        assert np.allclose(line.get_xdata(), mine["time"] / MONTH)
        assert np.allclose(line.get_ydata(), mine["survival"])


def test_only_uncommon_markers_are_in_figure_5(study):
    common = study.curves[study.curves["stratum"] == "risk high"].assign(stratum="idh1 positive")
    study.curves = pd.concat([study.curves, common])
    assert not any("IDH1" in text for text in texts(figure("fig5_marker_survival", study)))
    study.curves = common
    assert any("no uncommon marker" in text for text in texts(figure("fig5_marker_survival", study)))


def test_unused_places_of_the_grid_are_off(study):
    study.curves = study.curves[study.curves["stratum"].str.startswith("egfr") | (study.curves["site"] == "cuimc")]
    picture = figure("fig5_marker_survival", study)
    assert [axes.axison for axes in picture.axes] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "p < 0.001"), (0.001, "p = 0.001"), (0.0994, "p = 0.099"), (0.1, "p = 0.10"), (1.0, "p = 1.00")],
)
def test_p_is_written_with_the_digits_that_matter(p, text):
    assert format_p(p) == text


def test_the_prognosis_is_drawn_as_tabled_and_not_estimable_is_written(drawn, study):
    rows = study.survival
    page = drawn("fig4a_prognosis")
    assert len(page.axes) == 4 * 3
    auc, gain, calibration, benefit = page.axes[:4]
    mine = rows[(rows["site"] == "cuimc") & (rows["protocol"] == "within_site")]
    first = mine[(mine["encoder"] == "byol-base-s0") & mine["metric"].isin(["auc_12m", "auc_18m", "auc_24m"])]
    np.testing.assert_allclose(auc.lines[0].get_ydata(), first["value"])
    np.testing.assert_allclose(auc.lines[0].get_xdata(), [12, 18, 24])
    points = [line.get_xdata()[0] for line in gain.lines if line.get_marker() not in ("None", None, "")]
    assert sorted(points) == pytest.approx(sorted(mine[mine["metric"] == "ibs_gain"]["value"]))
    groups = mine[(mine["metric"] == "observed_risk_12m") & (mine["encoder"] == "byol-base-s0")]
    np.testing.assert_allclose(calibration.lines[0].get_xydata(), groups[["at", "value"]])
    everybody = mine[mine["metric"] == "net_benefit_of_all_12m"].drop_duplicates("at")
    assert any(np.array_equal(line.get_ydata(), everybody["value"]) for line in benefit.lines)
    few = rows.assign(value=rows["value"].where(~((rows["site"] == "cuimc") & rows["metric"].str.startswith("auc_"))))
    with theme():
        page = figure("fig4a_prognosis", Tables(survival=few))
    assert "not estimable" in [text.get_text() for text in page.axes[0].texts]
