"""One run divided over processes and micro-batches is the run undivided (V8 of the verification plan)."""

import contextlib
import os
import socket
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.multiprocessing
from lightning_fabric import Fabric

from neurorad.pretraining import runs
from neurorad.pretraining.devices import gathered, make_fabric, share
from neurorad.pretraining.engine import make_batches, take_step
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Run, start
from neurorad.pretraining.scans import read_scans
from neurorad.problems import InputError

from .conftest import write_tiny_presets

VARIANTS = {"moco_v3": {"version": 3}, "moco_group": {"negatives": "group"}}
RUNS = [(method, objective) for method in ("byol", "dino", "mae", "moco", "moco_v3") for objective in ("base", "dro")]
RUNS += [
    ("byol", "worst"),
    ("mae", "excess"),
    ("moco_group", "dro"),
    *((f"{m}_shipped", "dro") for m in ("byol", "dino")),
]
STEPS = 3


def descent(method: torch.nn.Module, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """In place of AdamW, whose first step has the size of the rate whatever the gradient's, and so would turn rounding of a
    gradient that is 0 into a whole step."""
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=rate, momentum=0.9, weight_decay=weight_decay)


def state_after(presets: Path, manifest: Path, name: str, objective: str, fabric: Fabric, parts: int) -> dict:
    """Weights and gradients, weights of groups, rows, and the method's buffers, after `STEPS` steps in float64, whose rounding
    stays far below what a wrong share, sum or order would do. Of a `_shipped` run, in float32 and with its own optimiser, what
    does not depend on the sign of rounding: losses, gradients and groups of the first step."""
    torch.set_num_threads(1)
    method, shipped = name.split("_")[0], name.endswith("_shipped")
    preset = read_preset(presets, "tiny", method)
    preset = replace(preset, method=replace(preset.method, **VARIANTS.get(name, {})))
    scans = read_scans(manifest)
    reference = dict.fromkeys(scans.group_names, 0.5) if objective == "excess" else None
    run = Run(method, objective, 0, preset, reference)
    built = runs.build_method(run, len(scans.names))
    exact = {"make_optimiser": descent, "build_method": lambda run, scans: built.double()}
    with contextlib.nullcontext() if shipped else mock.patch.multiple(runs, **exact):
        progress = start(run, scans, fabric, parts)
    initial = torch.cat([p.detach().flatten().clone() for p in progress.method.exported.parameters()])
    for batches, groups, names in make_batches(run, scans, progress, fabric):
        if shipped:
            take_step(run, scans, progress, batches, groups, names, fabric)
            break
        precise = [replace(batch, views=[view.double() for view in batch.views]) for batch in batches]
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            take_step(run, scans, progress, precise, groups, names, fabric)
        if progress.step == STEPS:
            break
    learned = torch.cat([p.detach().flatten() for p in progress.method.exported.parameters()])
    first = {
        "gradients": torch.cat([p.grad.flatten() for p in progress.method.parameters() if p.grad is not None]),
        "group weights": progress.dro.weights,
        "losses": torch.tensor([row["loss"] for row in progress.groups if row["count"]]),
        **{f"of groups: {key}": value for key, value in progress.dro.state_dict().items() if key != "updates"},
    }
    if shipped:
        return first
    return {
        **first,
        "learned": learned - initial,
        **{key: value for key, value in progress.method.named_buffers() if value.is_floating_point()},
        **{key: value.detach() for key, value in progress.method.named_parameters()},
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
    path = tmp_path_factory.mktemp("presets") / "presets.yaml"
    return write_tiny_presets(path, steps=5, learning_rate=0.02)


@pytest.fixture(scope="module")
def whole(study: Path, presets: Path) -> dict:
    fabric = make_fabric(torch.device("cpu"))
    return {
        (method, objective): state_after(presets, study, method, objective, fabric, 1) for method, objective in RUNS
    }


def assert_equal_runs(run: str, found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    tolerance = 1e-5 if run.endswith("_shipped") else 1e-10
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=tolerance, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.slow
def test_two_processes_are_one(study, presets, whole, tmp_path):
    torch.multiprocessing.start_processes(
        one_of_two, (free_port(), presets, study, tmp_path, 1), nprocs=2, start_method="spawn"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, expected in whole.items():
        assert_equal_runs(key[0], first[key], expected)
        # To the last bit: both compute the group weights from the same gathered losses.
        assert all(torch.equal(first[key][name], second[key][name]) for name in ("group weights", "gradients"))


def test_micro_batches_are_one_batch(study, presets, whole):
    fabric = make_fabric(torch.device("cpu"))
    for (method, objective), expected in whole.items():
        if method != "moco_v3":
            assert_equal_runs(method, state_after(presets, study, method, objective, fabric, 2), expected)
            assert method.endswith("_shipped") or float(expected["learned"].abs().max()) > 1e-4
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
