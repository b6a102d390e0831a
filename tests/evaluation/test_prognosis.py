"""What a prognosis is worth, on planted truth: the perfect model is calibrated, a shifted or exaggerated one is found out."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.statistics import proportional_hazard_test

from neurorad.evaluation.metrics import Z, bootstrap_counts
from neurorad.evaluation.prognosis import GRID, HORIZONS, METRICS, MONTH, THRESHOLDS, horizon, prognosis_rows, time_grid
from neurorad.evaluation.risk import OutOfFold
from neurorad.evaluation.time_metrics import survival_at

N, SCALE, TAU = 600, 500.0, 900.0


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Exponential deaths at exp(risk) / SCALE, censored at random; two sites."""
    random = np.random.default_rng(0)
    risk = random.normal(size=N)
    died, left = SCALE * random.exponential(size=N) * np.exp(-risk), random.uniform(200, 2500, N)
    return risk, np.minimum(died, left), (died <= left).astype(float), np.where(np.arange(N) % 2, "a", "b")


def told(risk, days, event, strata, factor: float = 1.0, scale: float = SCALE) -> dict[str, dict]:
    """Rows by metric (those with `at`: a list) of predictions with log risk `factor x risk` and the given scale."""
    grid = time_grid(TAU)
    alive = np.exp(-np.outer(np.exp(factor * risk), grid / scale))
    reference = np.broadcast_to(survival_at(days, event, grid), alive.shape)
    found = OutOfFold(np.stack([risk, risk]), factor * risk, alive, reference, grid, 0.0, [])
    rows = prognosis_rows(found, days, event, strata, bootstrap_counts(len(days), 100, np.random.default_rng(1)), TAU)
    named: dict = {}
    for row in rows:
        named.setdefault(row["metric"], []).append(row)
    return {name: part if "at" in part[0] else part[0] for name, part in named.items()}


def test_the_true_model_is_calibrated_and_beats_kaplan_meier(planted):
    rows = told(*planted)
    assert list(rows)[: len(METRICS)] == list(METRICS)
    slope, excess = rows["calibration_slope"], rows["calibration_in_the_large_12m"]
    assert slope["ci_low"] < 1 < slope["ci_high"] and slope["value"] == pytest.approx(1, abs=0.12)
    assert excess["ci_low"] < 0 < excess["ci_high"] and abs(excess["value"]) < 0.05
    assert rows["ibs_gain"]["ci_low"] > 0.1
    assert rows["ibs_gain"]["value"] == pytest.approx(1 - rows["ibs"]["value"] / rows["ibs_kaplan_meier"]["value"])
    assert rows["proportional_hazards_p"]["value"] > 0.01
    for row in rows["observed_risk_12m"]:
        assert row["ci_low"] - 0.03 < row["at"] < row["ci_high"] + 0.03
    assert [row["at"] for row in rows["observed_risk_12m"]] == sorted(row["at"] for row in rows["observed_risk_12m"])


def test_an_exaggerated_model_has_a_slope_below_one_and_the_same_order(planted):
    true, rows = told(*planted), told(*planted, factor=2.0)
    assert rows["c_index"]["value"] == true["c_index"]["value"]
    assert rows["calibration_slope"]["value"] == pytest.approx(true["calibration_slope"]["value"] / 2, abs=1e-6)
    assert rows["calibration_slope"]["ci_high"] < 0.7
    assert rows["ibs"]["value"] > true["ibs"]["value"]


def test_a_model_from_a_deadlier_time_predicts_too_many_deaths(planted):
    rows = told(*planted, scale=SCALE / 2)
    assert rows["calibration_in_the_large_12m"]["ci_high"] < -0.05
    assert rows["calibration_slope"]["value"] == told(*planted)["calibration_slope"]["value"]


@pytest.fixture(scope="module")
def useless(planted) -> list[dict[str, dict]]:
    """Rows of risks that know nothing, eight times."""
    _, days, event, strata = planted
    return [told(np.random.default_rng(seed).normal(size=N), days, event, strata) for seed in range(10, 18)]


@pytest.mark.parametrize("name", ["c_index", "uno_c", "auc_12m", "auc_18m", "auc_24m"])
def test_a_useless_model_orders_nobody(useless, name):
    """Expected is exactly one half, with the standard error that the interval itself claims."""
    value = np.array([rows[name]["value"] for rows in useless])
    error = np.array([rows[name]["ci_high"] - rows[name]["ci_low"] for rows in useless]) / (2 * Z)
    assert (np.abs(value - 0.5) < 4 * error).all(), (value, error)
    assert abs(value.mean() - 0.5) < 4 * error.mean() / np.sqrt(len(value))
    # Neither are the intervals so wide that this holds for nothing: a Mann-Whitney statistic of as many dead as alive.
    assert (error < 2.5 / np.sqrt(12 * N / 4)).all()


def test_a_useless_model_gains_nothing(useless):
    assert all(rows["ibs_gain"]["value"] < 0 for rows in useless)


def test_acting_on_the_true_model_is_never_worse_than_on_all_or_nobody(planted):
    rows = told(*planted)
    model, everybody = rows["net_benefit_12m"], rows["net_benefit_of_all_12m"]
    assert [row["at"] for row in model] == [row["at"] for row in everybody] == list(THRESHOLDS)
    for mine, other in zip(model, everybody, strict=True):
        assert mine["value"] > max(0, other["value"]) - 0.01
    dead = 1 - survival_at(planted[1], planted[2], [HORIZONS[0] * MONTH])[0]
    assert everybody[0]["value"] == pytest.approx(dead - (1 - dead) * 0.1 / 0.9)


def test_crossing_hazards_are_not_proportional_and_p_is_lifelines(planted):
    _, _, _, strata = planted
    # Half of the high-risk patients die soon, the others late: their hazard ratio falls with time.
    random = np.random.default_rng(0)
    high = random.random(N) < 0.5
    days = np.where(high, np.where(random.random(N) < 0.5, 60, 3000), 500) * random.exponential(size=N)
    event, early = np.ones(N), high + random.normal(0, 0.3, N)
    found = told(early, days, event, strata)["proportional_hazards_p"]["value"]
    assert found < 0.001
    table = pd.DataFrame({"risk": early / early.std(), "days": days, "event": event, "site": strata})
    fit = CoxPHFitter().fit(table, "days", "event", strata=["site"])
    assert found == pytest.approx(proportional_hazard_test(fit, table, time_transform="rank").p_value.item())


def test_everybody_censored_or_dead_at_a_horizon_is_a_row_that_says_so(planted):
    risk, days, _, strata = planted
    short = np.minimum(days, 17 * MONTH)
    rows = told(risk, short, np.where(days < 17 * MONTH, 1.0, 0.0), strata)
    assert np.isfinite(rows["auc_12m"]["value"])
    for months in (18, 24):
        row = rows[f"auc_{months}m"]
        assert np.isnan(row["value"]) and f" 0 alive at {months} months (needs 5 each)" in row["note"]
    rows = told(risk, days, np.zeros(N), strata)
    for name in METRICS:
        assert name in ("ibs", "ibs_kaplan_meier", "ibs_gain") or np.isnan(rows[name]["value"]), name
        assert np.isfinite(rows[name]["value"]) or "not estimable" in rows[name]["note"], name
    assert "net_benefit_12m" not in rows


def test_deaths_on_day_zero_and_ties_give_numbers(planted):
    risk, days, event, strata = planted
    coarse = np.floor(days / 200) * 200
    assert (coarse == 0).sum() > 50
    rows = told(risk, coarse, event, strata)
    for name in METRICS:
        assert np.isfinite(rows[name]["value"]), name


def test_tau_is_the_shortest_follow_up_of_the_training_folds_and_no_encoders(glioblastomas):
    whole = glioblastomas(np.zeros(90))
    cell = whole.cell("os", "leave_one_site_out", "east+north->west")
    days = whole.patients["os_days"].to_numpy()
    west = whole.site == "west"
    assert horizon(cell, days) == min(np.quantile(days[west], 0.9), np.quantile(days[~west], 0.9))
    assert len(time_grid(10.0)) == len(HORIZONS) + GRID + 1 and time_grid(10.0)[-1] == 10
