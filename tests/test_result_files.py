"""The files that figures and tables are made from, for a study small enough to write them out."""

import pytest

from neurorad.result_files import encoders_folder, result_files
from neurorad.roster import roster


@pytest.fixture
def config() -> dict:
    return {
        "cohorts": {"old": {"role": ["pretrain"]}, "mine": {"role": ["test"], "labels": "mine.csv"}},
        "pretraining": {"methods": ["byol"], "objectives": ["base"], "seeds": [0]},
        "evaluation": {},
        "rivals": {"random": [0, 1], "combat": True},
        "explanation": {"endpoints": ["idh1", "mgmt"]},
    }


def files(config: dict) -> dict[str, list[str]]:
    return result_files(config, roster(config))


def test_one_file_a_cohort_an_encoder_or_a_map(config):
    found = files(config)
    assert found["scans"] == ["results/cohorts/old/scans.tsv", "results/cohorts/mine/scans.tsv"]
    assert found["volumes"] == ["results/volumes/old/volumes.tsv", "results/volumes/mine/volumes.tsv"]
    assert found["history"] == ["results/encoders/byol-base-s0/history.csv"]
    probed = ("byol-base-s0", "random-s0", "random-s1", "clinical", "byol-base-combat-s0")
    assert found["probe"] == [f"results/evaluation/probe/{name}.parquet" for name in probed]
    assert found["survival"] == [f"results/evaluation/survival/{name}.parquet" for name in probed[:4]]
    drawn = ("byol-base-s0", "random-s0", "clinical")
    assert found["curves"] == [f"results/evaluation/survival/{name}.curves.parquet" for name in drawn]
    assert found["coordinates"] == ["results/evaluation/invariance/byol-base-s0.coordinates.parquet"]
    assert found["maps"] == [
        "results/explanation/byol-base-s0/idh1/maps.npz",
        "results/explanation/byol-base-s0/mgmt/maps.npz",
    ]


def test_what_the_config_does_not_ask_for_has_no_file(config):
    found = files(config)
    assert found["comparison"] == found["stress"] == []
    config["pretraining"]["objectives"] = ["base", "dro"]
    config["evaluation"] = {"stress": {"shifts": ["noise"]}}
    del config["explanation"]
    found = files(config)
    assert found["comparison"] == ["results/evaluation/comparison.parquet"]
    assert found["stress"] == [
        f"results/evaluation/stress/{name}.parquet" for name in ("byol-base-s0", "byol-dro-s0", "random-s0")
    ]
    assert found["maps"] == found["agreement"] == found["checks"] == []


def test_frozen_encoders_are_read_where_they_lie(config):
    config["pretraining"]["freeze"] = "shelf/of encoders"
    assert encoders_folder(config["pretraining"]) == "shelf/of encoders"
    assert files(config)["groups"] == ["shelf/of encoders/byol-base-s0/groups.csv"]
