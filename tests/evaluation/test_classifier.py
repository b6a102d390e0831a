"""Classifier and regressor against a nested cross-validation in scikit-learn; the threshold against all cuts."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    balanced_accuracy_score,
    log_loss,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from neurorad.evaluation.classifier import PENALTIES, STRENGTHS, fit_classifier, fit_regressor, youden_threshold
from neurorad.evaluation.folds import deal
from neurorad.evaluation.linear import balanced_weights
from tests.evaluation.planted import N, planted


def scikit_learn(x: np.ndarray, model: object) -> object:
    k, d = max(1, len(x) // 3), x.shape[1]
    shrink = FunctionTransformer(lambda z: z / np.sqrt(d))
    return make_pipeline(StandardScaler(), *([PCA(k, svd_solver="full")] if k < d else []), shrink, model)


def logistic_regression(x: np.ndarray, strength: float) -> object:
    return scikit_learn(
        x, LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=500)
    )


@pytest.mark.parametrize("d", [6, 60])
def test_the_classifier_is_the_nested_cross_validation_of_scikit_learn(d):
    y, x = planted(1, d=d)
    new, strata = planted(2, d=d)[1], y.astype(str)
    inner = deal(strata, 5, np.random.default_rng(7))
    held_out = np.empty((len(STRENGTHS), N))
    for fold in range(5):
        test = inner == fold
        for i, strength in enumerate(STRENGTHS):
            model = logistic_regression(x[~test], strength).fit(x[~test], y[~test])
            held_out[i, test] = model.decision_function(x[test])
    losses = [log_loss(y, 1 / (1 + np.exp(-row)), sample_weight=balanced_weights(y)) for row in held_out]
    best = int(np.argmin(losses))
    ours = fit_classifier(x, y, strata, np.random.default_rng(7))
    theirs = logistic_regression(x, STRENGTHS[best]).fit(x, y)
    np.testing.assert_allclose(ours(new), theirs.decision_function(new), rtol=1e-4, atol=1e-5)
    assert ours.scale == pytest.approx(held_out[best].std(), rel=1e-4)
    assert ours.prior == pytest.approx(np.log(y.mean() / (1 - y.mean())))


@pytest.mark.parametrize("d", [6, 60])
def test_the_regressor_is_the_nested_cross_validation_of_scikit_learn(d):
    _, x = planted(3, d=d)
    target = 20 + 5 * x[:, 1] + np.random.default_rng(0).normal(0, 5, N)
    strata, new = np.full(N, "a"), planted(4, d=d)[1]
    inner = deal(strata, 5, np.random.default_rng(7))
    errors = []
    for penalty in PENALTIES:
        squared = 0.0
        for fold in range(5):
            test = inner == fold
            model = scikit_learn(x[~test], Ridge(alpha=penalty)).fit(x[~test], target[~test])
            squared += ((model.predict(x[test]) - target[test]) ** 2).sum()
        errors.append(squared)
    theirs = scikit_learn(x, Ridge(alpha=PENALTIES[np.argmin(errors)])).fit(x, target)
    projection, coefficients, intercept = fit_regressor(x, target, strata, np.random.default_rng(7))
    np.testing.assert_allclose(projection(new) @ coefficients + intercept, theirs.predict(new), rtol=1e-6)


def test_the_threshold_has_the_best_youden_index_of_all_cuts():
    for seed in range(10):
        y, x = planted(seed, n=30)
        score = np.round(x[:, 0], 1)
        cut = youden_threshold(y, score)
        best = max(balanced_accuracy_score(y, score >= c) for c in [*np.unique(score), np.inf])
        assert balanced_accuracy_score(y, score >= cut) == pytest.approx(best)


def test_of_equally_good_thresholds_the_one_nearest_to_even_odds_is_taken():
    assert youden_threshold(np.array([0.0, 0, 1, 1]), np.array([-3.0, -2, 4, 5])) == 0
    assert youden_threshold(np.array([0.0, 0, 1, 1]), np.array([1.0, 2, 4, 5])) == 3
