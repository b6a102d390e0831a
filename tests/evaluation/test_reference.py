"""Utility and conformal sets against the packages made for them (`pip install .[reference]`); skipped without them."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from neurorad.evaluation.calibration import THRESHOLDS, net_benefit
from neurorad.evaluation.conformal import class_p_values


@pytest.mark.parametrize("seed", range(3))
def test_net_benefit_is_that_of_dcurves(seed):
    dcurves = pytest.importorskip("dcurves")
    random = np.random.default_rng(seed)
    truth = (random.random(150) < 0.3).astype(float)
    probability = expit(random.normal(truth - 1, 1))
    theirs = dcurves.dca(
        data=pd.DataFrame({"y": truth, "p": probability}), outcome="y", modelnames=["p"], thresholds=THRESHOLDS
    )
    for model, p in (("p", probability), ("all", np.ones(150)), ("none", np.zeros(150))):
        expected = theirs[theirs["model"] == model].sort_values("threshold")["net_benefit"]
        np.testing.assert_allclose([float(net_benefit(truth, p, t)) for t in THRESHOLDS], expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_class_p_values_are_those_of_crepes(seed):
    crepes = pytest.importorskip("crepes")
    random = np.random.default_rng(seed)
    y = (random.random(90) < 0.25).astype(int)
    calibration, new = np.round(random.normal(y, 1), 1), np.round(random.normal(0.3, 1, 40), 1)
    theirs = crepes.ConformalClassifier().fit(np.where(y == 1, -calibration, calibration), bins=y)
    ours = class_p_values(calibration, y, new)
    for label, strange in ((0, new), (1, -new)):
        p = theirs.predict_p(strange[:, None], bins=np.full(40, label), smoothing=False)
        np.testing.assert_allclose(ours[label], p[:, 0], atol=1e-12)


def test_every_estimator_of_the_agreement_table_agrees():
    """`benchmarks/reference_agreement.md` is printed by the same code."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "reference_agreement.py"
    spec = importlib.util.spec_from_file_location("reference_agreement", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.agreement(2)
    assert len(table) >= 17
    # Iterated fits agree to their tolerance, everything else to rounding.
    fitted = table["estimator"].str.contains("regression|Cox|calibration|path")
    assert (table.loc[~fitted, "difference"] < 1e-9).all(), table
    assert (table.loc[fitted, "difference"] < 1e-4).all(), table
