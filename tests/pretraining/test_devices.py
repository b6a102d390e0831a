"""One run divided over processes and micro-batches is the run undivided (V8 of the verification plan)."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from lightning_fabric import Fabric

from neurorad.pretraining.devices import gathered, make_fabric, share
from neurorad.pretraining.engine import make_batches, take_step
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Run, start
from neurorad.pretraining.scans import read_scans
from neurorad.problems import InputError

from .conftest import write_tiny_presets

METHODS = ("byol", "dino", "mae", "moco")
RUNS = [(method, objective) for method in (*METHODS, "moco_v3") for objective in ("base", "dro")]
STEPS = 2


def state_after(presets: Path, manifest: Path, method: str, objective: str, fabric: Fabric, parts: int) -> dict:
    """Gradients of the last step, weights of groups, rows, and the method's buffers, after `STEPS` steps."""
    torch.set_num_threads(1)
    preset = read_preset(presets, "tiny", "moco" if method == "moco_v3" else method)
    if method == "moco_v3":
        preset = replace(preset, method=replace(preset.method, version=3))
    run, scans = Run(method.removesuffix("_v3"), objective, 0, preset), read_scans(manifest)
    progress = start(run, scans, fabric, parts)
    for batches, groups, names in make_batches(run, scans, progress, fabric):
        take_step(run, scans, progress, batches, groups, names, fabric)
        if progress.step == STEPS:
            break
    gradients = [p.grad.flatten() for p in progress.method.parameters() if p.grad is not None]
    return {
        "gradients": torch.cat(gradients),
        "group weights": progress.dro.weights,
        "losses": torch.tensor([row["loss"] for row in progress.groups if row["count"]]),
        "group losses": progress.dro.average,
        **{name: value for name, value in progress.method.named_buffers() if value.is_floating_point()},
    }


def one_of_two(rank: int, port: int, presets: Path, manifest: Path, out: Path, parts: int) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank), NODE_RANK="0"
    )
    fabric = make_fabric(torch.device("cpu"), 2)
    assert (fabric.world_size, fabric.global_rank) == (2, rank)
    states = {
        (method, objective): state_after(presets, manifest, method, objective, fabric, parts)
        for method, objective in RUNS
    }
    torch.save(states, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rate that moves no weight: Adam's first step has the size of the rate whatever the gradient's, and so would
    turn rounding of a gradient that is 0 into a whole step. Queue, centre, momentum networks and group weights move."""
    path = tmp_path_factory.mktemp("presets") / "presets.yaml"
    return write_tiny_presets(path, steps=5, learning_rate=1e-12, weight_decay=0.0)


@pytest.fixture(scope="module")
def whole(study: Path, presets: Path) -> dict:
    fabric = make_fabric(torch.device("cpu"))
    return {
        (method, objective): state_after(presets, study, method, objective, fabric, 1) for method, objective in RUNS
    }


def assert_equal_runs(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.nan_to_num().abs().max().clamp_min(1))
        torch.testing.assert_close(
            found[name], value, atol=1e-6 * scale, rtol=0, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.slow
def test_two_processes_are_one(study, presets, whole, tmp_path):
    torch.multiprocessing.start_processes(
        one_of_two, (free_port(), presets, study, tmp_path, 1), nprocs=2, start_method="spawn"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, expected in whole.items():
        assert_equal_runs(first[key], expected)
        # To the last bit: both compute the group weights from the same gathered losses.
        assert all(torch.equal(first[key][name], second[key][name]) for name in ("group weights", "gradients"))


def test_micro_batches_are_one_batch(study, presets, whole):
    fabric = make_fabric(torch.device("cpu"))
    for (method, objective), expected in whole.items():
        if method != "moco_v3":
            assert_equal_runs(state_after(presets, study, method, objective, fabric, 2), expected)
    with pytest.raises(InputError, match="version 3 takes its negatives from the batch"):
        state_after(presets, study, "moco_v3", "base", fabric, 2)


def test_shares_are_disjoint_and_gathered_back_in_order():
    class Process:
        world_size, global_rank = 1, 0

    process = Process()
    parts = share([5, 3, 8, 1], process, 2)
    assert parts == [[5, 3], [8, 1]]
    assert gathered(process, [torch.tensor(part) for part in parts]).tolist() == [5, 3, 8, 1]
    process.world_size = 2
    shares = []
    for process.global_rank in (0, 1):
        shares.append(share(list(range(8)), process, 2))
    assert shares == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    with pytest.raises(InputError, match="cannot be divided by 2 devices x 3"):
        share(list(range(8)), process, 3)


@pytest.mark.parametrize(
    ("size", "norm", "parts", "seen"), [(16, "group", 2, 8), (4, "batch", 4, 1), (4, "sync", 2, 2)]
)
def test_batch_norm_that_would_see_parts_is_refused(size, norm, parts, seen, study, tmp_path):
    """Of a head (16 samples and more) or of the encoder; a batch norm of one sample would be the worst."""
    preset = read_preset(write_tiny_presets(tmp_path / "presets.yaml", batch_size=size), "tiny", "byol")
    preset = replace(preset, encoder=replace(preset.encoder, norm=norm))
    with pytest.raises(InputError, match=f"batch norm would see {seen} samples"):
        start(Run("byol", "dro", 0, preset), read_scans(study), make_fabric(torch.device("cpu")), parts=parts)
