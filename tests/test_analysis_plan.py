"""A locked plan cannot change unseen; what the study departs from is named; rows know whether they were planned."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from neurorad.analysis_plan import (
    LOCK,
    NOT_LOCKED,
    absent,
    deviations,
    lock,
    plan_of,
    read_lock,
    results_exist,
    role_of,
    stamp,
    with_plan,
)
from neurorad.cli import main
from neurorad.configuration import SCHEMA
from neurorad.endpoints import endpoints
from neurorad.files import read_table, write_json, write_table
from neurorad.problems import InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(config: dict, *keys: str, to: object) -> dict:
    other = copy.deepcopy(config)
    block = other
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = to
    return other


def test_a_study_that_moved_or_is_cut_into_other_jobs_is_as_planned(config):
    other = copy.deepcopy(config)
    for name, block in other["cohorts"].items():
        block |= {"images": f"/elsewhere/{name}", "shards": 9}
        if "labels" in block:
            block["labels"] = "/elsewhere/table.csv"
    other["leakage"]["crosswalks"][0]["table"] = "/elsewhere/pairs.csv"
    other["title"] = "another title"
    assert plan_of(other) == plan_of(config)
    assert "/" not in json.dumps({key: value for key, value in plan_of(other).items() if key != "endpoints"})


@pytest.mark.parametrize(
    ("keys", "to", "item"),
    [
        (("evaluation", "repeats"), 4, "evaluation.repeats"),
        (("labels", "ki67_cutoff"), 20, "endpoints.ki67.cutoff"),
        (("pretraining", "seeds"), [0, 1], "pretraining.seeds"),
        (("analysis_plan", "primary"), [{"endpoint": ["mgmt"], "metric": ["auc"]}], "declared.primary"),
        (("cohorts", "new"), {"release": "cuimc", "role": ["test"], "images": "x"}, "cohorts.new.release"),
    ],
)
def test_every_change_that_decides_a_number_is_a_deviation(config, keys, to, item):
    frozen = lock(config, "2026-01-02", False)
    other = changed(config, *keys, to=to)
    found = {deviation.item: deviation for deviation in deviations(frozen, other)}
    assert item in found
    assert found[item].planned != found[item].now
    number = len(found)
    assert stamp(frozen, other) == (
        f"plan {frozen['sha256'][:12]} locked 2026-01-02; {number} deviation{'s' if number > 1 else ''}"
    )
    assert deviations(frozen, config) == []


def test_a_reason_stands_beside_its_deviation_and_changes_nothing_else(config):
    frozen = lock(config, "2026-01-02", False)
    other = changed(config, "evaluation", "repeats", to=4)
    other["analysis_plan"]["reasons"] = {"evaluation.repeats": "a reviewer asked"}
    (found,) = deviations(frozen, other)
    assert (found.item, found.planned, found.now, found.reason) == ("evaluation.repeats", "3", "4", "a reviewer asked")


def test_stamps(config):
    assert stamp(None, config) == NOT_LOCKED
    late = lock(config, "2026-01-02", True)
    assert stamp(late, config) == f"plan {late['sha256'][:12]} locked 2026-01-02, after results existed"


@pytest.mark.parametrize("what", ["plan", "locked", "results_existed"])
def test_a_lock_that_was_edited_is_refused(config, tmp_path, what):
    frozen = lock(config, "2026-01-02", True)
    frozen[what] = {"plan": {}, "locked": "2025-01-02", "results_existed": False}[what]
    write_json(tmp_path / LOCK, frozen)
    with pytest.raises(InputError, match="was changed after it was locked"):
        read_lock(tmp_path / LOCK)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_is_no_lock_is_refused(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(InputError, match="not a plan made by `neurorad lock-plan`"):
        read_lock(tmp_path / LOCK)


ROWS = pd.DataFrame(
    [
        ("idh1", "auc", "within_site", "dro"),
        ("idh1", "auc", "combined", "dro"),
        ("mgmt", "auc", "within_site", "base"),
        ("tert", "auc", "within_site", "base"),
    ],
    columns=["endpoint", "metric", "protocol", "objective"],
)
DECLARED = {
    "primary": [{"endpoint": ["idh1"], "metric": ["auc"], "protocol": ["within_site"], "objective": ["dro"]}],
    "secondary": [{"endpoint": ["idh1", "mgmt"], "metric": ["auc", "brier"]}],
}


def test_rows_are_primary_secondary_or_exploratory():
    assert role_of(ROWS, DECLARED) == ["primary", "secondary", "secondary", "exploratory"]
    assert role_of(ROWS.drop(columns="objective"), DECLARED)[0] == "secondary"
    assert role_of(ROWS, {}) == ["exploratory"] * 4


def test_a_table_of_numbers_gets_both_columns_and_another_the_stamp_alone():
    table = with_plan(ROWS, "stamp", DECLARED)
    assert list(table.columns) == [*ROWS.columns, "analysis", "plan"]
    assert set(table["plan"]) == {"stamp"}
    assert list(with_plan(pd.DataFrame({"cohort": ["a"]}), "stamp", DECLARED).columns) == ["cohort", "plan"]
    assert "plan" not in ROWS


def test_planned_numbers_that_no_table_has_are_named():
    assert [d.item for d in absent(DECLARED, [ROWS])] == [
        "declared.secondary: brier of idh1",
        "declared.secondary: brier of mgmt",
    ]
    assert len(absent(DECLARED, [])) == 5


def test_the_schema_knows_every_endpoint():
    allowed = yaml.safe_load(SCHEMA.read_text())["$defs"]["declared"]["items"]["properties"]["endpoint"]["items"][
        "enum"
    ]
    assert set(endpoints()) | {"os", "site"} <= set(allowed)


@pytest.fixture
def study(tmp_path, config) -> Path:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def lock_plan(study: Path) -> None:
    main(["lock-plan", "--configfile", str(study / "study.yaml"), "--directory", str(study)])


def test_a_plan_may_be_locked_again_until_there_are_results(study, config, capsys):
    lock_plan(study)
    first = read_lock(study / LOCK)
    assert not first["results_existed"]
    bytes_then = (study / LOCK).read_bytes()
    lock_plan(study)
    assert "unchanged since" in capsys.readouterr().out
    assert (study / LOCK).read_bytes() == bytes_then
    config["evaluation"]["repeats"] = 4
    (study / "study.yaml").write_text(yaml.safe_dump(config))
    lock_plan(study)
    second = read_lock(study / LOCK)
    assert second["sha256"] != first["sha256"]
    write_table(study / "results" / "tables" / "probe.csv", ROWS)
    assert results_exist(study)
    config["evaluation"]["repeats"] = 5
    (study / "study.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        lock_plan(study)
    assert "evaluation.repeats: 4 -> 5" in capsys.readouterr().err
    assert read_lock(study / LOCK) == second


def test_a_plan_locked_after_results_says_so_for_ever(study, capsys):
    write_table(study / "results" / "evaluation" / "probe" / "a.parquet", ROWS)
    lock_plan(study)
    assert read_lock(study / LOCK)["results_existed"]
    assert "locked after them" in capsys.readouterr().out


def test_a_wrong_config_is_not_locked(study, capsys):
    (study / "study.yaml").write_text("cohorts: {}\n")
    with pytest.raises(SystemExit):
        lock_plan(study)
    assert "is a required property" in capsys.readouterr().err
    assert not (study / LOCK).exists()


def test_the_file_of_deviations_has_changed_settings_and_missing_numbers(tmp_path):
    write_table(tmp_path / "probe.csv", ROWS)
    change = {"item": "evaluation.repeats", "planned": "3", "now": "4", "reason": "no reason given"}
    main(
        ["deviations", "--changed", json.dumps([change]), "--declared", json.dumps(DECLARED), "--plan", "a stamp"]
        + ["--tables", str(tmp_path / "probe.csv"), "--out", str(tmp_path / "deviations.csv")]
    )
    table = read_table(tmp_path / "deviations.csv")
    assert table["item"].tolist() == ["evaluation.repeats"] + [
        f"declared.secondary: brier of {name}" for name in ("idh1", "mgmt")
    ]
    assert set(table["plan"]) == {"a stamp"}
