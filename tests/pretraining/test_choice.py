"""The choice of weights: a probe that knows sequences and no labels, gated by rank; never the loss."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from neurorad.cli import main
from neurorad.encoder import initialised, load_encoder
from neurorad.files import read_json
from neurorad.pretraining import choice
from neurorad.pretraining.checkpoint import CHECKPOINT
from neurorad.pretraining.choice import ALL, Choice, probe_features, probe_scans, ridge, sequence_probe
from neurorad.pretraining.outputs import LAST
from neurorad.pretraining.scans import read_scans

from .conftest import write_tiny_presets
from .test_engine import contents, finish, make_run, stop_at


def looks(*rows):
    """Looks at steps 0, 1, ... with (probe of group a, of group b, rank)."""
    return [
        {"step": step, "probe": {"a": a, "b": b}, "effective_rank": {ALL: rank, "a": rank, "b": rank}}
        for step, (a, b, rank) in enumerate(rows)
    ]


@pytest.fixture
def made(study):
    return Choice("worst_group", read_scans(study), 0, steps=4)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.1, 0.1, 8), (0.9, 0.2, 8), (0.5, 0.4, 8), (0.6, 0.3, 8), (0.9, 0.1, 8)], 2),  # the worst group decides
        (
            [(0.9, 0.9, 8), (0.1, 0.1, 8), (0.2, 0.2, 8), (0.1, 0.1, 8), (0.1, 0.1, 8)],
            2,
        ),  # the untrained is no candidate
        (
            [(0.1, 0.1, 8), (0.9, 0.9, 3.9), (0.5, 0.5, 4), (0.1, 0.1, 8), (0.1, 0.1, 8)],
            2,
        ),  # a rank below half is shut out
        ([(0.1, 0.1, 8), (0.9, 0.9, 1), (0.9, 0.9, 1), (0.9, 0.9, 1), (0.9, 0.9, 1)], 4),  # none passes: the last
        ([(0.1, 0.1, 8), (0.5, 0.5, 8), (0.5, 0.5, 8), (0.1, 0.1, 8), (0.1, 0.1, 8)], 2),  # of equals the later
    ],
)
def test_the_best_worst_group_that_keeps_its_rank(made, rows, best):
    made.looks = looks(*rows)
    assert made.best == best


def test_one_collapsed_group_shuts_a_step_out_though_the_whole_keeps_its_rank(made):
    made.looks = looks((0.1, 0.1, 8), (0.9, 0.9, 8), (0.5, 0.5, 8))
    made.looks[1]["effective_rank"]["b"] = 1.0
    assert made.best == 2


def test_looks_are_spread_evenly_and_hold_first_and_last(study):
    long = Choice("worst_group", read_scans(study), 0, steps=1000)
    due = [step for step in range(1001) if long.due(step)]
    assert due == list(range(0, 1001, 50))
    short = Choice("worst_group", read_scans(study), 0, steps=3)
    assert [step for step in range(4) if short.due(step)] == [0, 1, 2, 3]
    assert not any(Choice("last", read_scans(study), 0, steps=3).due(step) for step in range(4))


def test_few_scans_of_every_group_one_a_patient(monkeypatch):
    groups = [0] * 40 + [1] * 3
    patients = [f"p{scan // 2}" for scan in range(43)]
    chosen = probe_scans(groups, patients, seed=0)
    assert chosen == probe_scans(groups, patients, seed=0) != probe_scans(groups, patients, seed=1)
    assert [sum(groups[scan] == group for scan in chosen) for group in (0, 1)] == [choice.SCANS, 2]
    assert len({(groups[scan], patients[scan]) for scan in chosen}) == len(chosen)


def test_the_regression_is_scikit_learns():
    random = np.random.default_rng(0)
    x, y, asked = random.normal(3, 2, (30, 50)), random.normal(size=(30, 4)), random.normal(3, 2, (7, 50))
    x[:, 5] = asked[:, 5] = 1.0  # a dead feature
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=choice.PENALTY * 30).fit(scaler.transform(x) / 50**0.5, y)
    found = ridge(*(torch.from_numpy(values) for values in (x, y, asked)))
    assert found.numpy() == pytest.approx(model.predict(scaler.transform(asked) / 50**0.5), abs=1e-8)


def sequence_features(shift=0.0, noise=0.1):
    """Three groups of 8 scans whose four sequences lie on four axes; group 2 is moved by `shift` along them in turn."""
    features = torch.eye(4, dtype=torch.float64).expand(24, 4, 4).clone()
    features += noise * torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features[16:] += shift * torch.roll(torch.eye(4, dtype=torch.float64), 1, dims=0)
    return features, torch.ones(24, 4, dtype=torch.bool), torch.arange(24) // 8


def test_a_group_whose_sequences_look_otherwise_is_the_worst():
    fine = sequence_probe(*sequence_features())
    assert min(fine) > 0.9
    moved = sequence_probe(*sequence_features(shift=1.5))
    assert moved.index(min(moved)) == 2
    assert min(moved) < 0


def test_features_that_say_nothing_score_about_zero_and_constant_ones_exactly():
    features, present, groups = sequence_features()
    nothing = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert max(sequence_probe(nothing, present, groups)) < 0.1
    assert sequence_probe(torch.ones_like(features), present, groups) == pytest.approx([0, 0, 0])


def test_absent_sequences_are_left_out_and_one_group_is_halved():
    features, present, groups = sequence_features()
    features[:8, 3] = 1e6
    present[:8, 3] = False
    assert min(sequence_probe(features, present, groups)) > 0.9
    (alone,) = sequence_probe(*sequence_features()[:2], torch.zeros(24, dtype=torch.long))
    assert alone > 0.9


def test_features_are_those_of_the_finished_encoder_on_whole_volumes(study, tiny_presets):
    scans, run = read_scans(study), make_run(tiny_presets)
    encoder = initialised(run.preset.encoder, 0).train()
    whole, single, present = probe_features(encoder, scans, [3, 5])
    assert encoder.training
    assert present.all()
    volume = torch.from_numpy(scans.volume(5)).float()
    with torch.no_grad():
        assert whole[1].float() == pytest.approx(encoder.eval()(volume[None])[0], abs=1e-5)
        alone = volume[2].expand(1, 4, -1, -1, -1)
        assert single[1, 2].float() == pytest.approx(encoder(alone)[0], abs=1e-5)


def worst_group_run(presets):
    run = make_run(presets)
    return type(run)(run.method, run.objective, run.seed, run.preset, run.reference, "worst_group")


def test_chosen_and_last_weights_are_both_kept_and_the_card_says_why(study, tiny_presets, tmp_path, monkeypatch):
    """The probe is made to fall, so that the first look after the start is the best."""
    falling = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    monkeypatch.setattr(choice, "sequence_probe", lambda *rest: [next(falling)] * 7)
    scans = read_scans(study)
    finish(worst_group_run(tiny_presets), scans, tmp_path / "worst")
    finish(make_run(tiny_presets), scans, tmp_path / "last")
    card = read_json(tmp_path / "worst" / "card.json")["checkpoint"]
    assert (card["rule"], card["step"], card["last"]) == ("worst_group", 1, 5)
    assert [look["step"] for look in card["looks"]] == [0, 1, 2, 3, 4, 5]
    assert set(card["looks"][2]["effective_rank"]) == {ALL, *scans.group_names}
    assert read_json(tmp_path / "last" / "card.json")["checkpoint"] == {
        "rule": "last",
        "step": 5,
        "last": 5,
        "looks": [],
    }
    last = (tmp_path / "last" / "encoder.safetensors").read_bytes()
    assert (tmp_path / "worst" / LAST).read_bytes() == last
    assert (tmp_path / "worst" / "encoder.safetensors").read_bytes() != last
    load_encoder(tmp_path / "worst")
    # Run again by the other rule, the folder is as if it had never been otherwise.
    finish(make_run(tiny_presets), scans, tmp_path / "worst")
    assert contents(tmp_path / "worst") == contents(tmp_path / "last")


def test_probing_changes_no_step_and_resumes_to_the_same_choice(study, tiny_presets, tmp_path, monkeypatch):
    scans, run = read_scans(study), worst_group_run(tiny_presets)
    finish(make_run(tiny_presets), scans, tmp_path / "plain")
    finish(run, scans, tmp_path / "whole")
    for name in ("history.csv", "groups.csv"):
        assert contents(tmp_path / "whole")[name] == contents(tmp_path / "plain")[name]
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(run, scans, tmp_path / "parts")
    assert (tmp_path / "parts" / CHECKPOINT).is_file()
    assert "resumed at step 3" in finish(run, scans, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_the_command_takes_the_rule(study, tmp_path):
    presets = write_tiny_presets(tmp_path / "presets.yaml", steps=2)
    main(
        ["pretrain", "--method", "mae", "--objective", "base", "--seed", "0", "--preset", "tiny"]
        + ["--presets", str(presets), "--manifest", str(study), "--out", str(tmp_path / "out")]
        + ["--checkpoint", "worst_group"]
    )
    assert read_json(tmp_path / "out" / "card.json")["checkpoint"]["rule"] == "worst_group"
