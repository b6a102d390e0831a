"""The simple models on true and on shuffled outcomes, and their target for survival against lifelines."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, NelsonAalenFitter

from neurorad.explanation.probes import Probe, nelson_aalen, shuffled


def probe_of(endpoint: str, features: np.ndarray, **columns) -> tuple[Probe, pd.DataFrame]:
    n, d = features.shape
    who = pd.DataFrame({"cohort": np.repeat(["a", "b"], n // 2), "scan": [f"s{i}" for i in range(n)]})
    embeddings = who.join(pd.DataFrame(features, columns=[f"e{i}" for i in range(d)]))
    return Probe(endpoint, who.assign(patient=who["scan"], **columns), np.zeros((n, d), np.float32)), embeddings


def test_the_true_labels_separate_and_the_shuffled_ones_do_not():
    random = np.random.default_rng(1)
    labels = np.tile([0, 1], 60)
    features = random.normal(5, 3, (120, 8))
    features[:, 2] += 6 * labels
    features[:, 5] = 7.0
    found = shuffled(*probe_of("idh1", features, label=labels), random)
    assert list(found) == ["simple_probe", "permuted_labels"]
    assert found["simple_probe"].shape == (8,) and int(np.abs(found["simple_probe"]).argmax()) == 2
    assert found["simple_probe"][5] == 0, "a constant feature has no weight"
    gaps = [np.ptp([(features @ weights)[labels == y].mean() for y in (0, 1)]) for weights in found.values()]
    assert gaps[0] > 5 * gaps[1]


def test_of_one_label_alone_there_is_no_model():
    random = np.random.default_rng(2)
    assert shuffled(*probe_of("idh1", random.normal(size=(20, 3)), label=np.ones(20)), random) == {}


def test_the_hazard_is_lifelines():
    random = np.random.default_rng(3)
    days, event = np.ceil(random.exponential(5, 60)), (random.random(60) < 0.6).astype(float)
    fitted = NelsonAalenFitter(nelson_aalen_smoothing=False).fit(days, event)
    assert nelson_aalen(days, event) == pytest.approx(fitted.cumulative_hazard_at_times(days).to_numpy())


def test_the_simple_model_of_survival_points_where_cox_regression_does():
    random = np.random.default_rng(4)
    features = random.normal(size=(200, 4))
    days = random.exponential(np.exp(-features @ [1.0, -0.5, 0, 0]))
    event = (random.random(200) < 0.8).astype(float)
    probe, embeddings = probe_of("os", features, label=event, days=days)
    true, permuted = shuffled(probe, embeddings, random).values()
    table = pd.DataFrame(features).assign(days=days, event=event, site=probe.patients["cohort"])
    cox = CoxPHFitter().fit(table, "days", "event", strata=["site"]).params_.to_numpy()
    assert np.corrcoef(true, cox)[0, 1] > 0.98
    assert np.linalg.norm(permuted) < 0.4 * np.linalg.norm(true)
