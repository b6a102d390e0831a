"""Survival against lifelines and a product-limit by hand; risk is out of fold, its groups cut at the training median."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from statsmodels.duration.survfunc import survdiff

from neurorad.evaluation import metrics
from neurorad.evaluation.cox import risk_sets
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import TRAINED_ONLY
from neurorad.evaluation.layers import EVERYBODY
from neurorad.evaluation.prognosis import METRICS, group_rows, hazard_rows, time_grid
from neurorad.evaluation.risk import ELASTIC_NET, candidates, cross_validate, fit_risk
from neurorad.evaluation.survival import CURVE_COLUMNS, kaplan_meier, outcomes, survival
from neurorad.problems import InputError
from neurorad.seeds import generator

N = 90
PROTOCOLS = [("combined", "all"), ("within_site", "east"), ("leave_one_site_out", "east+north->west")]


def hazards(seed: int, strength: float = 1.0, d: int = 8, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Log hazard and features of which the first half share its latent."""
    random = np.random.default_rng(seed)
    latent, x = random.normal(size=n), random.normal(size=(n, d))
    x[:, : d // 2] += 1.5 * latent[:, None]
    return strength * latent, x


GRID = time_grid(900.0)


def out_of_fold(cell, x, days, event, seed: int = 0) -> np.ndarray:
    return cross_validate(cell, x, days, event, seed, GRID).risk


def hazard_ratio(risk, days, event, strata=None) -> list[float]:
    """Hazard ratio with its 95 % CI by lifelines."""
    table = pd.DataFrame({"x": np.asarray(risk, dtype=float), "days": days, "event": event})
    names = None if strata is None else ["stratum"]
    table = table if strata is None else table.assign(stratum=np.asarray(strata))
    fit = CoxPHFitter().fit(table, "days", "event", strata=names)
    return [*np.exp(fit.params_), *np.exp(fit.confidence_intervals_.to_numpy()[0])]


def within_strata_c(days, event, risk, strata) -> float:
    """Pairs of one stratum only, counted one by one."""
    concordant = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in np.flatnonzero(strata == strata[i]):
            if days[i] < days[j] or (days[i] == days[j] and not event[j]):
                pairs += 1
                concordant += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return concordant / pairs


@pytest.fixture(scope="module")
def told(glioblastomas, known):
    """One study with a planted hazard, evaluated once."""
    hazard, x = hazards(0, strength=1.3)
    carriers = (np.random.default_rng(5).random(N) < 0.5).astype(float)
    whole = glioblastomas(hazard - 0.8 * carriers, mgmt=carriers)
    return whole, x, *survival(whole.embeddings(x), whole.folds(repeats=2), whole.patients, known, 0, 50)


def test_every_number_of_a_row_follows_from_the_predictions(told):
    _, _, rows, predictions, _, _ = told
    assert len(predictions.groupby(["protocol", "site"])) == 7
    for (protocol, site), part in predictions.groupby(["protocol", "site"]):
        mine = {r["metric"]: r for r in rows if (r["protocol"], r["site"], r["endpoint"]) == (protocol, site, "os")}
        assert set(METRICS) <= set(mine)
        days, event, risk = (part[name].to_numpy() for name in ("days", "event", "risk"))
        cohort, high = part["cohort"].to_numpy(), risk > 0
        strata = cohort if protocol == "combined" else None
        if strata is None:
            c = concordance_index(days, -risk, event)
            p = logrank_test(days[high], days[~high], event[high], event[~high]).p_value
        else:
            c = within_strata_c(days, event, risk, cohort)
            p = survdiff(days, event, high.astype(int), strata=cohort)[1]
        assert mine["c_index"]["value"] == pytest.approx(c)
        assert mine["c_index"]["ci_low"] < c < mine["c_index"]["ci_high"]
        assert mine["log_rank_p"]["value"] == pytest.approx(p)
        ratios = {"hr_per_sd": risk / risk.std(), "hr_high_low": high}
        for name, covariate in ratios.items():
            found = [mine[name][key] for key in ("value", "ci_low", "ci_high")]
            np.testing.assert_allclose(found, hazard_ratio(covariate, days, event, strata), rtol=1e-3)
        assert {(r["n"], r["n_events"]) for r in mine.values()} == {(len(part), event.sum())}
        assert (part["group"] == np.where(high, "high", "low")).all()


def test_a_planted_hazard_is_ordered_about_as_well_as_it_could_be(told):
    whole, x, rows, _, _, _ = told
    patients = whole.patients
    own = within_strata_c(patients["os_days"].to_numpy(), patients["event"], x[:, :4].sum(axis=1), whole.site)
    found = {r["protocol"]: r["value"] for r in rows if r["metric"] == "c_index"}
    assert own > 0.68
    assert abs(found["combined"] - own) < 0.08
    assert next(r for r in rows if r["metric"] == "hr_per_sd")["ci_low"] > 1


def test_random_embeddings_order_no_deaths_on_average(glioblastomas, known):
    values = []
    for seed in range(10):
        hazard, _ = hazards(50 + seed, n=60)
        whole = glioblastomas(hazard, sites={"a": 40, "b": 20}, seed=seed)
        cell = whole.cell("os", "leave_one_site_out", "a->b")
        days, event = outcomes(cell, whole.patients)
        risk = out_of_fold(cell, hazards(80 + seed, n=60)[1], days, event)[0]
        values.append(concordance_index(days[40:], -risk, event[40:]))
    assert abs(np.mean(values) - 0.5) < 0.1
    assert np.std(values) > 0.01


@pytest.mark.parametrize(("protocol", "site"), PROTOCOLS)
def test_nothing_of_a_tested_patient_changes_another_prediction_of_its_fold(glioblastomas, protocol, site):
    hazard, x = hazards(1)
    whole = glioblastomas(hazard)
    cell = whole.cell("os", protocol, site, repeats=2)
    rows = np.flatnonzero(np.isin(whole.site, cell.patients["cohort"].unique()))
    days, event = outcomes(cell, whole.patients)
    before = out_of_fold(cell, x[rows], days, event)
    tested = cell.patients["fold"].to_numpy() != TRAINED_ONLY
    victim = np.flatnonzero(tested)[4]
    poisoned, died, alive = x[rows].copy(), days.copy(), event.copy()
    poisoned[victim] = 1e3
    died[victim], alive[victim] = 1.0, 1 - event[victim]
    own = (np.arange(len(rows)) == victim)[tested]
    changed = {
        "features": out_of_fold(cell, poisoned, days, event),
        "outcome": out_of_fold(cell, x[rows], died, alive),
    }
    for repeat, fold_of in enumerate(cell.assignments()):
        same = (fold_of == fold_of[victim])[tested]
        for what, after in changed.items():
            kept = same & ~own if what == "features" else same
            assert np.array_equal(before[repeat, kept], after[repeat, kept]), what
            if protocol != "leave_one_site_out":
                assert (before[repeat, ~same] != after[repeat, ~same]).any(), what
        assert before[repeat, own] != changed["features"][repeat, own]


def test_zero_risk_is_the_median_of_the_training_patients(glioblastomas):
    hazard, x = hazards(2)
    whole = glioblastomas(hazard)
    cell = whole.cell("os", "leave_one_site_out", "east+north->west")
    days, event = outcomes(cell, whole.patients)
    taught = whole.site != "west"
    random = generator(9, "survival", "leave_one_site_out", "east+north->west", 0, 0)
    log_risk = fit_risk(x[taught], days[taught], event[taught], whole.site[taught], random)(x)
    seen = log_risk[taught]
    expected = (np.clip(log_risk[~taught], seen.min(), seen.max()) - np.median(seen)) / seen.std()
    np.testing.assert_allclose(out_of_fold(cell, x, days, event, 9)[0], expected)


@pytest.mark.parametrize(("deaths", "most"), [(9, 1), (20, 2), (39, 3), (60, 5)])
def test_there_is_at_most_one_component_for_ten_events(deaths, most):
    hazard, x = hazards(3, d=30)
    days = np.random.default_rng(0).exponential(size=N) * np.exp(-hazard)
    event = (np.argsort(np.argsort(days)) < deaths).astype(float)
    model = fit_risk(x, days, event, np.full(N, "a"), np.random.default_rng(0))
    assert model.kind == ELASTIC_NET or 1 <= model.size <= most
    assert max(candidates(x, event, risk_sets(days, event, np.zeros(N))).sizes) <= most


def test_a_list_of_named_covariates_is_used_whole_and_shrunk_as_lifelines_does():
    hazard, x = hazards(4, d=2)
    days = np.random.default_rng(1).exponential(size=N) * np.exp(-hazard)
    event = (np.argsort(np.argsort(days)) < 30).astype(float)
    model = fit_risk(x, days, event, np.full(N, "a"), np.random.default_rng(0))
    coefficients = model.weights * x.std(axis=0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(model(x), z @ coefficients, atol=1e-12)
    table = pd.DataFrame({"a": z[:, 0], "b": z[:, 1], "days": days, "event": event})
    # lifelines divides by the SD with n - 1, its penalty is per patient.
    shrunk = [
        CoxPHFitter(penalizer=share * 30 / N * (N - 1) / N).fit(table, "days", "event").params_.to_numpy()
        for share in (0.03, 0.3, 3.0)
    ]
    assert min(np.abs(coefficients - params).max() for params in shrunk) < 1e-3


def test_the_saved_layer_is_the_log_risk_of_everybody_on_raw_features(told):
    whole, x, _, _, _, coefficients = told
    coefficients = coefficients[coefficients["repeat"] == EVERYBODY].reset_index(drop=True)
    assert coefficients[["endpoint", "site"]].values.tolist() == [["os", "all"]]
    layer = coefficients[[f"e{i}" for i in range(8)]].to_numpy(float)[0]
    patients = whole.patients
    days, event = patients["os_days"].to_numpy(), patients["event"].to_numpy()
    model = fit_risk(x, days, event, whole.site, generator(0, "survival", "final"))
    np.testing.assert_allclose(x @ layer + coefficients["intercept"][0], model(x), atol=1e-10)
    assert layer[:4].sum() > 5 * np.abs(layer[4:]).sum()


def test_a_collapsed_encoder_has_a_c_index_of_one_half_and_no_hazard_ratio(glioblastomas, known):
    whole = glioblastomas(hazards(5)[0])
    x = np.full((N, 6), -2.5)
    rows, predictions, _, _ = survival(whole.embeddings(x), whole.folds(), whole.patients, known, 0, 20)
    assert (predictions["risk"] == 0).all()
    combined = {r["metric"]: r for r in rows if r["protocol"] == "combined"}
    assert combined["c_index"]["value"] == 0.5
    assert combined["hr_per_sd"]["note"] == "not estimable: every patient has the same risk"
    deaths = int(whole.patients["event"].sum())
    expected = f"not estimable: 0 and {deaths} events in the two groups (needs 5 each)"
    assert combined["hr_high_low"]["note"] == combined["log_rank_p"]["note"] == expected


def test_too_few_deaths_are_a_row_that_says_so_and_no_number(glioblastomas, known):
    event = np.r_[np.arange(20) < 4, np.arange(20) < 9].astype(float)
    whole = glioblastomas(np.zeros(40), sites={"a": 20, "b": 20}, event=event)
    x = hazards(0, n=40)[1]
    rows, _, _, _ = survival(whole.embeddings(x), whole.folds(), whole.patients, known, 0, 20)
    notes = {(r["protocol"], r["site"]): r["note"] for r in rows if r["metric"] == "c_index"}
    assert notes["within_site", "a"] == "not estimable: 4 events of 20 (needs 5)"
    assert notes["leave_one_site_out", "b->a"] == "not estimable: 4 events of 20 (needs 5)"
    assert notes["leave_one_site_out", "a->b"] == "not estimable: 4 events of 20 in training (needs 5)"
    assert notes["within_site", "b"] == "warning: only 9 events"
    assert notes["combined", "all"] == "warning: only 13 events"
    for row in rows:
        assert np.isnan(row["value"]) == ("not estimable" in row["note"])


def test_groups_with_fewer_than_five_deaths_have_no_hazard_ratio():
    days, high = np.arange(1.0, 41), np.arange(40) % 2 == 0
    for deaths, estimable in ((4, False), (5, True)):
        event = (~high | (np.cumsum(high) <= deaths)).astype(float)
        rows = group_rows(high, days, event, np.zeros(40), "hr_high_low")
        assert [np.isfinite(r["value"]) for r in rows] == [estimable] * 2
        assert ("not estimable: 4 and 20 events" in rows[0]["note"]) != estimable


def test_a_perfect_order_of_deaths_has_a_c_of_one_and_no_finite_hazard_ratio():
    days = np.arange(1.0, 31)
    rows = hazard_rows(15.5 - days, days, np.ones(30), np.zeros(30))
    found = {r["metric"]: r for r in rows}
    assert metrics.harrell_c(metrics.comparable(days, np.ones(30)), 15.5 - days) == 1
    assert found["hr_per_sd"]["note"] == "not estimable: the hazard ratio is not finite"


def test_a_curve_is_the_product_limit_by_hand():
    days = np.array([5.0, 8, 8, 8, 12, 12, 20, 20, 31])
    event = np.array([1.0, 1, 1, 0, 0, 1, 0, 0, 1])
    curve = kaplan_meier(days, event)
    survived, expected = 1.0, [(0.0, 1.0, 9)]
    for day in np.unique(days):
        at_risk, deaths = (days >= day).sum(), ((days == day) & (event == 1)).sum()
        survived *= 1 - deaths / at_risk
        expected.append((day, survived, at_risk))
    np.testing.assert_allclose(curve[["time", "survival", "at_risk"]].to_numpy(float), expected)
    assert ((curve["ci_low"] <= curve["survival"]) & (curve["survival"] <= curve["ci_high"])).all()


def test_curves_hold_the_risk_groups_and_marker_arms_of_each_site(told):
    whole, _, _, predictions, curves, _ = told
    assert list(curves) == CURVE_COLUMNS
    assert set(curves["protocol"]) == {"within_site", "observed"}
    for site in ("east", "north", "west"):
        here = curves[curves["site"] == site]
        assert set(here["stratum"]) == {"risk high", "risk low", "mgmt positive", "mgmt negative"}
        mine = predictions[(predictions["protocol"] == "within_site") & (predictions["site"] == site)]
        high = mine[mine["group"] == "high"]
        first = here[here["stratum"] == "risk high"].iloc[0]
        assert (first["n"], first["n_events"], first["at_risk"]) == (len(high), high["event"].sum(), len(high))
        arm = whole.patients.query("cohort == @site and mgmt == 1")
        first = here[here["stratum"] == "mgmt positive"].iloc[0]
        assert (first["n"], first["n_events"]) == (len(arm), arm["event"].sum())


def test_the_uncommon_truth_of_a_marker_is_that_of_lifelines_and_involves_no_model(told, known):
    whole, x, rows, _, _, _ = told
    observed = [r for r in rows if r["protocol"] == "observed"]
    east = {r["metric"]: r for r in observed if r["site"] == "east"}
    mine = whole.patients.query("cohort == 'east'")
    carrier = mine["mgmt"].to_numpy() == 1
    days, event = mine["os_days"].to_numpy(), mine["event"].to_numpy()
    found = [east["hr_positive_negative"][key] for key in ("value", "ci_low", "ci_high")]
    np.testing.assert_allclose(found, hazard_ratio(carrier, days, event), rtol=1e-3)
    p = logrank_test(days[carrier], days[~carrier], event[carrier], event[~carrier]).p_value
    assert east["log_rank_p"]["value"] == pytest.approx(p)
    assert (east["log_rank_p"]["n"], east["log_rank_p"]["n_positive"]) == (36, carrier.sum())
    other = survival(whole.embeddings(-x[::-1]), whole.folds(), whole.patients, known, 0, 20)[0]
    pd.testing.assert_frame_equal(
        pd.DataFrame(observed), pd.DataFrame([r for r in other if r["protocol"] == "observed"])
    )


@pytest.mark.parametrize(("deaths", "note"), [(19, "warning: only 19 events"), (20, "")])
def test_a_marker_with_few_deaths_comes_with_a_warning(glioblastomas, known, deaths, note):
    event = (np.arange(40) < deaths).astype(float)
    whole = glioblastomas(np.zeros(40), sites={"a": 40}, event=event, mgmt=np.arange(40) % 2)
    rows, _, _, _ = survival(whole.embeddings(hazards(0, n=40)[1]), whole.folds(), whole.patients, known, 0, 20)
    observed = [r for r in rows if r["protocol"] == "observed"]
    assert [(r["metric"], r["note"]) for r in observed] == [("hr_positive_negative", note), ("log_rank_p", note)]


def test_folds_of_other_patients_are_refused(glioblastomas):
    whole = glioblastomas(hazards(6)[0])
    cell = whole.cell("os", "combined")
    flipped = whole.patients.assign(event=1 - whole.patients["event"])
    with pytest.raises(InputError, match="90 patients of all have no os_days, or another event than in --folds"):
        outcomes(cell, flipped)
    with pytest.raises(InputError, match="1 patients of all"):
        outcomes(cell, whole.patients.iloc[1:])


def test_the_clinical_baseline_counts_only_whom_it_knows(glioblastomas, known):
    hazard, x = hazards(7, d=2)
    whole = glioblastomas(hazard)
    clinical = Embeddings([whole.table(x, "clinical").drop(index=range(0, 30, 3))], "clinical")
    rows, predictions, _, _ = survival(clinical, whole.folds(), whole.patients, known, 0, 20)
    row = next(r for r in rows if r["protocol"] == "combined" and r["metric"] == "c_index")
    kept = whole.patients.drop(index=range(0, 30, 3))
    assert (row["n"], row["n_events"]) == (80, kept["event"].sum())
    assert row["note"].endswith("10 patients without clinical data left out")
    assert len(predictions[predictions["protocol"] == "combined"]) == 80


def test_a_clinical_baseline_that_knows_nobody_is_not_estimable(glioblastomas, known):
    hazard, x = hazards(8, d=2)
    whole = glioblastomas(hazard)
    table = whole.table(x, "clinical").assign(scan="other").drop_duplicates(["cohort", "scan"])
    rows, predictions, curves, coefficients = survival(
        Embeddings([table], "clinical"), whole.folds(), whole.patients, known, 0, 20
    )
    assert predictions.empty and curves.empty and coefficients.empty
    rows = [r for r in rows if r["protocol"] != "inclusion"]
    assert {r["n"] for r in rows} == {0} and all(r["note"].startswith("not estimable") for r in rows)


def test_a_training_fold_without_two_deaths_is_not_estimable(glioblastomas, known):
    whole = glioblastomas(np.zeros(30), sites={"a": 30}, event=(np.arange(30) < 10).astype(float))
    folds = whole.folds(folds=2)
    mine = folds[(folds["endpoint"] == "os") & (folds["protocol"] == "within_site")]
    dead = mine[(mine["label"] == 1) & (mine["fold"] == 1)]["scan"]
    table = whole.table(hazards(0, n=30, d=2)[1], "clinical")
    clinical = Embeddings([table[~table["scan"].isin(dead.iloc[:4])]], "clinical")
    rows, _, _, _ = survival(clinical, folds, whole.patients, known, 0, 20)
    row = next(r for r in rows if r["protocol"] == "within_site")
    assert np.isnan(row["value"]) and row["n_events"] == 6
    assert row["note"].startswith("not estimable: a training fold has fewer than 2 events")


def test_survival_reads_no_patient_outside_the_fold_table(told, known):
    whole, x, _, predictions, _, _ = told
    folds = whole.folds(repeats=2)
    only = folds[(folds["endpoint"] == "os") & (folds["protocol"] == "within_site") & (folds["site"] == "west")]
    few = survival(whole.embeddings(x), only, whole.patients, known, 0, 50)[1]
    same = predictions[(predictions["protocol"] == "within_site") & (predictions["site"] == "west")]
    pd.testing.assert_frame_equal(few, same.reset_index(drop=True))


def test_combat_frees_the_combined_model_from_a_shift_of_the_sites(glioblastomas, known):
    """Sites stretch and shift the one feature that matters: pooled, the model must work across them."""
    hazard = np.random.default_rng(12).normal(size=N) * 1.3
    whole = glioblastomas(hazard, censored=0.1)
    x = hazard[:, None] + np.random.default_rng(13).normal(0, 0.3, (N, 6))
    sign = {"east": 8.0, "north": 0.3, "west": 1.0}
    x = x * np.array([sign[s] for s in whole.site])[:, None] + 20.0 * (whole.site == "north")[:, None]
    rows, _, _, _ = survival(whole.embeddings(x), whole.folds(), whole.patients, known, 0, 50)
    c = {r["metric"]: r for r in rows if r["protocol"] == "combined"}
    after = c["c_index_after_combat"]
    assert after["ci_low"] < after["value"] < after["ci_high"]
    assert after["value"] > 0.7 and after["value"] > c["c_index"]["value"] - 0.02
    assert "c_index_after_combat" not in {r["metric"] for r in rows if r["protocol"] != "combined"}
