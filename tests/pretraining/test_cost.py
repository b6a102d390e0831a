"""The cost card: arithmetic against networks that are really built, and against the counts of the plan's facts."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neurorad import cli
from neurorad.encoder import LAYERS, Architecture, Encoder, parameter_count
from neurorad.pretraining.arithmetic import (
    BLOCKS,
    PRESETS,
    activation_numbers,
    encoder_parameters,
    forward_flops,
    job_memory_mb,
    job_minutes,
    learning_flops,
    need,
    preset_values,
    views,
)
from neurorad.pretraining.cost import probe_samples
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.runs import Run, build_method

from .conftest import write_tiny_presets


def plain(name, width=64, stem_stride=2, stem_pool=True, presence=False):
    return {"name": name, "width": width, "stem_stride": stem_stride, "stem_pool": stem_pool, "presence": presence}


@pytest.mark.parametrize(
    ("name", "stride", "size", "gigabytes", "gigaflop"),
    [
        ("resnet50", 2, 96, 0.14, 49),
        ("resnet50", 2, 128, 0.33, 116),
        ("resnet50", 1, 96, 1.11, 390),
        ("resnet50", 1, 128, 2.63, 925),
        ("resnet10", 1, 128, 0.69, 561),
    ],
)
def test_golden_counts(name, stride, size, gigabytes, gigaflop):
    architecture = plain(name, stem_stride=stride)
    assert 2 * activation_numbers(architecture, size) / 2**30 == pytest.approx(gigabytes, abs=0.006)
    assert forward_flops(architecture, size) / 1e9 == pytest.approx(gigaflop, abs=0.6)


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("presence", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_arithmetic_equals_the_network(name, pool, presence):
    architecture = plain(name, width=8, stem_stride=1 + pool, stem_pool=pool, presence=presence)
    encoder, flops = Encoder(Architecture(**architecture, norm="group")), [0.0]

    def count(module, inputs, output):
        flops[0] += 2 * module.weight[0].numel() * output.numel()

    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(count)
    encoder.to("meta")(torch.empty(1, 4, 40, 40, 40, device="meta"))
    assert forward_flops(architecture, 40) == flops[0]
    assert encoder_parameters(architecture) == parameter_count(encoder)
    assert BLOCKS[name] == LAYERS[name][1]


@pytest.mark.parametrize("method", ["byol", "dino", "mae", "moco"])
def test_views_that_learn_are_the_methods(method, tmp_path):
    path = write_tiny_presets(tmp_path / "p.yaml")
    preset = read_preset(path, "tiny", method)
    crops = [crop.size for crop in build_method(Run(method, "base", 0, preset), 20).crops]
    assert views(preset.values, method) == (crops[:1] if method == "moco" else crops)


@pytest.mark.parametrize("presence", [False, True])
@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_work_of_learning_is_what_pytorch_counts(name, presence):
    architecture = plain(name, width=8, presence=presence)
    encoder = Encoder(Architecture(**architecture, norm="group")).to("meta")
    with FlopCounterMode(display=False) as counter:
        encoder(torch.empty(1, 4, 40, 40, 40, device="meta")).sum().backward()
    assert learning_flops(architecture, 40) == counter.get_total_flops()


def test_momentum_networks_see_the_large_views_too():
    """BYOL's and DINO's both of them; MoCo's key view is seen by the momentum network alone."""
    demo = preset_values("demo")
    encoder, dino = demo["encoder"], demo["dino"]
    whole, large, local = (
        demo[m][f"{kind}crop"]["size"] for m, kind in (("byol", ""), ("dino", "global_"), ("dino", "local_"))
    )
    learned, watched = learning_flops(encoder, whole), forward_flops(encoder, whole)
    work = {"byol": 2 * (learned + watched), "mae": learned, "moco": learned + watched}
    work["dino"] = 2 * (learning_flops(encoder, large) + forward_flops(encoder, large))
    work["dino"] += dino["local_crops"] * learning_flops(encoder, local)
    for method, each in work.items():
        assert need(demo, method).flops == pytest.approx(demo["training"]["batch_size"] * each), method


def test_version_3_of_moco_costs_what_byol_does(tmp_path):
    modern = preset_values("modern")
    third = {**modern, "moco": {**modern["moco"], "version": 3}}
    assert need(third, "moco").flops == need(modern, "byol").flops > 1.9 * need(modern, "moco").flops
    assert need(third, "moco").sample_bytes == need(modern, "byol").sample_bytes


def test_what_does_not_fit_is_divided_and_jobs_ask_for_what_they_need():
    modern = preset_values("modern")
    wanted = need(modern, "dino")
    assert wanted.micro_batches(80) == 1
    parts = wanted.micro_batches(8)
    assert parts > 1
    assert wanted.batch_size % parts == 0
    assert wanted.device_bytes(parts) < 0.9 * 8e9 < wanted.device_bytes()
    assert wanted.micro_batches(1) is None
    assert job_minutes(modern, "dino") > job_minutes(modern, "mae") > 60
    assert job_memory_mb(modern, [160, 192, 160]) > job_memory_mb(modern, [80, 96, 80]) + 1000
    # 28 volumes of 39 MB are 1.1 GB, in memory for a GPU 2 GiB; four of them, 1 GiB of kept volumes and the process.
    assert job_memory_mb(modern, [160, 192, 160]) == math.ceil((4 * 2**31 + 2**30 + 2.5e9) / 1e8) * 100


def test_arithmetic_imports_no_torch():
    """Snakemake reads it with the workflow, a second's import for every job."""
    code = "import neurorad.pretraining.arithmetic, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_card_is_measured_and_printed(tmp_path, capsys):
    path = write_tiny_presets(tmp_path / "p.yaml")
    cli.main(["cost", "--preset", "tiny", "--method", "moco", "--presets", str(path), "--shape", "20", "24", "20"])
    said = capsys.readouterr().out
    assert "samples/s on cpu (10 steps)" in said
    assert "24 GB card" in said
    assert "samples/s on cpu" in said


@pytest.mark.parametrize(("method", "peak"), [("byol", 16.1), ("dino", 18.8), ("mae", 14.2), ("moco", 11.2)])
def test_memory_is_close_to_what_a_gpu_was_seen_to_need(method, peak):
    """Peak GB of `modern` on an H100 (benchmarks/pretraining.md)."""
    wanted = need(preset_values("modern"), method)
    assert 0.85 < wanted.device_bytes() / 1e9 / peak < 1


@pytest.mark.parametrize(("gigabytes", "samples"), [(80, 28), (16, 14), (1, 1)])
def test_a_gpu_is_measured_with_what_it_holds_of_a_batch(gigabytes, samples, monkeypatch):
    card = SimpleNamespace(total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    preset = read_preset(PRESETS, "modern", "byol")
    assert probe_samples(preset, "byol", (160, 192, 160), torch.device("cuda")) == samples
    assert probe_samples(preset, "byol", (160, 192, 160), torch.device("cpu")) == 2
