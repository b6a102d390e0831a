"""The saved layers are the very models whose out-of-fold outputs stand in the predictions."""

import numpy as np
import pytest

from neurorad.evaluation.layers import EVERYBODY
from neurorad.evaluation.probe import probe
from neurorad.evaluation.survival import survival

N, D = 90, 8


def outputs(coefficients, folds, endpoint, x, everybody):
    """`[n]`: for each patient the mean output of the models that were not trained on it, by the table alone."""
    drawn = folds[(folds["endpoint"] == endpoint) & (folds["protocol"] == "combined")]
    who = [f"{row.cohort}/{row.patient}" for row in everybody.itertuples()]
    found = np.zeros((drawn["repeat"].nunique(), N))
    for row in drawn.itertuples():
        (model,) = coefficients[(coefficients["repeat"] == row.repeat) & (coefficients["fold"] == row.fold)].to_dict(
            "records"
        )
        i = who.index(f"{row.cohort}/{row.patient}")
        output = x[i] @ np.array([model[f"e{j}"] for j in range(D)]) + model["intercept"]
        found[row.repeat, i] = np.clip(output, model["lowest"], model["highest"])
    return found.mean(axis=0)


def test_a_probes_score_is_the_output_of_the_layers_that_never_saw_the_patient(study, known):
    random = np.random.default_rng(3)
    y = (random.random(N) < 0.4).astype(float)
    x = random.normal(size=(N, D)) + y[:, None]
    whole = study(mgmt=y)
    folds = whole.folds(repeats=2)
    _, predictions, coefficients = probe(whole.embeddings(x), folds, known, replicates=20)
    assert len(coefficients) == 2 * 5 + 1 and (coefficients["repeat"] == EVERYBODY).sum() == 1
    told = predictions[predictions["protocol"] == "combined"].set_index("scan").loc[whole.analysis["scan"], "score"]
    assert outputs(coefficients, folds, "mgmt", x, whole.analysis) == pytest.approx(told.to_numpy(), abs=1e-9)


def test_a_risk_is_the_output_of_the_layers_that_never_saw_the_patient(glioblastomas, known):
    random = np.random.default_rng(4)
    hazard = random.normal(size=N)
    x = random.normal(size=(N, D)) + hazard[:, None]
    whole = glioblastomas(hazard)
    folds = whole.folds(repeats=2)
    _, predictions, _, coefficients = survival(whole.embeddings(x), folds, whole.patients, known, 0, 20)
    assert len(coefficients) == 2 * 5 + 1
    told = predictions[predictions["protocol"] == "combined"].set_index("scan").loc[whole.analysis["scan"], "risk"]
    assert outputs(coefficients, folds, "os", x, whole.analysis) == pytest.approx(told.to_numpy(), abs=1e-9)
