"""ComBat on planted sites: shifts and scales go, biology stays, and nothing of a tested patient is used."""

import numpy as np
import pytest

from neurorad.evaluation.combat import fit_combat


def planted(seed: int, n: int = 120, d: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with one common signal, and sites that shift and stretch them."""
    random = np.random.default_rng(seed)
    site = np.array(["a", "b", "c"])[np.arange(n) % 3]
    signal = random.normal(size=n)
    clean = random.normal(size=(n, d)) + signal[:, None]
    shift = {name: random.normal(0, 2, d) for name in "abc"}
    scale = {"a": 1.0, "b": 2.0, "c": 0.5}
    x = np.stack([clean[i] * scale[s] + shift[s] for i, s in enumerate(site)])
    return x, site, signal


def test_sites_have_equal_means_and_variances_afterwards():
    x, site, _ = planted(0)
    y = fit_combat(x, site)(x, site)
    for name in "abc":
        mine = y[site == name]
        assert np.abs(mine.mean(axis=0) - y.mean(axis=0)).max() < 0.15
        ratio = mine.std(axis=0) / x[site == name].std(axis=0)
        assert ratio.std() / ratio.mean() < 0.4
    spread = [y[site == name].std(axis=0).mean() for name in "abc"]
    assert (
        max(spread) / min(spread)
        < 1.1
        < max(x[site == n].std() for n in "abc") / min(x[site == n].std() for n in "abc")
    )


def test_biology_that_all_sites_share_stays():
    x, site, signal = planted(1)
    y = fit_combat(x, site)(x, site)
    before, after = (abs(np.corrcoef(z.mean(axis=1), signal)[0, 1]) for z in (x, y))
    assert after > 0.95 > before


def test_equal_sites_are_hardly_touched():
    random = np.random.default_rng(2)
    x, site = random.normal(size=(200, 30)), np.where(np.arange(200) % 2, "a", "b")
    moved = fit_combat(x, site)(x, site) - x
    raw = np.stack([x[site == name].mean(axis=0) for name in "ab"])
    # Shrinkage: less is removed than the raw difference of means would take.
    assert np.abs(moved).mean() < np.abs(raw).mean()


def test_a_tested_patient_changes_nothing_and_a_new_site_is_left_alone():
    x, site, _ = planted(3)
    taught = np.arange(120) < 90
    combat = fit_combat(x[taught], site[taught])
    poisoned = x.copy()
    poisoned[100] = 1e6
    first, second = combat(x, site), combat(poisoned, site)
    others = np.arange(120) != 100
    np.testing.assert_array_equal(first[others], second[others])
    np.testing.assert_allclose(combat(x[:3], np.full(3, "new")), x[:3])


@pytest.mark.parametrize("site", [np.full(20, "a"), np.array(["a"] * 19 + ["b"])])
def test_one_site_or_a_site_of_one_patient_is_left_alone(site):
    x = np.random.default_rng(4).normal(size=(20, 5))
    mine = site == site[-1]
    np.testing.assert_allclose(fit_combat(x, site)(x, site)[mine], x[mine])


def test_constant_and_collapsed_features_stay_finite():
    x, site, _ = planted(5)
    x[:, 3] = 7.0
    y = fit_combat(x, site)(x, site)
    assert np.isfinite(y).all() and (y[:, 3] == 7).all()
    flat = np.full((30, 4), -2.5)
    np.testing.assert_allclose(fit_combat(flat, site[:30])(flat, site[:30]), flat)
