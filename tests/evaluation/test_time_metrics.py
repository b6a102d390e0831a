"""Censored metrics against closed forms, scikit-survival and dcurves; a bootstrap equals repeating the patients."""

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from neurorad.evaluation import metrics
from neurorad.evaluation.time_metrics import (
    auc_at,
    brier_at,
    integrated,
    net_benefit,
    survival_at,
    uncensored,
    uno_c,
)

HORIZONS = (120.0, 300.0, 600.0)


def sample(seed: int, n: int = 120, grid: float | None = None) -> tuple[np.ndarray, ...]:
    """Days, event, an imperfect risk and two strata; `grid` rounds the days, so that deaths and censorings tie."""
    random = np.random.default_rng(seed)
    risk = random.normal(size=n)
    died, left = 400 * random.exponential(size=n) * np.exp(-risk), random.uniform(100, 1500, n)
    days = np.minimum(died, left)
    days = days if grid is None else np.ceil(days / grid) * grid
    return days, (died <= left).astype(float), risk + random.normal(size=n), np.where(np.arange(n) % 3, "a", "b")


def all_metrics(days, event, risk, strata, weights=None) -> dict[str, np.ndarray]:
    free = uncensored(days, event, strata, weights)
    grid = np.linspace(0, 700, 15)
    alive = np.exp(-np.outer(np.exp(risk / 2), grid / 500))
    brier = brier_at(days, event, alive, grid, strata, free, weights)
    return {
        "uno": uno_c(days, event, risk, 700.0, strata, free, weights),
        "auc": auc_at(days, event, risk, 300.0, strata, free, weights),
        "brier": brier,
        "ibs": integrated(brier, grid),
        "benefit": net_benefit(days, event, 1 - alive[:, 8], 400.0, (0.2, 0.5, 0.7), weights),
        "alive": survival_at(days, event, [10.0, 300.0, 650.0], weights),
    }


@pytest.mark.parametrize("grid", [None, 60.0])
def test_a_drawn_sample_scores_as_the_repeated_patients_would(grid):
    data = sample(0, 60, grid)
    counts = metrics.bootstrap_counts(60, 6, np.random.default_rng(1))
    together = all_metrics(*data, counts)
    for b, drawn in enumerate(counts.astype(int)):
        alone = all_metrics(*(np.repeat(values, drawn) for values in data))
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][b], values, atol=1e-10, err_msg=name)


def test_survival_is_that_of_lifelines_with_ties():
    days, event, _, _ = sample(1, grid=45.0)
    theirs = KaplanMeierFitter().fit(days, event).predict([0.0, 44.9, 45.0, 400.0, 1e4]).to_numpy()
    np.testing.assert_allclose(survival_at(days, event, [0.0, 44.9, 45.0, 400.0, 1e4]), theirs)


def test_without_censoring_the_weights_vanish():
    days, _, risk, _ = sample(2)
    event, same = np.ones(len(days)), np.zeros(len(days))
    free = uncensored(days, event, same)
    assert (free == 1).all()
    c = metrics.harrell_c(metrics.comparable(days, event), risk)
    assert uno_c(days, event, risk, np.inf, same, free) == pytest.approx(c)
    dead = (days <= 300).astype(float)
    assert auc_at(days, event, risk, 300.0, same, free) == pytest.approx(metrics.auc(dead, risk))
    alive = np.random.default_rng(0).random((len(days), 1))
    brier = brier_at(days, event, alive, np.array([300.0]), same, free)
    assert brier[0] == pytest.approx(metrics.brier(1 - dead, alive[:, 0]))
    benefit = net_benefit(days, event, 1 - alive[:, 0], 300.0, (0.4,))
    called = 1 - alive[:, 0] >= 0.4
    expected = (called & (dead == 1)).mean() - (called & (dead == 0)).mean() * 0.4 / 0.6
    assert benefit[0] == pytest.approx(expected)


def test_by_hand_with_one_censored_patient():
    days, event = np.array([1.0, 2, 3, 4]), np.array([1.0, 0, 1, 1])
    same, risk = np.zeros(4), np.array([4.0, 3, 1, 2])
    free = uncensored(days, event, same)
    np.testing.assert_allclose(free, [1, 1, 2 / 3, 2 / 3])
    # Pairs: 1 beats 2, 3 and 4 (weight 1 each, all concordant); 3 against 4 (weight 9/4, discordant).
    assert uno_c(days, event, risk, 10.0, same, free) == pytest.approx(3 / (3 + 9 / 4))
    # At day 3 the deaths are patient 1 (weight 1) and 3 (weight 3/2), patient 4 is alive.
    assert auc_at(days, event, risk, 3.0, same, free) == pytest.approx(1 / 2.5)
    alive = np.array([[0.9], [0.8], [0.7], [0.6]])
    expected = (0.9**2 + 1.5 * 0.7**2 + 1.5 * 0.4**2) / 4
    assert brier_at(days, event, alive, np.array([3.0]), same, free)[0] == pytest.approx(expected)


def test_uno_finds_the_order_that_was_there_before_censoring_and_harrell_does_not():
    """Heavy censoring keeps the early, easily ordered pairs: Harrell's c rises, Uno's stays with the uncensored truth."""
    found = []
    for seed in range(6):
        random = np.random.default_rng(seed)
        risk = random.normal(size=1500)
        died, left = 400 * random.exponential(size=1500) * np.exp(-risk), random.exponential(300, 1500)
        days, event, same = np.minimum(died, left), (died <= left).astype(float), np.zeros(1500)
        truth = metrics.harrell_c(metrics.comparable(died, np.ones(1500)) & (died < 1500)[:, None], risk)
        uno = uno_c(days, event, risk, 1500.0, same, uncensored(days, event, same))
        found.append((metrics.harrell_c(metrics.comparable(days, event), risk) - truth, uno - truth))
    harrell, uno = np.mean(found, axis=0)
    assert harrell > 0.01 and abs(uno) < 0.006


def test_patients_of_different_strata_are_never_compared():
    days, event, risk, strata = sample(4)
    shift = 1e3 * (strata == "a")
    free = uncensored(days, event, strata)
    before = uno_c(days, event, risk, np.inf, strata, free)
    assert uno_c(days + shift, event, risk - shift, np.inf, strata, free) == pytest.approx(before)
    parts = [strata == name for name in ("a", "b")]
    scores = [auc_at(days[mine], event[mine], risk[mine], 300.0, strata[mine], free[mine]) for mine in parts]
    assert min(scores) <= auc_at(days, event, risk, 300.0, strata, free) <= max(scores)


def test_day_zero_all_censored_and_nobody_at_risk():
    days, risk, same = np.array([0.0, 0, 5, 9]), np.array([3.0, 2, 1, 0]), np.zeros(4)
    event = np.array([1.0, 1, 0, 1])
    free = uncensored(days, event, same)
    assert uno_c(days, event, risk, np.inf, same, free) == 1
    np.testing.assert_allclose(survival_at(days, event, [0.0]), [0.5])
    none = np.zeros(4)
    free = uncensored(days, none, same)
    assert np.isnan(uno_c(days, none, risk, np.inf, same, free))
    assert np.isnan(auc_at(days, none, risk, 3.0, same, free))
    assert survival_at(days, none, [100.0])[0] == 1
    assert net_benefit(days, event, np.full(4, 0.1), 3.0, (0.5,))[0] == 0


def scikit_survival(days, event):
    pytest.importorskip("sksurv", reason="scikit-survival is GPL: a reference only")
    return np.array(list(zip(event == 1, days, strict=True)), dtype=[("event", bool), ("days", float)])


@pytest.mark.parametrize("seed", range(3))
def test_uno_auc_and_brier_are_those_of_scikit_survival(seed):
    days, event, risk, _ = sample(seed, 200)
    outcome = scikit_survival(days, event)
    from sksurv.metrics import brier_score, concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score

    same = np.zeros(200)
    free, tau = uncensored(days, event, same), float(np.quantile(days, 0.9))
    theirs = concordance_index_ipcw(outcome, outcome, risk, tau)[0]
    assert uno_c(days, event, risk, tau, same, free) == pytest.approx(theirs, abs=1e-10)
    theirs = cumulative_dynamic_auc(outcome, outcome, risk, HORIZONS)[0]
    np.testing.assert_allclose([auc_at(days, event, risk, t, same, free) for t in HORIZONS], theirs, atol=1e-10)
    grid = np.linspace(10, tau, 20)
    alive = np.exp(-np.outer(np.exp(risk / 2), grid / 500))
    ours = brier_at(days, event, alive, grid, same, free)
    np.testing.assert_allclose(ours, brier_score(outcome, outcome, alive, grid)[1], atol=1e-10)
    assert integrated(ours, grid) == pytest.approx(integrated_brier_score(outcome, outcome, alive, grid))


def test_net_benefit_is_that_of_dcurves():
    dcurves = pytest.importorskip("dcurves")
    days, event, risk, _ = sample(5, 200)
    probability = 1 / (1 + np.exp(-risk))
    table = pd.DataFrame({"days": days, "event": event.astype(int), "model": probability})
    theirs = dcurves.dca(
        data=table,
        outcome="event",
        modelnames=["model"],
        thresholds=[0.2, 0.4, 0.6],
        time=300.0,
        time_to_outcome_col="days",
    )
    theirs = theirs[theirs["model"] == "model"].sort_values("threshold")["net_benefit"].to_numpy()
    np.testing.assert_allclose(net_benefit(days, event, probability, 300.0, (0.2, 0.4, 0.6)), theirs, atol=1e-8)
