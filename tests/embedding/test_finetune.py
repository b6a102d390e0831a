"""End to end training: nothing of a tested patient is seen in training, it stops on held-out patients, and goes on after a kill."""

import numpy as np
import pandas as pd
import pytest
import torch

from neurorad.embedding import finetune as module
from neurorad.embedding.finetune import COLUMNS, Recipe, Tuned, augmented, finetune, held_out
from neurorad.encoder import Architecture, initialised
from neurorad.endpoints import endpoints
from neurorad.evaluation.folds import Cell, check_labels, fold_table
from neurorad.evaluation.probe import CLASSIFICATION
from neurorad.evaluation.tuned import judge, out_of_fold
from neurorad.problems import InputError

N, SHAPE = 40, (8, 8, 8)
RECIPE = Recipe(epochs=25, patience=25, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    """Folds of 40 patients at two sites, idh1 as planted by `label`."""
    patients = pd.DataFrame({"cohort": ["a", "b"] * (N // 2), "patient": [f"p{i:02d}" for i in range(N)]})
    patients["idh1"] = [label(p) for p in patients["patient"]]
    analysis = patients[["cohort", "patient"]].assign(scan=patients["patient"])
    folds = fold_table(analysis, check_labels(patients, endpoints()), endpoints(), folds=2, repeats=2, seed=0)
    return folds[folds["endpoint"] == "idh1"]


def label(patient: str) -> float:
    return float(int(patient[1:]) // 2 % 2)


def voxels(cohort: str, patient: str) -> np.ndarray:
    """The label is a bright corner of t1c: easily learned, and invisible to the mean of an untrained layer's features."""
    random = np.random.default_rng(int(patient[1:]))
    made = random.normal(size=(4, *SHAPE)).astype(np.float32)
    made[1, :4, :4, :4] += 3 * label(patient)
    return made


def start():
    return initialised(Architecture("resnet10", 4, 2, False, "group"), 0)


def test_a_planted_sign_is_learned_from_scratch_and_judged_on_the_same_folds(drawn, tmp_path):
    folds = drawn[(drawn["protocol"] == "combined") & (drawn["repeat"] == 0)]
    scores = finetune(start(), folds, voxels, RECIPE, 0, torch.device("cpu"), tmp_path / "parts")
    assert list(scores) == list(COLUMNS) and not (tmp_path / "parts").exists()
    test = scores[scores["part"] == "test"]
    assert sorted(test["patient"]) == sorted(folds["patient"])
    rows, predictions = judge(scores, drawn, endpoints(), "scratch-tuned-s0", 0, 100)
    found = pd.DataFrame(rows).set_index("metric")
    assert found.loc["auc", "value"] > 0.9 and found.loc["auc", "n"] == N and found.loc["auc", "protocol"] == "combined"
    assert set(predictions["encoder"]) == {"scratch-tuned-s0"} and len(predictions) == N
    assert predictions["probability"].between(0, 1).all() and predictions["p_positive"].between(0, 1).all()
    again = finetune(start(), folds, voxels, RECIPE, 0, torch.device("cpu"), tmp_path / "parts")
    pd.testing.assert_frame_equal(scores, again)


def test_no_training_step_sees_a_tested_patient(drawn, tmp_path, monkeypatch):
    folds = drawn[(drawn["protocol"] == "leave_one_site_out") & (drawn["site"] == "a->b")]
    seen: dict[str, set] = {"now": set()}

    def load(cohort, patient):
        seen["now"].add((cohort, patient))
        return voxels(cohort, patient)

    train = module.train

    def watched(*arguments):
        seen["now"] = set()
        network = train(*arguments)
        seen["trained"] = set(seen["now"])
        return network

    monkeypatch.setattr(module, "train", watched)
    recipe = Recipe(epochs=2, patience=1, batch_size=8)
    scores = finetune(start(), folds, load, recipe, 0, torch.device("cpu"), tmp_path / "parts")
    assert {cohort for cohort, _ in seen["trained"]} == {"a"}
    tested = scores[scores["part"] == "test"]
    assert set(tested["cohort"]) == {"b"} and len(tested) == N // 2
    inner = scores[scores["part"] == "inner"]
    assert set(inner["cohort"]) == {"a"} and len(inner) == 4 and set(inner["label"]) == {0, 1}


def test_the_best_epoch_is_kept_and_patience_ends_it(drawn, monkeypatch):
    table = drawn[(drawn["protocol"] == "combined") & (drawn["repeat"] == 0)].reset_index(drop=True)
    y = table["label"].to_numpy(float)
    inner = np.arange(N) < 8
    epochs = []
    # Held-out logits that say 1, 2, then worse: epoch 2 is the best, and 3 more are waited for.
    quality = iter([1.0, 2.0, -1.0, -1.0, -1.0, 5.0])

    def logits(network, table, rows, load, batch, device):
        epochs.append({name: value.clone() for name, value in network.state_dict().items()})
        return (2 * y[rows] - 1) * next(quality)

    monkeypatch.setattr(module, "_logits", logits)
    recipe = Recipe(epochs=50, patience=3, batch_size=8)
    network = module.train(start(), table, y, ~inner, inner, voxels, recipe, 1, torch.device("cpu"))
    assert len(epochs) == 5
    assert all(torch.equal(network.state_dict()[name], value) for name, value in epochs[1].items())


def test_a_killed_job_goes_on_after_its_last_finished_fold(drawn, tmp_path, monkeypatch):
    folds = drawn[(drawn["protocol"] == "combined") & (drawn["repeat"] == 0)]
    recipe = Recipe(epochs=1, patience=1)
    whole = finetune(start(), folds, voxels, recipe, 0, torch.device("cpu"), tmp_path / "whole")
    fit, calls = module._fit, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(module, "_fit", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(start(), folds, voxels, recipe, 0, torch.device("cpu"), tmp_path / "parts")
    finished = finetune(start(), folds, voxels, recipe, 0, torch.device("cpu"), tmp_path / "parts")
    assert len(calls) == 3
    pd.testing.assert_frame_equal(finished, whole)


def test_held_out_patients_are_a_fifth_of_each_label_and_never_all_of_one():
    y = np.array([0.0] * 40 + [1.0] * 12 + [0.0, 1.0])
    site = np.array(["a", "b"] * 27)
    training = np.arange(54) < 52
    chosen = held_out(y, site, training, np.random.default_rng(0))
    assert (chosen & (y == 0)).sum() == 8 and (chosen & (y == 1)).sum() == 2 and not chosen[52:].any()
    assert {*site[chosen & (y == 0)]} == {"a", "b"}
    few = held_out(np.array([0.0, 0, 1, 1]), np.array(["a"] * 4), np.ones(4, bool), np.random.default_rng(0))
    assert few.sum() == 2


def test_with_one_patient_of_a_class_nothing_is_trained_and_the_table_says_not_estimable(drawn, tmp_path):
    folds = drawn[(drawn["protocol"] == "combined") & (drawn["repeat"] == 0)].copy()
    folds["label"] = (folds["patient"] == "p03").astype(float)
    scores = finetune(start(), folds, voxels, Recipe(epochs=1), 0, torch.device("cpu"), tmp_path / "parts")
    assert list(scores) == list(COLUMNS) and len(scores) == N
    assert set(scores["part"]) == {"untrained"} and scores["logit"].isna().all()
    rows, predictions = judge(scores, folds, endpoints(), "scratch-tuned-s0", 0, 100)
    assert predictions.empty and [row["metric"] for row in rows] == list(CLASSIFICATION)
    assert all(row["n"] == N and np.isnan(row["value"]) and "not estimable" in row["note"] for row in rows)


def test_scores_of_other_folds_are_refused(drawn, tmp_path):
    cell_rows = drawn[(drawn["protocol"] == "combined") & (drawn["repeat"] == 0)]
    who = cell_rows[["cohort", "patient", "scan", "endpoint", "protocol", "site", "repeat", "fold"]]
    scores = who.assign(part="test", label=cell_rows["label"], logit=1.0)
    cell = Cell("idh1", "combined", "all", cell_rows)
    with pytest.raises(InputError, match="not those of these folds"):
        out_of_fold(cell, scores.iloc[1:], "scratch-tuned-s0")
    with pytest.raises(InputError, match="not those of these folds"):
        out_of_fold(cell, scores.assign(fold=1 - scores["fold"]), "scratch-tuned-s0")


def test_augmentation_mirrors_scales_and_leaves_the_background():
    volumes = torch.randn(64, 4, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    volumes[:, :, 0] = 0
    made = augmented(volumes, torch.Generator().manual_seed(1))
    flipped = (made[:, :, -1] == 0).flatten(1).all(dim=1)
    assert 16 < int(flipped.sum()) < 48
    kept = made[~flipped], volumes[~flipped]
    assert (kept[0][kept[1] == 0] == 0).all()
    assert (made - torch.where(flipped.view(-1, 1, 1, 1, 1), volumes.flip(2), volumes)).abs().max() < 0.1 * 5 + 0.1


def test_the_start_is_not_changed():
    encoder = start()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    table = pd.DataFrame({"cohort": "a", "scan": [f"p{i:02d}" for i in range(12)]})
    y = np.array([0.0, 1.0] * 6)
    inner = np.arange(12) < 4
    recipe = Recipe(epochs=1, learning_rate=0.1)
    network = module.train(encoder, table, y, ~inner, inner, voxels, recipe, 0, torch.device("cpu"))
    assert isinstance(network, Tuned)
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())
    assert not torch.equal(network.encoder.state_dict()["network.conv1.weight"], before["network.conv1.weight"])
