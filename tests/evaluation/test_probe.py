"""Probes: nothing of a tested patient reaches its own model, and every number follows from the predictions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import logit
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    mean_absolute_error,
    recall_score,
    roc_auc_score,
)

from neurorad.evaluation.classifier import fit_classifier
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import TRAINED_ONLY
from neurorad.evaluation.layers import EVERYBODY
from neurorad.evaluation.probe import CLASSIFICATION, REGRESSION, cross_validate, probe
from neurorad.seeds import generator
from tests.evaluation.planted import N, planted

PROTOCOLS = [("combined", "all"), ("within_site", "east"), ("leave_one_site_out", "east+north->west")]


def found(rows: list[dict], metric: str, protocol: str = "combined", endpoint: str = "mgmt") -> dict:
    match = [r for r in rows if (r["metric"], r["protocol"], r["endpoint"]) == (metric, protocol, endpoint)]
    assert match
    return match[0]


@pytest.mark.parametrize(("protocol", "site"), PROTOCOLS)
def test_the_features_of_a_tested_patient_change_no_other_prediction_of_its_fold(study, known, protocol, site):
    y, x = planted(5)
    ki67 = np.where(y == 1, 20.0, 3.0) + np.arange(N) % 4
    cell = study(ki67=ki67).cell("ki67", protocol, site, repeats=2)
    rows = np.flatnonzero(np.isin(study().site, cell.patients["cohort"].unique()))
    before = cross_validate(cell, x[rows], known["ki67"], 0)
    tested = cell.patients["fold"].to_numpy() != TRAINED_ONLY
    for victim in np.flatnonzero(tested)[[0, 7, -1]]:
        poisoned = x[rows].copy()
        poisoned[victim] = 1e4 * (1 + np.arange(x.shape[1]))
        after = cross_validate(cell, poisoned, known["ki67"], 0)
        for repeat, fold_of in enumerate(cell.assignments()):
            same = (fold_of == fold_of[victim])[tested]
            own = (np.arange(len(rows)) == victim)[tested]
            for name in before:
                assert np.array_equal(before[name][repeat, same & ~own], after[name][repeat, same & ~own])
                # A conformal p-value may stay at its limit of 1 or 1 / (1 + n).
                assert name.startswith("p_") or before[name][repeat, own] != after[name][repeat, own]
            # The control: models that were trained on the patient do change.
            if protocol != "leave_one_site_out":
                assert (before["score"][repeat, ~same] != after["score"][repeat, ~same]).any()


@pytest.mark.parametrize(("protocol", "site"), PROTOCOLS)
def test_the_label_of_a_tested_patient_never_reaches_its_own_fold(study, known, protocol, site):
    y, x = planted(6)
    cell = study(mgmt=y).cell("mgmt", protocol, site)
    rows = np.flatnonzero(np.isin(study().site, cell.patients["cohort"].unique()))
    before = cross_validate(cell, x[rows], known["mgmt"], 0)
    tested = cell.patients["fold"].to_numpy() != TRAINED_ONLY
    victim = np.flatnonzero(tested)[3]
    table = cell.table.reset_index(drop=True)
    table.loc[victim, "label"] = 1 - table.loc[victim, "label"]
    after = cross_validate(replace(cell, table=table), x[rows], known["mgmt"], 0)
    fold_of = cell.assignments()[0][tested]
    same = fold_of == cell.assignments()[0][victim]
    for name in before:
        assert np.array_equal(before[name][0, same], after[name][0, same])
    if protocol != "leave_one_site_out":
        assert (before["score"][0, ~same] != after["score"][0, ~same]).any()


def test_a_site_never_seen_is_scored_by_the_other_sites_alone(study, known):
    y, x = planted(7)
    whole = study(mgmt=y)
    cell = whole.cell("mgmt", "leave_one_site_out", "east+north->west")
    tested = whole.site == "west"
    strata = np.char.add(np.char.add(y.astype(str), "/"), whole.site)
    random = generator(3, "probe", "mgmt", "leave_one_site_out", "east+north->west", 0, 0)
    model = fit_classifier(x[~tested], y[~tested], strata[~tested], random)
    scores = cross_validate(cell, x, known["mgmt"], 3)["score"][0]
    np.testing.assert_allclose(scores, model(x[tested]) / model.scale)


def test_every_number_of_a_row_follows_from_the_predictions(study, known):
    y, x = planted(8)
    ki67 = np.clip(6 + 8 * y + 3 * x[:, 1], 0, None)
    whole = study(ki67=ki67, mgmt=y)
    rows, predictions, _ = probe(whole.embeddings(x), whole.folds(repeats=2), known, replicates=50)
    keys = ["endpoint", "protocol", "site"]
    assert len(predictions.groupby(keys)) == 14
    for where, part in predictions.groupby(keys):
        all_of_it = [r for r in rows if tuple(r[k] for k in keys) == where]
        mine = {r["metric"]: r for r in all_of_it if r["metric"] not in ("auc_at_cutoff", "auc_permutation")}
        truth, margin, score = part["label"], part["margin"], part["score"]
        expected = {
            "auc": roc_auc_score(truth, score),
            "balanced_accuracy": balanced_accuracy_score(truth, margin >= 0),
            "balanced_accuracy_at_half": balanced_accuracy_score(truth, score >= 0),
            "sensitivity": recall_score(truth, margin >= 0),
            "specificity": recall_score(truth, margin >= 0, pos_label=0),
            "average_precision": average_precision_score(truth, score),
            "brier": brier_score_loss(truth, part["probability"]),
        }
        fitted = sm.GLM(truth, sm.add_constant(logit(part["probability"])), family=sm.families.Binomial()).fit()
        expected["calibration_slope"] = fitted.params.iloc[1]
        offset = sm.GLM(
            truth, np.ones(len(part)), family=sm.families.Binomial(), offset=logit(part["probability"])
        ).fit()
        expected["calibration_intercept"] = offset.params.iloc[0]
        if where[1] == "combined":
            won = [
                (p.score > q.score) + 0.5 * (p.score == q.score)
                for p in part[truth == 1].itertuples()
                for q in part[truth == 0].itertuples()
                if p.cohort == q.cohort
            ]
            expected["auc_same_site"] = np.mean(won)
        if where[0] == "ki67":
            value = part.merge(whole.patients, on=["cohort", "patient"])["ki67"]
            expected["spearman"] = spearmanr(value, part["predicted"]).statistic
            expected["mae"] = mean_absolute_error(value, part["predicted"])
            assert (truth == (value >= 10).to_numpy()).all()
            swept = {r["at"]: r for r in all_of_it if r["metric"] == "auc_at_cutoff"}
            assert list(swept) == [5, 10, 15, 20, 30]
            for at, r in swept.items():
                positive = value >= at
                assert r["n_positive"] == positive.sum()
                if min(positive.sum(), (~positive).sum()) >= 5:
                    assert r["value"] == pytest.approx(roc_auc_score(positive, part["predicted"]))
                else:
                    assert np.isnan(r["value"]) and "not estimable" in r["note"]
        else:
            assert part["predicted"].isna().all()
        assert {name: r["value"] for name, r in mine.items()} == pytest.approx(expected, abs=1e-9)
        for r in mine.values():
            assert r["ci_low"] <= r["value"] <= r["ci_high"], r
            assert (r["n"], r["n_positive"]) == (len(part), truth.sum())
        repeats = [name for name in part if name.startswith("score_r")]
        np.testing.assert_allclose(part[repeats].dropna(axis=1).mean(axis=1), score)


def test_a_planted_feature_is_found_about_as_well_as_it_could_be(study, known):
    y, x = planted(9, strength=2.0)
    whole = study(mgmt=y)
    rows, _, _ = probe(whole.embeddings(x), whole.folds(), known, replicates=20)
    own = roc_auc_score(y, x[:, 0])
    assert own > 0.88
    assert abs(found(rows, "auc")["value"] - own) < 0.07
    west = study().site == "west"
    last = next(r for r in rows if r["site"] == "east+north->west" and r["metric"] == "auc")
    assert abs(last["value"] - roc_auc_score(y[west], x[west, 0])) < 0.1


def test_random_embeddings_know_nothing_on_average(study, known):
    values = {"combined": [], "leave_one_site_out": []}
    for seed in range(16):
        y, x = planted(100 + seed, strength=0.0, d=10)
        whole = study(mgmt=y)
        for protocol, site in (PROTOCOLS[0], PROTOCOLS[2]):
            cell = whole.cell("mgmt", protocol, site)
            score = cross_validate(cell, x, known["mgmt"], 0)["score"][0]
            values[protocol].append(roc_auc_score(cell.tested["label"], score))
    for protocol, aucs in values.items():
        assert abs(np.mean(aucs) - 0.5) < 0.07, protocol
        assert np.std(aucs) > 0.02


def test_a_collapsed_encoder_has_an_auc_of_one_half_and_says_why(study, known):
    y, _ = planted(10)
    whole = study(mgmt=y)
    rows, predictions, _ = probe(whole.embeddings(np.full((N, 5), 3.25)), whole.folds(), known, replicates=20)
    for row in rows:
        if row["metric"] == "auc":
            assert row["value"] == 0.5
            assert np.isnan(row["ci_low"]) and "constant" in row["note"]
        if row["metric"].startswith("balanced_accuracy"):
            assert row["value"] == 0.5
    assert (predictions["score"] == 0).all()


@pytest.mark.parametrize(
    ("positives", "reason"),
    [(4, "not estimable: 4 positives of 40 (needs 5)"), (36, "not estimable: 4 negatives of 40 (needs 5)")],
)
def test_too_few_of_a_class_is_a_row_that_says_so_and_no_number(study, known, positives, reason):
    whole = study({"a": 40}, mgmt=(np.arange(40) < positives).astype(float), ki67=np.where(np.arange(40) < 4, 30, 1))
    _, x = planted(0, n=40)
    rows, predictions, coefficients = probe(whole.embeddings(x), whole.folds(), known, replicates=20)
    assert predictions.empty and coefficients.empty
    assert all(np.isnan(r["value"]) for r in rows)
    mine = [r for r in rows if r["endpoint"] == "mgmt" and r["protocol"] == "within_site"]
    assert [r["metric"] for r in mine] == list(CLASSIFICATION)
    assert {(r["note"], r["n"], r["n_positive"]) for r in mine} == {(reason, 40, positives)}
    both = [r["metric"] for r in rows if r["endpoint"] == "ki67" and r["protocol"] == "within_site"]
    assert both == [*CLASSIFICATION, *REGRESSION]


def test_a_site_cannot_be_learned_from_sites_without_carriers(study, known):
    y = np.r_[np.arange(20) < 3, np.arange(20) < 9].astype(float)
    whole = study({"a": 20, "b": 20}, mgmt=y)
    rows, _, _ = probe(whole.embeddings(planted(0, n=40)[1]), whole.folds(), known, replicates=20)
    notes = {r["site"]: r["note"] for r in rows if r["protocol"] == "leave_one_site_out"}
    assert notes["a->b"] == "not estimable: 3 positives of 20 in training (needs 5)"
    assert notes["b->a"] == "not estimable: 3 positives of 20 (needs 5)"


def test_one_carrier_at_each_site_can_be_estimated_together(study, known):
    sites = dict.fromkeys("abcde", 10)
    whole = study(sites, mgmt=np.tile(np.arange(10) == 4, 5).astype(float))
    rows, _, _ = probe(whole.embeddings(planted(0, n=50)[1]), whole.folds(), known, replicates=20)
    assert np.isfinite(found(rows, "auc")["value"])


def test_between_five_and_twenty_carriers_come_with_a_warning(study, known):
    for positives, text in ((19, "warning: only 19 positives"), (20, "")):
        whole = study({"a": 60}, mgmt=(np.arange(60) < positives).astype(float))
        rows, _, _ = probe(whole.embeddings(planted(0, n=60)[1]), whole.folds(), known, replicates=20)
        assert found(rows, "sensitivity", "within_site")["note"] == text


def test_the_clinical_baseline_counts_only_whom_it_knows(study, known):
    y, x = planted(11, d=2)
    whole = study(mgmt=y)
    table = whole.table(x, "clinical").drop(index=range(0, 30, 3))
    clinical = Embeddings([table], "clinical")
    rows, predictions, _ = probe(clinical, whole.folds(), known, replicates=20)
    row = found(rows, "auc")
    assert (row["n"], row["n_positive"]) == (80, y.sum() - y[0:30:3].sum())
    assert "10 patients without clinical data left out" in row["note"]
    assert len(predictions[predictions["protocol"] == "combined"]) == 80
    mine = predictions[predictions["protocol"] == "combined"]
    assert row["value"] == pytest.approx(roc_auc_score(mine["label"], mine["score"]))


def test_a_clinical_baseline_whose_gaps_empty_a_training_fold_says_so(study, known):
    whole = study({"a": 30}, mgmt=(np.arange(30) < 10).astype(float))
    folds = whole.folds(folds=2)
    mine = folds[(folds["endpoint"] == "mgmt") & (folds["protocol"] == "within_site")]
    carriers = mine[(mine["label"] == 1) & (mine["fold"] == 1)]["scan"]
    assert len(carriers) == 5
    table = whole.table(planted(0, n=30, d=2)[1], "clinical")
    table = table[~table["scan"].isin(carriers.iloc[:4])]
    rows, _, _ = probe(Embeddings([table], "clinical"), folds, known, replicates=20)
    row = found(rows, "auc", "within_site")
    assert np.isnan(row["value"]) and row["n_positive"] == 6
    assert row["note"].startswith("not estimable: a training fold has fewer than 2 positives or negatives")


def test_a_clinical_baseline_that_knows_nobody_is_not_estimable(study, known):
    y, x = planted(12, d=2)
    whole = study(mgmt=y)
    table = whole.table(x, "clinical").assign(scan="other")
    clinical = Embeddings([table.drop_duplicates(["cohort", "scan"])], "clinical")
    rows, predictions, _ = probe(clinical, whole.folds(), known, replicates=20)
    assert predictions.empty
    assert {r["n"] for r in rows} == {0} and all("not estimable" in r["note"] for r in rows)


def test_the_saved_layer_is_the_probe_of_everybody_on_raw_features(study, known):
    y, x = planted(13)
    whole = study(mgmt=y)
    _, _, coefficients = probe(whole.embeddings(x), whole.folds(), known, seed=4, replicates=20)
    coefficients = coefficients[coefficients["repeat"] == EVERYBODY].reset_index(drop=True)
    assert coefficients[["endpoint", "site"]].values.tolist() == [["mgmt", "all"]]
    layer = coefficients[[f"e{i}" for i in range(12)]].to_numpy(float)[0]
    strata = np.char.add(np.char.add(y.astype(str), "/"), whole.site)
    model = fit_classifier(x, y, strata, generator(4, "probe", "mgmt", "final"))
    np.testing.assert_allclose(x @ layer + coefficients["intercept"][0], model(x), atol=1e-10)
    assert np.argmax(layer) == 0


def test_two_encoders_are_tested_on_the_same_patients_in_the_same_folds(study, known):
    y, x = planted(14)
    whole = study(mgmt=y)
    folds = whole.folds(repeats=2)
    tables = [
        probe(whole.embeddings(features, name), folds, known, replicates=20)[1]
        for name, features in (("byol-base-s0", x), ("moco-dro-s1", planted(15)[1]))
    ]
    who = ["endpoint", "protocol", "site", "cohort", "patient", "scan", "label"]
    pd.testing.assert_frame_equal(tables[0][who], tables[1][who])
    assert not np.allclose(tables[0]["score"], tables[1]["score"])


def test_only_declared_endpoints_are_probed(study, known):
    y, x = planted(16)
    whole = study({"a": N}, mgmt=y, tert=1 - y, idh1=0, diagnosis="Glioblastoma", os_days=9, event=y)
    rows, _, _ = probe(whole.embeddings(x), whole.folds(), {"tert": known["tert"]}, replicates=20)
    assert {r["endpoint"] for r in rows} == {"tert"}


def test_what_an_image_adds_to_age_and_sex_is_told_on_the_patients_whose_age_is_known(study, known):
    random = np.random.default_rng(20)
    y = (random.random(N) < 0.4).astype(float)
    age = np.column_stack([60 - 10 * y + random.normal(0, 10, N), random.random(N) < 0.5])
    image = random.normal(size=(N, 8))
    image[:, 2] += 1.5 * y
    copy = np.column_stack([age[:, 0] + random.normal(0, 3, N), random.normal(size=(N, 4))])
    whole = study(mgmt=y)
    folds = whole.folds(repeats=2)
    gaps = whole.table(age, "clinical").drop(index=range(0, 30, 3))
    clinical = Embeddings([gaps], "clinical")
    told = {}
    for name, x in (("new", image), ("copy", copy)):
        rows, predictions, _ = probe(whole.embeddings(x), folds, known, 0, 50, clinical)
        mine = predictions[predictions["protocol"] == "combined"]
        assert mine["clinical"].isna().sum() == mine["with_clinical"].isna().sum() == 10
        kept = mine.dropna(subset=["clinical"])
        for metric, column in (("auc_clinical", "clinical"), ("auc_with_clinical", "with_clinical")):
            row = found(rows, metric)
            assert row["value"] == pytest.approx(roc_auc_score(kept["label"], kept[column]))
            assert row["n"] == 80 and "10 patients without age or sex left out" in row["note"]
        added = found(rows, "auc_added")
        assert added["value"] == pytest.approx(
            found(rows, "auc_with_clinical")["value"] - found(rows, "auc_clinical")["value"]
        )
        test = found(rows, "added_value_test")
        assert test["n"] == 80 and "labels drawn 50 times from age, sex and site" in test["note"]
        assert "p" not in added or np.isnan(added["p"])
        told[name] = added, test
    assert told["new"][0]["ci_low"] > 0 and told["new"][1]["p"] < 0.02
    assert told["copy"][1]["p"] > 0.05 and abs(told["copy"][0]["value"]) < 0.06


def test_the_robust_probe_does_better_for_the_group_that_the_majority_outvotes(study, known):
    """In the large sites feature 0 tells the class; in the small one it points the other way, and only feature 1 tells."""
    random = np.random.default_rng(3)
    sites = {"east": 120, "north": 100, "west": 24}
    n = sum(sites.values())
    y = (random.random(n) < 0.5).astype(float)
    small = np.arange(n) >= 220
    x = random.normal(size=(n, 3))
    x[:, 0] = x[:, 0] * 0.4 + np.where(small, -1.5, 1.5) * (2 * y - 1)
    x[:, 1] = x[:, 1] * 0.7 + 0.9 * (2 * y - 1)
    whole = study(sites, mgmt=y)
    rows, predictions, _ = probe(whole.embeddings(x), whole.folds(), known, 0, 50, robust=True)
    linear, robust = found(rows, "worst_group_accuracy"), found(rows, "robust_worst_group_accuracy")
    assert linear["value"] < 0.35 and robust["value"] > linear["value"] + 0.3
    assert found(rows, "robust_auc_difference")["value"] == pytest.approx(
        found(rows, "robust_auc")["value"] - found(rows, "auc")["value"]
    )
    west = predictions[(predictions["protocol"] == "combined") & (predictions["cohort"] == "west")]
    right = (west["margin"] >= 0) == (west["label"] == 1)
    assert linear["value"] == pytest.approx(right.groupby(west["label"]).mean().min())


def test_the_number_of_patients_of_every_row_is_that_of_the_folds(study, known):
    """Patients without a label are in no cell, a site of 3 is not estimable, and nobody else is lost."""
    random = np.random.default_rng(1)
    sites = {"a": 40, "b": 30, "c": 3}
    y = (random.random(73) < 0.5).astype(float)
    y[::7] = np.nan
    whole = study(sites, mgmt=y, tert=np.nan)
    rows, _, _ = probe(whole.embeddings(random.normal(size=(73, 90))), whole.folds(), known, replicates=20)
    expected = {site: int(np.isfinite(y[whole.site == site]).sum()) for site in sites}
    for r in rows:
        site = r["site"].split("->")[-1]
        assert r["n"] == (sum(expected.values()) if site == "all" else expected[site])
        if site == "c":
            assert np.isnan(r["value"]) and "not estimable" in r["note"]
    assert {r["endpoint"] for r in rows} == {"mgmt"}


def test_tied_features_and_labels_of_one_class_end_in_numbers_or_reasons(study, known):
    y, _ = planted(21)
    tied = np.column_stack([np.round(y), np.zeros(N), np.arange(N) % 2])
    whole = study(mgmt=y, idh1=1, ki67=10)
    rows, _, _ = probe(whole.embeddings(tied), whole.folds(), known, replicates=20)
    assert found(rows, "auc")["value"] == 1
    assert found(rows, "calibration_slope")["note"].startswith("not estimable")
    for endpoint in ("idh1", "ki67"):
        assert "not estimable: 0 negatives of 90" in found(rows, "auc", endpoint=endpoint)["note"]
