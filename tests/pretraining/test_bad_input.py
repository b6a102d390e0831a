"""What goes wrong at night: volumes that vanish, full disks, other runs' files, two jobs in one folder, collapse."""

import math
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neurorad import volumes
from neurorad.files import write_table
from neurorad.pretraining import checkpoint, engine, runs, scans, watch
from neurorad.pretraining.checkpoint import ASIDE, CHECKPOINT, CheckpointError, load_checkpoint, locked, save_checkpoint
from neurorad.pretraining.engine import train
from neurorad.pretraining.runs import Run, start
from neurorad.pretraining.scans import LostVolumeError, read_scans
from neurorad.problems import InputError

from .conftest import CONTRACT, write_study, write_tiny_presets
from .test_engine import CPU, contents, finish, make_run, stop_at


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(scans, "READ_WAITS", (0.01,))


def quiet(text):
    pass


@pytest.mark.parametrize(("method", "objective"), [("moco", "dro"), ("dino", "excess")])
def test_killed_without_warning_and_resumed_equals_uninterrupted(
    method, objective, study, tiny_presets, tmp_path, monkeypatch
):
    """SIGKILL in the middle of step 3: what the last checkpoint does not hold is done again, to the last bit."""
    run, data = make_run(tiny_presets, method, objective), read_scans(study)
    finish(run, data, tmp_path / "whole")
    child = os.fork()
    if child == 0:
        stop_at(monkeypatch, 3, signal.SIGKILL)
        train(run, data, tmp_path / "parts", CPU, checkpoint_seconds=0, say=quiet)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert load_checkpoint(tmp_path / "parts" / CHECKPOINT)["step"] == 3
    assert "resumed at step 3" in finish(run, data, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_volume_lost_in_mid_run_stops_it_with_a_checkpoint(tmp_path, tiny_presets, monkeypatch):
    """Mended, the run goes on to the same end."""
    manifest = write_study(tmp_path)
    monkeypatch.setattr(scans, "KEPT_BYTES", 0)
    run, data = make_run(tiny_presets), read_scans(manifest)
    finish(run, data, tmp_path / "whole")
    # Gone from the third step on, for every scan.
    folder, aside = tmp_path / "volumes", tmp_path / "aside"
    real = engine.take_step

    def take_step(run, data, progress, *rest):
        if progress.step == 1 and folder.is_dir():
            folder.rename(aside)
        return real(run, data, progress, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "take_step", take_step)
        with pytest.raises(InputError, match=r"step \d: scan cohort-\d/scan-\d+: .*unreadable volume.*start again"):
            train(run, data, tmp_path / "parts", CPU, say=quiet)
    assert load_checkpoint(tmp_path / "parts" / CHECKPOINT)["step"] >= 2
    aside.rename(folder)
    assert any("resumed at step" in text for text in finish(run, data, tmp_path / "parts"))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_volume_that_is_unreadable_for_a_moment_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "KEPT_BYTES", 0)
    data, real, failures = read_scans(write_study(tmp_path, scans=2, groups=1)), volumes.load, []

    def unreliable(path, check=False, out=None):
        if not failures:
            failures.append(path)
            raise volumes.VolumeError(f"{path}: stale file handle")
        return real(path, check, out)

    monkeypatch.setattr(volumes, "load", unreliable)
    assert data.volume(0).shape == (4, 20, 24, 20)
    assert len(failures) == 1


def test_a_volume_of_another_shape_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "KEPT_BYTES", 0)
    data = read_scans(write_study(tmp_path, scans=2, groups=1))
    volumes.save(data.paths[0], np.ones((4, 8, 8, 8)), {})
    monkeypatch.setattr(scans.time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(scans.LostVolumeError, match="which it had; make the volume again"):
        data.volume(0, out=np.empty((4, 20, 24, 20), np.float16))


def test_empty_volumes_are_refused_before_the_first_step_and_in_mid_run(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "KEPT_BYTES", 0)
    manifest = write_study(tmp_path, scans=3, groups=1)
    data, table = read_scans(manifest), pd.read_csv(manifest, sep="\t", dtype=str)
    digest = volumes.save(table["volume"][1], np.zeros((4, 20, 24, 20)), {"preprocessing": CONTRACT})
    with pytest.raises(LostVolumeError, match="scan-1.*has changed since the run began"):
        data.volume(1)
    table.loc[1, "sha256"] = digest
    write_table(manifest, table)
    with pytest.raises(InputError, match=r"scan-1 of cohort-0: every voxel of .* is 0"):
        read_scans(manifest)


def test_memory_holds_no_more_volumes_than_it_may(study, monkeypatch):
    size = 4 * 20 * 24 * 20 * 2
    monkeypatch.setattr(scans, "KEPT_BYTES", 3 * size)
    few, everything = read_scans(study, threads=2), [list(range(14))]
    assert len(few.kept) == 3
    monkeypatch.setattr(scans, "KEPT_BYTES", 2**30)
    whole = read_scans(study)
    assert len(whole.kept) == 14
    assert torch.equal(next(few.ahead(everything, threads=3)), next(whole.ahead(everything)))


def test_batches_read_ahead_come_in_order(study):
    data, wanted = read_scans(study), [[0, 3], [5, 5], [2, 1], [7, 8], [13, 0], [4, 6]]
    for batch, chosen in zip(data.ahead(wanted, threads=3), wanted, strict=True):
        assert np.array_equal(batch, [data.volume(scan) for scan in chosen])


def test_a_checkpoint_of_another_contract_is_put_aside_until_the_run_is_done(
    study, tiny_presets, tmp_path, monkeypatch
):
    run, out = make_run(tiny_presets), tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(run, read_scans(study), out)
    other = write_study(tmp_path / "other", contract={**CONTRACT, "atlas": "SRI24"})
    before, said = (out / CHECKPOINT).read_bytes(), []
    train(run, read_scans(other), out, CPU, say=said.append)
    assert any("differs in manifest, preprocessing" in text or "differs in preprocessing" in text for text in said)
    assert (out / ASIDE).read_bytes() == before
    finish(run, read_scans(other), out)
    assert not (out / ASIDE).exists()


def test_a_checkpoint_of_other_code_is_not_gone_on_with(study, tiny_presets, tmp_path, monkeypatch):
    run, out, said = make_run(tiny_presets), tmp_path / "out", []
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        patch.setattr(runs, "fingerprint", lambda *entries: "of another version")
        with pytest.raises(SystemExit):
            finish(run, read_scans(study), out)
    train(run, read_scans(study), out, CPU, say=said.append)
    assert any("differs in code" in text for text in said)
    assert (out / ASIDE).is_file()


@pytest.mark.parametrize(
    ("negatives", "said"), [("all", "the manifest has one patient"), ("group", "group group-0 has one")]
)
def test_moco_without_negatives_is_refused(negatives, said, tmp_path):
    """Its loss would be 0 in every step, and the run would end well."""
    preset = make_run(write_tiny_presets(tmp_path / "p.yaml"), method="moco").preset
    run = Run("moco", "base", 0, replace(preset, method=replace(preset.method, negatives=negatives)))
    data = read_scans(
        write_study(tmp_path, scans=4 if negatives == "group" else 2, groups=2 if negatives == "group" else 1)
    )
    alone = replace(data, patients=["p"] * 2 if negatives == "all" else ["p", "q", "p", "r"])
    with pytest.raises(InputError, match=said):
        start(run, alone, CPU)


def test_moco_3_with_one_sample_of_a_group_in_a_batch_is_refused(study, tmp_path):
    preset = make_run(write_tiny_presets(tmp_path / "p.yaml", batch_size=13), method="moco").preset
    run = Run("moco", "base", 0, replace(preset, method=replace(preset.method, version=3, negatives="group")))
    with pytest.raises(InputError, match=r"batch_size 13 has fewer than two of each of 7 groups"):
        start(run, read_scans(study), CPU)


def test_a_full_disk_is_said_and_leaves_the_older_checkpoint(tmp_path):
    """On a real file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        small, large = torch.zeros(100), torch.zeros(200_000)
        save_checkpoint(disk / CHECKPOINT, {"step": 1, "weights": small})
        with pytest.raises(InputError, match="checkpoint of step 2 could not be written.*No space left.*make room"):
            save_checkpoint(disk / CHECKPOINT, {"step": 2, "weights": large})
        assert load_checkpoint(disk / CHECKPOINT)["step"] == 1
        assert [path.name for path in disk.iterdir()] == [CHECKPOINT]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with locked(tmp_path):
                    os._exit(0)
            except InputError as problem:
                os._exit(3 if "another run is writing here" in str(problem) else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    with locked(tmp_path):
        pass


def test_a_checkpoint_gives_back_what_was_stored(tmp_path):
    state = {
        "step": 3,
        "nested": [{"a": torch.arange(3)}, (1, 2.5)],
        "by number": {0: torch.ones(2, dtype=torch.float64), 7: None},
        "rows": [{"loss": 0.1 + 0.2, "empty": math.inf}],
    }
    save_checkpoint(tmp_path / "c", state)
    found = load_checkpoint(tmp_path / "c")
    assert torch.equal(found["nested"][0]["a"], torch.arange(3))
    assert found["by number"][0].dtype == torch.float64
    assert list(found["by number"]) == [0, 7]
    assert found["rows"] == state["rows"]
    for size in (0, 5, 40):
        (tmp_path / "cut").write_bytes((tmp_path / "c").read_bytes()[:size])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "cut")
    assert checkpoint.CHECKPOINT.endswith(".safetensors")


def row(step, **values):
    usual = {"loss": 1.0, "feature_spread": 0.5, "effective_rank": 5.0}
    return {"step": step, **usual, **values}


def group(name="a", spread=0.3, rank=2.0, count=3):
    return {"group": name, "spread": spread, "effective_rank": rank, "count": count}


def test_each_kind_of_trouble_is_named():
    early = [row(step) for step in range(watch.SETTLING)]
    fine = watch.troubles([*early, row(10)], [group(), group("b", math.nan)], warmup=2, largest_rank=20)
    assert fine == []
    for values, words in (
        ({"loss": 3.1}, "diverged"),
        ({"feature_spread": 1e-4}, "features collapsed"),
        ({"effective_rank": 1.1}, "effective rank 1.10 of at most 20"),
        ({"teacher_entropy": math.log(256) - 1e-4, "uniform_entropy": math.log(256)}, "teacher is uniform"),
    ):
        (said,) = watch.troubles([*early, row(10, **values)], [group()], warmup=2, largest_rank=20)
        assert words in said
    (said,) = watch.troubles([*early, row(10)], [group(), group("rare", 1e-5)], warmup=2, largest_rank=20)
    assert said == "features collapsed within group rare"
    line = [group("a", rank=1.0), group("line", rank=1.1, count=6)]
    (said,) = watch.troubles([*early, row(10)], line, warmup=2, largest_rank=20)
    assert said == "features collapsed within group line"
    assert watch.troubles([row(1, feature_spread=0.0)], [group()], warmup=2, largest_rank=20) == []


def test_the_watchdog_waits_for_a_row_of_troubles():
    watchdog = watch.Watchdog()
    for step, found in enumerate((["x"], ["x"], [], ["x"], ["x"])):
        watchdog.look(step, found)
    with pytest.raises(InputError, match="step 5: x; lower the learning rate"):
        watchdog.look(5, ["x"])


def test_a_run_that_looks_wrong_does_not_overwrite_its_last_good_checkpoint(study, tmp_path, monkeypatch):
    run = make_run(write_tiny_presets(tmp_path / "presets.yaml", steps=8))
    found = iter([[], [], [], ["wrong"], ["wrong"], ["wrong"]])
    monkeypatch.setattr(engine, "troubles", lambda *rest: next(found))
    with pytest.raises(InputError, match="step 5: wrong"):
        train(run, read_scans(study), tmp_path, CPU, checkpoint_seconds=0, say=quiet)
    assert load_checkpoint(tmp_path / CHECKPOINT)["step"] == 3


def test_event_files_hold_the_history(study, tiny_presets, tmp_path):
    """Read back with the reader of the format: length, checksum, protobuf event."""
    from tensorboardX.proto.event_pb2 import Event

    finish(make_run(tiny_presets), read_scans(study), tmp_path)
    (path,) = Path(tmp_path / watch.EVENTS).iterdir()
    content, values, position = path.read_bytes(), {}, 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        event = Event.FromString(content[position + 12 : position + 12 + length])
        values.update({(event.step, value.tag): value.simple_value for value in event.summary.value})
        position += 16 + length
    history, groups = pd.read_csv(tmp_path / "history.csv"), pd.read_csv(tmp_path / "groups.csv")
    assert values[3, "run/loss"] == pytest.approx(history["loss"][3], rel=1e-6)
    last = groups[groups["step"] == 4].set_index("group")["weight"]
    assert {name: values[4, f"weight/{name}"] for name in last.index} == pytest.approx(last.to_dict(), rel=1e-6)
