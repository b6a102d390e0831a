"""Linear models against scikit-learn, and what they learn is learned from the training rows alone."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from neurorad.evaluation.linear import balanced_weights, logistic, project, ridge


def matrix(n: int, d: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return 3 + random.normal(size=(n, d)) @ random.normal(size=(d, d)) * random.uniform(0.1, 50, d)


def labels(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < 0.3).astype(float)


@pytest.mark.parametrize(("n", "d", "k"), [(40, 12, 5), (12, 40, 5), (30, 30, 8), (200, 20, 19)])
def test_scores_are_the_principal_components_of_the_standardised_features(n, d, k):
    x, new = matrix(n, d), matrix(7, d, seed=1)
    scaler = StandardScaler().fit(x)
    pca = PCA(k, svd_solver="full").fit(scaler.transform(x))
    ours, whitened = project(x, k), project(x, k, whiten=True)
    expected = pca.transform(scaler.transform(new))
    sign = np.sign((ours(new) * expected).sum(axis=0))
    np.testing.assert_allclose(ours(new) * sign, expected / np.sqrt(d), atol=1e-9)
    np.testing.assert_allclose(whitened(x).std(axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(whitened(x).T @ whitened(x) / n, np.eye(k), atol=1e-8)


@pytest.mark.parametrize(("n", "d", "k"), [(40, 2, None), (40, 300, None), (40, 300, 10)])
def test_the_scores_have_a_total_variance_of_at_most_one(n, d, k):
    total = project(matrix(n, d), k)(matrix(n, d)).var(axis=0).sum()
    assert total <= 1 + 1e-9
    assert k is not None or total == pytest.approx(1)


def test_units_and_offsets_of_the_features_do_not_matter():
    x, new = matrix(30, 8), matrix(5, 8, seed=2)
    scale, offset = np.random.default_rng(3).uniform(0.01, 100, (2, 8))
    first = project(x, 3)(new)
    second = project(x * scale + offset, 3)(new * scale + offset)
    np.testing.assert_allclose(second * np.sign((first * second).sum(0)), first, atol=1e-9)


def test_constant_features_weigh_nothing_even_when_float32_makes_them_tremble():
    x = matrix(30, 4)
    x[:, 1] = 7.0
    x[:, 3] = np.float32(1000) + np.float32(1e-5) * np.random.default_rng(0).normal(size=30)
    projection = project(x)
    assert np.all(projection.matrix[[1, 3]] == 0)
    assert np.all(np.abs(projection.matrix[[0, 2]]).sum(axis=1) > 0)


def test_a_constant_embedding_has_no_component():
    projection = project(np.full((20, 5), 2.0), 3)
    assert projection(np.ones((4, 5))).shape == (4, 0)


def test_a_model_on_scores_folds_into_one_linear_layer_on_raw_features():
    x, new = matrix(30, 9), matrix(6, 9, seed=4)
    projection = project(x, 4)
    coefficients = np.array([1.0, -2.0, 0.5, 3.0])
    weights, intercept = projection.fold(coefficients, 0.7)
    np.testing.assert_allclose(new @ weights + intercept, projection(new) @ coefficients + 0.7, atol=1e-9)


def test_balanced_weights_are_those_of_scikit_learn():
    y = labels(50)
    np.testing.assert_allclose(balanced_weights(y), compute_sample_weight("balanced", y))
    assert balanced_weights(y)[y == 1].sum() == pytest.approx(balanced_weights(y)[y == 0].sum())


@pytest.mark.parametrize("strength", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(strength, weighted):
    z, y = project(matrix(80, 6))(matrix(80, 6)), labels(80)
    weights = np.random.default_rng(1).uniform(0.1, 4, 80) if weighted else np.ones(80)
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(z, y, sample_weight=weights)
    coefficients, intercepts = logistic(z, y, weights, np.array([strength]))
    np.testing.assert_allclose(coefficients[0], model.coef_[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(intercepts, model.intercept_, rtol=1e-5, atol=1e-7)


def test_several_regressions_at_once_are_the_same_as_one_by_one():
    z = project(matrix(60, 5))(matrix(60, 5))
    y = np.stack([labels(60, seed) for seed in range(4)])
    weights = np.stack([balanced_weights(row) for row in y])
    strengths = np.array([0.1, 1.0, 10.0, 1000.0])
    together = logistic(z, y, weights, strengths)
    for i in range(4):
        alone = logistic(z, y[i], weights[i], strengths[[i]])
        np.testing.assert_allclose(together[0][i], alone[0][0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(together[1][i], alone[1][0], rtol=1e-5, atol=1e-7)


def test_separable_classes_stay_finite_and_agree_with_scikit_learn():
    z = np.linspace(-1, 1, 40)[:, None]
    y = (z[:, 0] > 0).astype(float)
    model = LogisticRegression(C=1000.0, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(z, y)
    coefficients, _ = logistic(z, y, np.ones(40), np.array([1000.0]))
    assert coefficients[0, 0] == pytest.approx(model.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 1000.0])
def test_ridge_is_that_of_scikit_learn(penalty):
    z, target = matrix(50, 6), np.random.default_rng(5).normal(20, 10, 50)
    model = Ridge(alpha=penalty).fit(z, target)
    coefficients, intercepts = ridge(z, target, np.array([penalty, 5.0]))
    np.testing.assert_allclose(coefficients[0], model.coef_, rtol=1e-6, atol=1e-9)
    assert intercepts[0] == pytest.approx(model.intercept_)
    assert not np.allclose(coefficients[0], coefficients[1], rtol=1e-3)
