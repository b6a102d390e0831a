"""Training, stopping, resuming and the files of a run."""

import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from neurorad.cli import main
from neurorad.encoder import load_encoder
from neurorad.files import read_json, read_table, write_table
from neurorad.pretraining import engine, runs
from neurorad.pretraining.checkpoint import CHECKPOINT, LOCK, load_checkpoint
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.dro import DroSettings
from neurorad.pretraining.engine import train
from neurorad.pretraining.outputs import write_outputs
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Run
from neurorad.pretraining.scans import read_scans
from neurorad.problems import InputError

from .conftest import write_study, write_tiny_presets

CPU = make_fabric(torch.device("cpu"))
FILES = ["card.json", "encoder.safetensors", "groups.csv", "history.csv"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_run(presets, method="byol", objective="dro", seed=0) -> Run:
    reference = {f"group-{group}": 0.5 for group in range(7)} if objective == "excess" else None
    return Run(method, objective, seed, read_preset(presets, "tiny", method), reference)


def finish(run, scans, out, fabric=CPU, **options) -> list[str]:
    said = []
    progress = train(run, scans, out, fabric, say=said.append, **options)
    write_outputs(run, scans, progress, out)
    return said


def contents(out):
    """Every file but TensorBoard's, which hold clock times."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file() and path.name != LOCK}


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Send the process a signal in the middle of a step."""
    real = engine.take_step

    def take_step(run, scans, progress, *rest):
        if progress.step == step:
            os.kill(os.getpid(), number)
        return real(run, scans, progress, *rest)

    monkeypatch.setattr(engine, "take_step", take_step)


@pytest.mark.parametrize(
    ("method", "objective"),
    [(m, o) for m in ("byol", "dino", "mae", "moco") for o in ("base", "dro", "excess")] + [("mae", "worst")],
)
def test_stopped_and_resumed_equals_uninterrupted(method, objective, study, tiny_presets, tmp_path, monkeypatch):
    run, scans = make_run(tiny_presets, method, objective), read_scans(study)
    finish(run, scans, tmp_path / "whole")
    assert sorted(contents(tmp_path / "whole")) == FILES
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit) as stopped:
            finish(run, scans, tmp_path / "parts")
    assert stopped.value.code == 143
    assert list(contents(tmp_path / "parts")) == [CHECKPOINT, "groups.csv", "history.csv"]
    torch.manual_seed(12345)
    said = finish(run, scans, tmp_path / "parts")
    assert "resumed at step 3" in said
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def naive_group_weights(signal: np.ndarray, count: np.ndarray, dro: DroSettings, warmup: int, reference) -> np.ndarray:
    """`[T, G]` signals and counts -> weights, as docs/methods.md says it, with absent groups at their moving average."""
    groups = signal.shape[1]
    average, push, path = np.full(groups, np.nan), np.zeros(groups), []
    for step in range(len(signal)):
        for g in np.flatnonzero(count[step]):
            first, rate = np.isnan(average[g]), dro.smoothing
            average[g] = signal[step, g] if first else (1 - rate) * average[g] + rate * signal[step, g]
        for g in np.flatnonzero(~np.isnan(average)) if step >= warmup else ():
            if reference is None:
                push[g] += average[g]
            else:
                push[g] = max((1 - 1 / dro.memory) * push[g] + average[g] - reference[g], 0)
        # Without a reference a group never seen would keep its weight; there is none here.
        assert reference is not None or not np.isnan(average).any()
        q = np.exp(dro.eta * (push - push.max()))
        path.append((1 - dro.floor) * q / q.sum() + dro.floor / groups)
    return np.array(path)


@pytest.mark.parametrize(("method", "objective"), [("dino", "dro"), ("mae", "excess"), ("byol", "worst")])
def test_group_weights_of_a_run_follow_its_own_signals_and_are_used_in_the_same_step(
    method, objective, study, tmp_path
):
    """Warm-up, reference, signal (DINO's is not its loss) and order, from the tables that the run wrote."""
    presets = write_tiny_presets(tmp_path / "p.yaml", steps=9, batch_size=7)
    run = make_run(presets, method, objective)
    dro = replace(run.preset.dro, eta=0.5, warmup=0.3, memory=4.0)
    reference = {f"group-{g}": 0.4 + 0.1 * g for g in range(7)} if objective == "excess" else None
    run = replace(run, preset=replace(run.preset, dro=dro), reference=reference)
    finish(run, read_scans(study), tmp_path)
    table = read_table(tmp_path / "groups.csv", text=("group",))
    loss, compared, count, weight = (
        table.pivot(index="step", columns="group", values=key).to_numpy()
        for key in ("loss", "signal", "count", "weight")
    )
    if objective == "worst":
        expected = np.eye(7)[np.where(count > 0, loss, -np.inf).argmax(axis=1)]
    else:
        known = None if reference is None else np.array(list(reference.values()))
        expected = naive_group_weights(compared, count, dro, 3, known)
        assert np.ptp(expected[:3]) == pytest.approx(0)
        assert np.ptp(expected[-1]) > 1e-3
    np.testing.assert_allclose(weight, expected, atol=1e-9)
    history = read_table(tmp_path / "history.csv")
    np.testing.assert_allclose(history["objective"], np.nansum(weight * loss, axis=1), rtol=1e-6)
    assert (objective == "dro") == (np.abs(compared - loss).max() > 1e-3)


def test_sigusr1_stops_too_and_handlers_are_put_back(study, tiny_presets, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    stop_at(monkeypatch, 1, signal.SIGUSR1)
    with pytest.raises(SystemExit) as stopped:
        finish(make_run(tiny_presets), read_scans(study), tmp_path)
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_truncated_checkpoint_starts_over(study, tiny_presets, tmp_path, monkeypatch):
    run, scans = make_run(tiny_presets), read_scans(study)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(run, scans, tmp_path / "cut")
    checkpoint = tmp_path / "cut" / CHECKPOINT
    for size in (checkpoint.stat().st_size // 2, 0):
        checkpoint.write_bytes(checkpoint.read_bytes()[:size])
        said = []
        train(run, scans, tmp_path / "cut", CPU, say=said.append)
        assert any("unreadable checkpoint" in text and "starting at step 0" in text for text in said)
    finish(run, scans, tmp_path / "whole")
    finish(run, scans, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_checkpoint_of_another_run_is_left_aside(study, tiny_presets, tmp_path, monkeypatch):
    scans = read_scans(study)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(make_run(tiny_presets), scans, tmp_path)
    said = finish(make_run(tiny_presets, objective="base", seed=1), scans, tmp_path)
    assert any("another run (differs in objective, seed)" in text for text in said)


def test_a_checkpoint_of_another_preset_is_left_aside(study, tiny_presets, tmp_path, monkeypatch):
    scans = read_scans(study)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(make_run(tiny_presets), scans, tmp_path)
    (tmp_path / "other").mkdir()
    other = make_run(write_tiny_presets(tmp_path / "other" / "presets.yaml", weight_decay=0.1))
    assert any("another run (differs in preset)" in text for text in finish(other, scans, tmp_path))


def test_a_failed_save_keeps_the_older_checkpoint(study, tiny_presets, tmp_path, monkeypatch):
    run, scans, real = make_run(tiny_presets), read_scans(study), safetensors.torch.save_file
    saves = []

    def full_disk(tensors, path, metadata):
        saves.append(path)
        if len(saves) < 3:
            return real(tensors, path, metadata)
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full_disk)
        with pytest.raises(InputError, match=r"step 3 could not be written.*No space left"):
            train(run, scans, tmp_path, CPU, checkpoint_seconds=0, say=lambda text: None)
    assert list(contents(tmp_path)) == [CHECKPOINT, "groups.csv", "history.csv"]
    assert load_checkpoint(tmp_path / CHECKPOINT)["step"] == 2
    assert "resumed at step 2" in finish(run, scans, tmp_path)


def test_base_and_dro_see_the_same_data_and_start_alike(study, tiny_presets, tmp_path):
    scans = read_scans(study)
    rows = {}
    for objective in ("base", "dro"):
        finish(make_run(tiny_presets, objective=objective), scans, tmp_path / objective)
        rows[objective] = pd.read_csv(tmp_path / objective / "history.csv")
    assert rows["base"]["loss"][0] == rows["dro"]["loss"][0]
    assert rows["base"]["loss"][4] != rows["dro"]["loss"][4]
    groups = {name: pd.read_csv(tmp_path / name / "groups.csv") for name in rows}
    assert groups["base"]["count"].equals(groups["dro"]["count"])
    assert groups["dro"].groupby("step")["weight"].sum().to_numpy() == pytest.approx(1)
    assert groups["base"].groupby("step")["count"].sum().eq(4).all()


def test_objectives_from_the_command_line_excess_after_its_base(study, tmp_path):
    presets = write_tiny_presets(tmp_path / "presets.yaml", steps=4, sampling="by_objective")
    common = [
        "--method",
        "byol",
        "--seed",
        "0",
        "--preset",
        "tiny",
        "--presets",
        str(presets),
        "--manifest",
        str(study),
    ]

    def pretrain(objective, *flags):
        main(["pretrain", "--objective", objective, "--out", str(tmp_path / objective), *common, *flags])
        return pd.read_csv(tmp_path / objective / "groups.csv"), read_json(tmp_path / objective / "card.json")

    with pytest.raises(SystemExit):
        pretrain("excess")
    base, _ = pretrain("base")
    rows = {name: pretrain(name)[0] for name in ("balanced", "dro", "worst")}
    rows["excess"], card = pretrain("excess", "--reference", str(tmp_path / "base"))
    assert all(table["count"].equals(rows["dro"]["count"]) for table in rows.values())
    assert not base["count"].equals(rows["dro"]["count"])
    first = rows["dro"]["step"] == 0
    assert all(table.loc[first, "loss"].equals(rows["dro"].loc[first, "loss"]) for table in rows.values())
    assert sorted(rows["worst"].loc[first, "weight"]) == [0] * 6 + [1]
    assert set(card["reference"]) == set(base["group"])
    with pytest.raises(SystemExit):
        pretrain("dro", "--reference", str(tmp_path / "base"))


def test_card_and_load_back(study, tiny_presets, tmp_path):
    scans, run = read_scans(study), make_run(tiny_presets, "dino")
    progress = train(run, scans, tmp_path, CPU, say=lambda text: None)
    write_outputs(run, scans, progress, tmp_path)
    encoder, card = load_encoder(tmp_path)
    assert card == read_json(tmp_path / "card.json")
    assert (card["scans"], card["groups"]["group-0"]) == (14, {"scans": 2, "patients": 2})
    assert card["preprocessing"] == scans.preprocessing
    assert card["parameters"] == sum(parameter.numel() for parameter in encoder.parameters())
    teacher = progress.method.teacher_encoder.state_dict()
    assert all(torch.equal(value, teacher[key]) for key, value in encoder.state_dict().items())
    assert "/" not in "".join(card["preset"]["values"])


def test_loss_falls_when_there_is_something_to_learn(study, tmp_path):
    presets = write_tiny_presets(tmp_path / "presets.yaml", steps=40, learning_rate=3.0e-3)
    for method in ("byol", "mae"):
        finish(make_run(presets, method), read_scans(study), tmp_path / method)
        loss = pd.read_csv(tmp_path / method / "history.csv")["loss"]
        assert loss[-5:].mean() < 0.95 * loss[:5].mean()


def test_a_loss_that_is_not_finite_stops_the_run(study, tmp_path, monkeypatch):
    run, scans = make_run(write_tiny_presets(tmp_path / "presets.yaml")), read_scans(study)
    real = runs.build_method

    def broken(run, scans):
        method = real(run, scans)
        method.projector[-1].weight.data.fill_(float("nan"))
        return method

    monkeypatch.setattr(runs, "build_method", broken)
    with pytest.raises(InputError, match=r"step 0: the loss of cohort-\d/scan-\d+ is nan \(4 of 4 samples"):
        finish(run, scans, tmp_path / "out")


def test_a_loss_read_late_never_spoils_a_checkpoint(study, tmp_path, monkeypatch):
    """Without rows to write, losses are read one step late; not before a checkpoint is written."""
    presets = write_tiny_presets(tmp_path / "presets.yaml", log_every=10**9, steps=8)
    run, scans = make_run(presets), read_scans(study)
    real = engine.take_step

    def take_step(run, scans, progress, *rest):
        if progress.step == 3:
            progress.method.projector[-1].weight.data.fill_(float("nan"))
        return real(run, scans, progress, *rest)

    monkeypatch.setattr(engine, "take_step", take_step)
    for seconds in (0, 10**9):
        out = tmp_path / str(seconds)
        with pytest.raises(InputError, match=r"step 3: the loss of cohort-\d/scan-\d+ is nan \(4 of 4 samples"):
            train(run, scans, out, CPU, checkpoint_seconds=seconds, say=lambda text: None)
    state = load_checkpoint(tmp_path / "0" / CHECKPOINT)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["method"].values())


def test_collapsed_features_stop_the_run(study, tmp_path, monkeypatch):
    run, scans = make_run(write_tiny_presets(tmp_path / "presets.yaml")), read_scans(study)
    real = runs.build_method

    def dead(run, scans):
        method = real(run, scans)
        norm = method.encoder.network.layer4[-1].bn2
        for layer in (norm, method.encoder.network.layer4[0].downsample[1]):
            layer.weight.data.zero_()
            layer.bias.data.fill_(1.0)
        return method.requires_grad_(False) and _only(method)

    def _only(method):
        method.predictor.requires_grad_(True)
        return method

    monkeypatch.setattr(runs, "build_method", dead)
    with pytest.raises(InputError, match="features collapsed"):
        finish(run, scans, tmp_path / "out")


def test_fewer_scans_than_the_batch_are_said_and_one_group_works(tmp_path):
    manifest = write_study(tmp_path, scans=3, groups=1)
    presets = write_tiny_presets(tmp_path / "presets.yaml", steps=2)
    said = finish(make_run(presets, "moco"), read_scans(manifest), tmp_path / "out")
    assert any("3 scans are fewer than the batch size 4" in text for text in said)
    assert (pd.read_csv(tmp_path / "out" / "groups.csv")["weight"] == 1).all()


def test_natural_sampling_is_refused_for_dro(study, tmp_path):
    presets = write_tiny_presets(tmp_path / "presets.yaml", sampling="natural", steps=2)
    with pytest.raises(InputError, match="natural and the objective is dro"):
        finish(make_run(presets), read_scans(study), tmp_path)
    finish(make_run(presets, objective="base"), read_scans(study), tmp_path / "base")
    groups = pd.read_csv(tmp_path / "base" / "groups.csv")
    assert (groups["count"] == 0).any()
    assert groups.loc[groups["count"] == 0, "loss"].isna().all()


def edited(manifest, folder, change):
    table = pd.read_csv(manifest, sep="\t", dtype=str)
    change(table)
    path = folder / "manifest.tsv"
    write_table(path, table)
    return path


def test_volumes_that_are_not_the_manifests_are_refused(study, tmp_path):
    def another_digest(table):
        table.loc[2, "sha256"] = "0" * 64

    def swapped(table):
        table.loc[0, "volume"], table.loc[1, "volume"] = table["volume"][1], table["volume"][0]

    def absent(table):
        table.loc[0, "volume"] = "nowhere.b2nd"

    for change, message in ((another_digest, "scan-2 of cohort-2.*not the volume"), (swapped, "not the volume"),
                            (absent, "scan-0 of cohort-0")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_scans(edited(study, tmp_path, change))


def test_manifests_that_cannot_be_used_are_refused(study, tmp_path):
    def no_group(table):
        table.loc[3, "group"] = None

    def twice(table):
        table.loc[1, ["cohort", "scan"]] = table.loc[0, ["cohort", "scan"]]

    def empty(table):
        table.drop(table.index, inplace=True)

    def no_column(table):
        table.drop(columns="patient", inplace=True)

    for change, message in ((no_group, "empty cells in group"), (twice, "listed twice"), (empty, "lists no scan"),
                            (no_column, "lacks the columns patient")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_scans(edited(study, tmp_path, change))
    with pytest.raises(InputError, match="no such file"):
        read_scans(tmp_path / "nothing.tsv")


def test_volumes_preprocessed_in_two_ways_are_refused(study, tmp_path):
    other = write_study(tmp_path / "other", scans=1, contract={"spacing": [1.0, 1.0, 1.0]})
    table = pd.concat([pd.read_csv(path, sep="\t", dtype=str) for path in (study, other)])
    table["scan"] = [f"s{i}" for i in range(len(table))]
    write_table(tmp_path / "mixed.tsv", table)
    with pytest.raises(InputError, match=r"preprocessed unlike.*spacing: \[3.0, 3.0, 3.0\] against \[1.0, 1.0, 1.0\]"):
        read_scans(tmp_path / "mixed.tsv")
