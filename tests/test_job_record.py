"""What a command ran on is written where the workflow asks for it, names no file or machine, and is the same each time."""

import json
import platform
import socket

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import write_table
from neurorad.job_record import FOLDER, job_record, record_path


@pytest.fixture
def claimed(tmp_path, monkeypatch):
    """The arguments of a command that was run, and the folder of records."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "jobs"))
    table = pd.DataFrame({"endpoint": ["atrx"], "metric": ["auc"]})
    write_table(tmp_path / "comparison.csv", table)
    declared = json.dumps({"primary": [{"endpoint": ["atrx"], "metric": ["auc"]}]})
    arguments = ["deviations", "--declared", declared, "--tables", str(tmp_path / "comparison.csv")]
    arguments += ["--plan", "a stamp", "--out", str(tmp_path / "deviations.csv")]
    main(arguments)
    return arguments, tmp_path / "jobs"


def test_a_finished_command_leaves_versions_device_and_settings(claimed):
    arguments, folder = claimed
    record = json.loads(record_path(folder, arguments).read_text())
    assert record["python"] == platform.python_version()
    assert record["packages"]["numpy"] == np.__version__
    assert record["packages"]["pandas"] == pd.__version__
    assert record["device"]
    assert record["settings"]["plan"] == "a stamp"
    assert record["settings"]["declared"]["primary"][0]["endpoint"] == ["atrx"]


def test_it_names_no_file_and_no_machine_and_is_the_same_again(claimed):
    arguments, folder = claimed
    path = record_path(folder, arguments)
    text = path.read_text()
    assert str(folder.parent) not in text and socket.gethostname() not in text
    assert set(json.loads(text)["settings"]) == {"declared", "plan", "changed"}
    main(arguments)
    assert path.read_text() == text


def test_a_command_that_failed_or_was_typed_by_hand_leaves_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(FOLDER, str(tmp_path / "jobs"))
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "nothing.json")])
    assert not (tmp_path / "jobs").exists()
    monkeypatch.delenv(FOLDER)
    main(["deviations", "--out", str(tmp_path / "deviations.csv")])
    assert not (tmp_path / "jobs").exists()


def test_the_device_is_the_card_that_the_process_used(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert job_record({})["device"] == "a card"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert job_record({})["device"] != "a card"
