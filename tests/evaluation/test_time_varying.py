"""Time-varying covariates: intervals by hand, hazard ratios against statsmodels and planted ones, and what they are for."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.hazard_regression import PHReg

from neurorad.evaluation.survival import survival
from neurorad.evaluation.time_varying import CHANGES, intervals, time_varying_rows

N = 400


@pytest.fixture(scope="module")
def planted() -> dict[str, np.ndarray]:
    """Hazard x 2 a SD of risk, x 4 from the day of progression on; people who live longer progress more often."""
    random = np.random.default_rng(0)
    risk = random.normal(size=N)
    first = random.exponential(300, N)
    rate = np.exp(np.log(2) * risk) / 600
    early = random.exponential(size=N) / rate
    late = first + random.exponential(size=N) / (4 * rate)
    died = np.where(early < first, early, late)
    left = random.uniform(300, 3000, N)
    return {
        "risk": risk,
        "days": np.ceil(np.minimum(died, left)),
        "event": (died <= left).astype(float),
        "progression": np.where(first < np.minimum(died, left), np.floor(first), np.nan),
        "site": np.where(np.arange(N) % 2, "a", "b"),
    }


def told(planted, changed=None, **over) -> dict[str, dict]:
    p = {**planted, **over}
    changed = {"progression": p["progression"]} if changed is None else changed
    return {row["metric"]: row for row in time_varying_rows(p["risk"], p["days"], p["event"], p["site"], changed)}


def test_a_patient_has_one_interval_more_for_each_change_before_the_end():
    days, event = np.array([100.0, 50.0, 0.0]), np.array([1.0, 0.0, 1.0])
    table = intervals(days, event, {"a": np.array([40.0, np.nan, np.nan]), "b": np.array([70.0, -3.0, 60.0])})
    expected = [
        (0, 0, 40, 0, 0, 0),
        (0, 40, 70, 0, 1, 0),
        (0, 70, 100, 1, 1, 1),
        (1, 0, 50, 0, 0, 1),
        (2, 0, 0.5, 1, 0, 0),
    ]
    assert [tuple(row) for row in table.itertuples(index=False)] == expected


def test_planted_hazard_ratios_are_found_and_ignoring_time_would_turn_the_sign(planted):
    rows = told(planted)
    assert rows["hr_per_sd_time_varying"]["value"] == pytest.approx(2, abs=0.3)
    after = rows["hr_after_progression"]
    assert after["ci_low"] < 4 < after["ci_high"] and after["value"] == pytest.approx(4, abs=1)
    assert after["note"].startswith(f"{np.isfinite(planted['progression']).sum()} of 400 patients")
    # "Ever progressed" as if known from day 0 protects: one must live to progress (immortal time).
    ever = np.isfinite(planted["progression"]).astype(float)
    naive = PHReg(planted["days"], np.c_[planted["risk"], ever], planted["event"], strata=planted["site"]).fit()
    assert np.exp(naive.params[1]) < 1.5


def test_they_are_those_of_statsmodels(planted):
    table = intervals(planted["days"], planted["event"], {"progression": planted["progression"]})
    x = np.c_[planted["risk"][table["patient"]] / planted["risk"].std(), table["progression"]]
    # statsmodels counts who enters on the day of a death as at risk, lifelines (and Cox) those who entered before it.
    fit = PHReg(
        table["stop"],
        x,
        table["event"],
        entry=table["start"] + 0.25,
        strata=planted["site"][table["patient"]],
        ties="efron",
    ).fit()
    rows = told(planted)
    for i, name in enumerate(("hr_per_sd_time_varying", "hr_after_progression")):
        assert rows[name]["value"] == pytest.approx(np.exp(fit.params[i]), rel=1e-4)
        assert rows[name]["ci_low"] == pytest.approx(np.exp(fit.conf_int()[i, 0]), rel=1e-3)


def test_what_cannot_be_estimated_says_so(planted):
    never = np.full(N, np.nan)
    rows = told(planted, changed={"progression": never})
    assert all(np.isnan(row["value"]) and "not estimable" in row["note"] for row in rows.values()) and len(rows) == 2
    rows = told(planted, changed={"progression": planted["progression"], "radiotherapy": never})
    assert np.isfinite(rows["hr_after_progression"]["value"])
    assert (
        rows["hr_after_radiotherapy"]["note"]
        == "not estimable: 0 of 400 patients before the end (needs 5 with and without)"
    )
    alive = told(planted, event=np.zeros(N))
    assert np.isnan(alive["hr_per_sd_time_varying"]["value"])
    same = told(planted, risk=np.ones(N))
    assert np.isnan(same["hr_per_sd_time_varying"]["value"]) and np.isfinite(same["hr_after_progression"]["value"])


def test_survival_asks_for_them_where_told_to_and_progression_is_an_endpoint_of_its_own(glioblastomas, known):
    random = np.random.default_rng(1)
    hazard = random.normal(size=90)
    plain = glioblastomas(hazard)
    os_days = plain.labels["os_days"].to_numpy()
    first = np.ceil(os_days * random.uniform(0.2, 1.6, 90))
    more = {"pfs_days": np.minimum(first, os_days), "progressed": (first < os_days) * 1.0, "radiotherapy_days": 20.0}
    whole = glioblastomas(hazard, **more)
    x = random.normal(size=(90, 4)) + hazard[:, None]
    folds = whole.folds()
    assert {"os", "pfs"} <= set(folds["endpoint"])
    rows, predictions, curves, layers = survival(
        whole.embeddings(x), folds, whole.patients, known, 0, 40, ["progression", "radiotherapy"]
    )
    table = pd.DataFrame(rows)
    both = table[table["metric"] == "c_index"].groupby("endpoint")["value"].count()
    assert both["os"] == both["pfs"] == 7
    assert set(predictions["endpoint"]) == set(curves["endpoint"]) == set(layers["endpoint"]) == {"os", "pfs"}
    pfs = predictions[(predictions["endpoint"] == "pfs") & (predictions["protocol"] == "combined")]
    pfs = pfs.merge(whole.labels, on=["cohort", "patient"], suffixes=("", "_label"))
    assert (pfs["days"] == pfs["pfs_days"]).all() and (pfs["event"] == pfs["progressed"]).all()
    included = table[(table["metric"] == "included")].groupby("endpoint")["value"].sum()
    assert included["os"] == included["pfs"] == 90
    changed = table[table["metric"] == "hr_after_progression"]
    assert set(changed["endpoint"]) == {"os"} and changed["value"].notna().sum() >= 4
    assert "hr_after_radiotherapy" in set(table.loc[table["endpoint"] == "pfs", "metric"])


def test_changes_have_columns_and_absent_ones_are_never():
    patients = pd.DataFrame({"progressed": [1.0, 0.0], "pfs_days": [30.0, 40.0], "chemotherapy_days": [5.0, np.nan]})
    np.testing.assert_array_equal(CHANGES["progression"](patients), [30, np.nan])
    np.testing.assert_array_equal(CHANGES["chemotherapy"](patients), [5, np.nan])
    np.testing.assert_array_equal(CHANGES["radiotherapy"](patients), [np.nan, np.nan])
