"""Names of a study: written out by hand for small configs."""

import pytest

from neurorad.roster import roster


@pytest.fixture
def config() -> dict:
    return {
        "cohorts": {
            "old": {"role": ["pretrain"], "labels": "old.csv"},
            "mine": {"role": ["test"], "labels": "mine.csv"},
            "both": {"role": ["pretrain", "test"]},
        },
        "pretraining": {"methods": ["moco", "byol"], "objectives": ["base", "dro"], "seeds": [0, 1]},
        "evaluation": {"ensemble": True},
        "rivals": {
            "random": [0, 3],
            "intensity": True,
            "clinical_full": True,
            "combat": True,
            "finetune": {"from": ["scratch", "byol-dro-s1"]},
        },
        "explanation": {"endpoints": ["idh1", "os"]},
    }


def test_every_list_in_the_configs_order(config):
    names = roster(config)
    assert names.cohorts == ["old", "mine", "both"]
    assert names.test == ["mine", "both"]
    assert names.encoders == [
        "moco-base-s0",
        "moco-base-s1",
        "moco-dro-s0",
        "moco-dro-s1",
        "byol-base-s0",
        "byol-base-s1",
        "byol-dro-s0",
        "byol-dro-s1",
    ]
    assert names.ensembles == [f"ensemble-{objective}-s{seed}" for objective in ("base", "dro") for seed in (0, 1)]
    assert names.baselines == ["random-s0", "random-s3", "intensity", "clinical-full", "clinical"]
    assert names.combats == [f"{method}-base-combat-s{seed}" for method in ("moco", "byol") for seed in (0, 1)]
    assert names.tuned == ["scratch-tuned-s0", "byol-dro-tuned-s1"]
    assert names.explained == ["idh1", "os"]


def test_what_is_evaluated_probed_and_drawn(config):
    names = roster(config)
    assert len(names.evaluated) == 8 + 4 + 5
    assert names.probed == [*names.evaluated, *names.combats, *names.tuned]
    assert names.drawn == [*names.encoders, *names.ensembles, "random-s0", "clinical"]


def test_without_labels_of_a_test_cohort_nothing_clinical(config):
    del config["cohorts"]["mine"]["labels"]
    names = roster(config)
    assert names.clinical == []
    assert names.baselines == ["random-s0", "random-s3", "intensity"]
    assert "clinical" not in names.drawn


def test_what_the_config_leaves_out_is_not_there(config):
    for key in ("rivals", "explanation"):
        del config[key]
    config["evaluation"] = {}
    names = roster(config)
    assert names.ensembles == names.combats == names.tuned == names.explained == names.explained_kinds == []
    assert names.baselines == ["random-s0", "clinical"]


@pytest.mark.parametrize(
    ("endpoints", "kinds"), [(["idh1"], ["probe"]), (["os"], ["survival"]), (["os", "mgmt"], ["probe", "survival"])]
)
def test_maps_come_from_probes_survival_or_both(config, endpoints, kinds):
    config["explanation"]["endpoints"] = endpoints
    assert roster(config).explained_kinds == kinds


def test_twins_differ_in_their_seed_alone(config):
    config["pretraining"]["seeds"] = [0, 1, 10]
    names = roster(config)
    assert names.twins("byol-dro-s1") == ["byol-dro-s0", "byol-dro-s10"]
    assert names.twins("moco-base-s0") == ["moco-base-s1", "moco-base-s10"]
