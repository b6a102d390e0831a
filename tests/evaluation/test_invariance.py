"""Site invariance against scikit-learn and counting by hand; a collapsed encoder must not pass for an invariant one."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.invariance import (
    METRICS,
    PERMUTATIONS,
    STRENGTH,
    collapse_numbers,
    coordinates,
    invariance,
    mean_discrepancy,
    mean_recall,
    robustness_index,
    same_site_excess,
    site_probe,
    site_scores,
)
from neurorad.evaluation.metrics import bootstrap_counts
from neurorad.problems import InputError

SMALL = {"a": 10, "b": 8, "c": 6}


def features(seed: int, site: np.ndarray, shift: float = 0.0, d: int = 15) -> np.ndarray:
    """Noise, and a shift of each site along its own feature."""
    x = np.random.default_rng(seed).normal(size=(len(site), d))
    for i, name in enumerate(np.unique(site)):
        x[site == name, i] += shift
    return x


def named(rows: list[dict]) -> dict[str, dict]:
    """The rows of everybody, by metric."""
    mine = [r for r in rows if (r["endpoint"], r["protocol"]) == ("site", "combined")]
    assert len({r["metric"] for r in mine}) == len(mine)
    return {r["metric"]: r for r in mine}


@pytest.fixture(scope="module")
def told(study):
    whole = study()
    x = features(0, whole.site, shift=2.0)
    return whole, x, *invariance(whole.embeddings(x), whole.folds(), whole.patients, 0, 200)


def test_silhouette_and_neighbours_are_those_of_scikit_learn(told):
    whole, x, rows, _ = told
    z = PCA(10, svd_solver="full").fit_transform(StandardScaler().fit_transform(x))
    mine = named(rows)
    assert mine["silhouette"]["value"] == pytest.approx(silhouette_score(z, whole.site), abs=1e-9)
    nearest = NearestNeighbors(n_neighbors=10).fit(z).kneighbors(return_distance=False)
    same = (whole.site[nearest] == whole.site[:, None]).mean()
    chance = np.mean([((whole.site == own).sum() - 1) / 89 for own in whole.site])
    assert mine["same_site_neighbour_excess"]["value"] == pytest.approx(same - chance)
    assert mine["silhouette"]["note"] == "PCA, k = 10 of 15 features"


def test_a_site_that_was_planted_is_recognised_beyond_its_null(told):
    _, _, rows, _ = told
    mine = named(rows)
    probe, null = mine["site_probe_balanced_accuracy"], mine["site_probe_null"]
    assert probe["note"] == "chance is 1 / 3"
    assert probe["ci_low"] <= probe["value"] <= probe["ci_high"]
    assert probe["value"] > null["ci_high"] and null["value"] == pytest.approx(1 / 3, abs=0.03)
    assert mine["site_probe_p"]["value"] == pytest.approx(1 / (1 + PERMUTATIONS))
    assert mine["same_site_neighbour_excess"]["ci_low"] > 0
    assert {r["n"] for r in mine.values()} == {90}


def test_the_site_probes_p_is_about_uniform_without_a_site_effect(study):
    p = []
    for seed in range(30):
        whole = study(SMALL)
        cell = whole.cell("site", "combined", folds=3, seed=seed)
        random = np.random.default_rng(seed)
        x = random.normal(size=(24, 5))
        p.append(site_probe(x, whole.site, cell.assignments(), np.ones((20, 24)), random)[0].p)
    assert 0.33 < np.mean(p) < 0.67
    assert np.mean(np.array(p) < 0.1) < 0.3 and np.mean(np.array(p) > 0.5) > 0.25
    assert min(p) >= 1 / (1 + PERMUTATIONS) and max(p) <= 1


def test_site_scores_are_one_against_rest_regressions_of_scikit_learn(study):
    whole = study(SMALL)
    x, fold_of = features(1, whole.site, 0.5, d=5), whole.cell("site", "combined", folds=3).assignments()
    labels = np.stack([(whole.site == name).astype(float) for name in SMALL])
    expected = np.empty((3, 24))
    for fold in range(3):
        test = fold_of[0] == fold
        scaler = StandardScaler().fit(x[~test])
        z, new = (scaler.transform(part) / np.sqrt(5) for part in (x[~test], x[test]))
        for i, y in enumerate(labels):
            model = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="newton-cholesky", tol=1e-10)
            expected[i, test] = model.fit(z, y[~test]).decision_function(new)
    np.testing.assert_allclose(site_scores(x, labels, fold_of), expected, rtol=1e-4, atol=1e-5)


def test_the_features_of_a_held_out_patient_change_no_other_site_score_of_its_fold(study):
    whole = study(SMALL)
    x, fold_of = features(2, whole.site, d=5), whole.cell("site", "combined", folds=3).assignments()
    labels = np.stack([(whole.site == name).astype(float) for name in SMALL])
    poisoned = x.copy()
    poisoned[11] = 1e5
    before, after = site_scores(x, labels, fold_of), site_scores(poisoned, labels, fold_of)
    same = fold_of[0] == fold_of[0, 11]
    others = same & (np.arange(24) != 11)
    assert np.array_equal(before[:, others], after[:, others])
    assert (before[:, ~same] != after[:, ~same]).any()


def test_mean_recall_is_the_balanced_accuracy_of_scikit_learn():
    random = np.random.default_rng(0)
    truth, guess = random.integers(0, 4, 60), random.integers(0, 4, 60)
    assert float(mean_recall(truth, guess)) == pytest.approx(balanced_accuracy_score(truth, guess))
    for row in bootstrap_counts(60, 5, random):
        expected = balanced_accuracy_score(truth, guess, sample_weight=row)
        assert float(mean_recall(truth, guess, row)) == pytest.approx(expected)


def test_neighbours_are_counted_by_hand_on_a_line():
    z, site = np.array([[0.0], [1.0], [2.1], [10.0], [11.0]]), np.array(["a", "a", "b", "b", "b"])
    np.testing.assert_allclose(same_site_excess(z, site, 1), [1 - 0.25, 1 - 0.25, 0 - 0.5, 1 - 0.5, 1 - 0.5])


def test_effective_rank_of_equal_directions_is_their_number_and_of_a_line_one():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 7)) - 0)[0]
    q -= q.mean(axis=0)
    q = np.linalg.svd(q, full_matrices=False)[0]
    assert collapse_numbers(q)["effective_rank"] == pytest.approx(7)
    line = np.outer(np.arange(30.0), [1, -2, 0.5])
    assert collapse_numbers(line)["effective_rank"] == pytest.approx(1)
    unequal = q[:, :2] * [3, 1]
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert collapse_numbers(unequal)["effective_rank"] == pytest.approx(np.exp(entropy))


def test_spread_is_in_the_embeddings_own_unit_and_relative_to_its_length():
    x = np.array([[3.0, 0.0], [5.0, 0.0]])
    found = collapse_numbers(x)
    assert found["mean_std"] == pytest.approx(0.5)
    assert found["relative_std"] == pytest.approx(np.sqrt(1 / 17))
    wide = np.random.default_rng(0).normal(size=(5000, 3))
    assert collapse_numbers(wide)["relative_std"] == pytest.approx(1, abs=0.01)
    assert collapse_numbers(np.zeros((10, 3))) == {"effective_rank": 1.0, "mean_std": 0.0, "relative_std": 0.0}


def test_a_collapsed_encoder_is_called_constant_and_not_invariant(study):
    whole = study()
    rows, places = invariance(whole.embeddings(np.full((90, 6), 0.1)), whole.folds(), whole.patients, 0, 20)
    mine = named(rows)
    assert mine["effective_rank"]["value"] == pytest.approx(1)
    assert mine["relative_std"]["value"] == pytest.approx(0, abs=1e-7)
    for metric in METRICS:
        assert np.isnan(mine[metric]["value"])
        assert mine[metric]["note"] == "not estimable: the embedding is constant"
    assert places[["x", "y"]].isna().all(axis=None)
    assert set(places["note"]) == {"not estimable: fewer than 2 features vary"}


@pytest.mark.parametrize(
    ("sites", "reason"),
    [({"a": 20}, "not estimable: 1 site"), ({"a": 20, "b": 4}, "not estimable: a site has 4 patients (needs 5)")],
)
def test_too_few_sites_or_patients_say_so(study, sites, reason):
    whole = study(sites)
    mine = named(invariance(whole.embeddings(features(0, whole.site)), whole.folds(), whole.patients, 0, 20)[0])
    assert {mine[metric]["note"] for metric in METRICS} == {reason}
    assert all(np.isnan(mine[metric]["value"]) for metric in METRICS)
    assert mine["effective_rank"]["value"] > 5


def test_the_clinical_baseline_counts_only_whom_it_knows(study):
    whole = study()
    table = whole.table(features(0, whole.site)[:, :2], "clinical").drop(index=range(10))
    rows, places = invariance(Embeddings([table], "clinical"), whole.folds(), whole.patients, 0, 20)
    assert len(places) == 80 and {r["n"] for r in named(rows).values()} == {80}
    assert all("10 patients without clinical data left out" in r["note"] for r in rows)


def test_folds_without_the_site_endpoint_are_refused(study):
    whole = study(mgmt=np.arange(90) % 2)
    folds = whole.folds()
    with pytest.raises(InputError, match="no rows of endpoint 'site'"):
        invariance(whole.embeddings(features(0, whole.site)), folds[folds["endpoint"] != "site"], whole.patients, 0, 20)


def test_coordinates_hold_everybody_once_and_keep_the_planted_sites_apart(study):
    whole = study()
    x = features(3, whole.site, shift=8.0)
    rows, places = invariance(whole.embeddings(x), whole.folds(repeats=2), whole.patients, 0, 20)
    pd.testing.assert_frame_equal(places[["cohort", "patient", "scan"]], whole.analysis)
    assert silhouette_score(places[["x", "y"]], places["cohort"]) > 0.35
    assert set(places["note"]) == {f"perplexity {89 / 3:.1f}"}
    assert named(rows)["site_probe_balanced_accuracy"]["value"] > 0.95


def test_the_same_seed_draws_the_same_picture_and_four_patients_none():
    z = np.random.default_rng(0).normal(size=(20, 4))
    assert np.array_equal(coordinates(z, 5)[0], coordinates(z, 5)[0])
    place, note = coordinates(z[:4], 5)
    assert np.isnan(place).all() and note == "not estimable: 4 patients"


def test_discrepancy_is_that_of_its_formula_and_zero_on_average_without_a_site_effect():
    random = np.random.default_rng(0)
    z, site = random.normal(size=(24, 3)), np.repeat(["a", "b"], [10, 14])
    squared = ((z[:, None] - z[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(24, 1)]))
    a, b = site == "a", site == "b"

    def within(mine):
        part = kernel[np.ix_(mine, mine)]
        return (part.sum() - np.trace(part)) / (mine.sum() * (mine.sum() - 1))

    expected = within(a) + within(b) - 2 * kernel[np.ix_(a, b)].mean()
    found, null = mean_discrepancy(z, site, random)
    assert found == pytest.approx(expected)
    assert abs(null.mean()) < 0.01 and len(null) == PERMUTATIONS
    apart, null = mean_discrepancy(z + 2.0 * b[:, None], site, random)
    assert apart > null.max() and apart > 0.3


def test_the_robustness_index_is_one_for_biology_and_zero_for_site():
    random = np.random.default_rng(1)
    site, label = np.repeat([0, 1], 40), np.tile([0.0, 1.0], 40)
    noise = random.normal(0, 0.1, (80, 2))
    for which, expected in ((label, 1.0), (site, 0.0)):
        z = noise + 10.0 * np.stack([which, which], axis=1)
        good, bad = robustness_index(z, site, label, 10)
        assert good.sum() / (good.sum() + bad.sum()) == pytest.approx(expected)
    good, bad = robustness_index(noise, site, label, 10)
    assert good.sum() / (good.sum() + bad.sum()) == pytest.approx(0.5, abs=0.1)


def test_sites_that_differ_in_diagnosis_alone_are_alike_within_one_diagnosis(study):
    mutant = np.r_[np.arange(60) % 4 < 3, np.arange(60) % 4 == 3].astype(float)
    whole = study({"a": 60, "b": 60}, idh1=mutant, diagnosis=np.where(mutant, "Astrocytoma", "Glioblastoma"))
    x = np.random.default_rng(2).normal(size=(120, 12)) + 3 * mutant[:, None]
    rows, _ = invariance(whole.embeddings(x), whole.folds(), whole.patients, 0, 50)
    told = {(r["protocol"], r["metric"]): r for r in rows if r["endpoint"] == "site"}
    assert told["combined", "site_probe_p"]["value"] < 0.01 and told["combined", "mmd_p"]["value"] < 0.01
    assert told["glioblastoma", "site_probe_p"]["value"] > 0.05
    assert told["glioblastoma", "site_probe_balanced_accuracy"]["n"] == int((mutant == 0).sum())
    assert told["combined", "robustness_index"]["value"] > 0.9
    assert "0 IDH-mutant and 60 wildtype" in told["glioblastoma", "robustness_index"]["note"]


def test_vendor_and_field_strength_are_audited_where_the_table_has_them(study):
    vendor = np.where(np.arange(90) % 2, "GE", "SIEMENS")
    whole = study(vendor=vendor, field_strength=np.where(np.arange(90) < 88, 3.0, 1.5))
    x = features(5, whole.site)
    x[vendor == "GE", 3] += 4.0
    rows, _ = invariance(whole.embeddings(x), whole.folds(), whole.patients, 0, 50)
    told = {(r["endpoint"], r["metric"]): r for r in rows if r["protocol"] == "combined"}
    assert told["vendor", "site_probe_balanced_accuracy"]["value"] > 0.85
    assert told["site", "site_probe_balanced_accuracy"]["value"] < 0.6
    assert told["field_strength", "silhouette"]["note"] == "not estimable: a field strength has 2 patients (needs 5)"


def test_combat_takes_the_planted_shift_of_the_sites_away(told):
    _, _, rows, _ = told
    probe = {
        r["protocol"]: r["value"]
        for r in rows
        if r["metric"] == "site_probe_balanced_accuracy" and r["endpoint"] == "site"
    }
    mmd = {r["protocol"]: r["value"] for r in rows if r["metric"] == "mmd"}
    assert probe["combined"] > 0.7 and probe["after_combat"] < 0.45
    assert mmd["after_combat"] < 0.1 * mmd["combined"]
