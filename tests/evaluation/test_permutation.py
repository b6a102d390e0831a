"""The permutation test against explicit refits, and its size and power."""

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from neurorad.evaluation.folds import deal
from neurorad.evaluation.permutation import PENALTY, held_out_map, permutation_test, permuted


def study(seed: int, effect: float, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Prevalence and features differ between two sites; only `effect` ties the label to the image."""
    random = np.random.default_rng(seed)
    site = np.repeat(["a", "b"], n // 2)
    y = (random.random(n) < np.where(site == "a", 0.7, 0.3)).astype(float)
    x = random.normal(size=(n, 5)) + 3.0 * (site == "a")[:, None] * np.array([1, 0, 0, 0, 0])
    x[:, 1] += effect * y
    strata = np.char.add(y.astype(str), site)
    return x, y, deal(strata, 5, random), site


def test_scores_are_those_of_ridge_regressions_fitted_without_the_fold():
    x, y, fold_of, _ = study(0, 1.0)
    scores = held_out_map(x, fold_of) @ y
    for fold in range(5):
        test = fold_of == fold
        mean, sd = x[~test].mean(0), x[~test].std(0)
        z = (x - mean) / sd / np.sqrt(5)
        model = Ridge(alpha=PENALTY).fit(z[~test], y[~test])
        expected = model.predict(z[test]) - y[~test].mean()
        np.testing.assert_allclose(scores[test], expected, atol=1e-9)


def test_labels_move_within_blocks_only():
    blocks = np.array(["a", "a", "b", "b", "b"])
    shuffled = permuted(np.array([1.0, 0, 1, 1, 0]), blocks, 200, np.random.default_rng(0))
    assert (shuffled[:, :2].sum(1) == 1).all() and (shuffled[:, 2:].sum(1) == 2).all()
    assert 0.35 < shuffled[:, 0].mean() < 0.65


def test_sites_of_different_prevalence_are_no_finding_and_a_planted_effect_is():
    found = {effect: [] for effect in (0.0, 1.5)}
    for effect, p_values in found.items():
        for seed in range(60):
            x, y, fold_of, site = study(seed, effect)
            area, p, (low, high) = permutation_test(x, y, fold_of, site, 200, np.random.default_rng(seed))
            scores = held_out_map(x, fold_of) @ y
            assert abs(area - roc_auc_score(y, scores)) < 1e-9 and low < high
            p_values.append(p)
    assert np.mean(np.array(found[0.0]) < 0.05) <= 0.12
    assert 0.3 < np.mean(found[0.0]) < 0.7
    assert np.mean(np.array(found[1.5]) < 0.05) > 0.8
