"""The cost card: arithmetic against networks that are really built, and against the counts of the plan's facts."""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from neurorad import cli
from neurorad.encoder import LAYERS, Architecture, Encoder, parameter_count
from neurorad.pretraining import cost
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
from neurorad.pretraining.cost import probe, probe_samples
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.presets import Preset, read_preset
from neurorad.pretraining.runs import Run, build_method, start
from neurorad.pretraining.scans import read_scans
from neurorad.pretraining.step import Batch, Method
from neurorad.problems import InputError

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


def small_preset(folder: Path, name: str, method: str, size: int, **changes: object) -> Preset:
    """A shipped preset with crops of `size` voxels and batches of two."""
    values = dict(preset_values(name))
    values["training"] = {**values["training"], "batch_size": 2}
    sizes = {"crop": size, "global_crop": size, "local_crop": size // 2}
    values[method] = {k: {**v, "size": sizes[k]} if k in sizes else v for k, v in values[method].items()} | changes
    if changes.get("masking") == "sparse":
        values[method]["block"] = 32
    for other in {"byol", "dino", "mae", "moco"} - {method}:
        del values[other]
    (folder / "p.yaml").write_text(yaml.safe_dump({"small": values}))
    return read_preset(folder / "p.yaml", "small", method)


def random_batch(method: Method) -> Batch:
    """Two samples, at a step at which nothing is frozen any more."""
    views, codes = [torch.randn(2, 4, *[crop.size] * 3) for crop in method.crops], torch.tensor([0, 1])
    return Batch(views, codes, [1, 2], 10_000, codes)


@pytest.mark.parametrize("method", ["byol", "dino", "mae", "moco"])
@pytest.mark.parametrize("name", ["demo", "modern", "paper_code"])
def test_work_of_a_step_is_what_pytorch_counts_in_one(name, method, tmp_path):
    """With the method's momentum networks, decoder and second look; its heads are left out, and are 2 % at most of crops as
    small as these."""
    preset = small_preset(tmp_path, name, method, 32)
    built = build_method(Run(method, "base", 0, preset), 20).train()
    with FlopCounterMode(display=False) as counter:
        built.step(random_batch(built)).loss.sum().backward()
    assert 0.98 < need(preset.values, method).flops / counter.get_total_flops() <= 1


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


@pytest.mark.parametrize(
    ("method", "said"), [("byol", "cannot be divided by --accumulate"), ("dino", "--accumulate 4 (dro")]
)
def test_the_card_says_what_does_not_fit_and_what_may_be_done(method, said, monkeypatch):
    """With batches of 28 BYOL has batch norm in its heads; DINO has none."""
    monkeypatch.setattr(cost, "SUSTAINED", {12: 14e12})
    assert said in cost.card(read_preset(PRESETS, "modern", method), method, (160, 192, 160), "cpu", None)


@pytest.mark.parametrize("shape", ["700 800 900", "134217728 1 1", "1 1 1"])
def test_a_volume_that_nobody_has_is_refused_before_it_is_made(shape, capsys):
    with pytest.raises(SystemExit):
        cli.main(["cost", "--preset", "demo", "--method", "moco", "--shape", *shape.split()])
    assert f"--shape {shape}: no head is of this shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "method", "changes", "low"),
    [("modern", "byol", {}, 0.8), ("modern", "dino", {}, 0.8), ("modern", "moco", {}, 0.8), ("modern", "mae", {}, 0.8)]
    + [("modern", "mae", {"masking": "sparse", "tube": 1.0}, 0.8), ("paper_code", "byol", {}, 1.0)]
    + [("paper_code", "mae", {}, 1.0)],
)
def test_memory_of_a_sample_is_what_autograd_keeps(name, method, changes, low, tmp_path):
    """Bytes saved for the gradient, in float32 here and in half of it on a GPU."""
    preset = small_preset(tmp_path, name, method, 64 if name == "modern" else 32, **changes)
    built = build_method(Run(method, "base", 0, preset), 20).train()
    parameters = {p.untyped_storage().data_ptr() for p in built.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        built.step(random_batch(built))
    kept = sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in parameters)
    # Two samples, and two bytes in place of four.
    assert low <= kept / 4 / need(preset.values, method).sample_bytes < low + 0.2


def test_hours_and_minutes_are_of_the_steps_and_their_work():
    wanted = need(preset_values("modern"), "moco")
    assert wanted.hours(1e13) == pytest.approx(26500 * wanted.flops / 1e13 / 60 / 60)
    assert job_minutes(preset_values("modern"), "moco") == math.ceil(30 + 2 * 60 * wanted.hours(14e12))
    preset = read_preset(PRESETS, "modern", "moco")
    said = cost.card(preset, "moco", (160, 192, 160), "cuda", (200.0, 10, 11e9)).splitlines()[-1]
    # 26,500 steps of 28 samples are 742,000.
    assert f"200 samples/s on cuda (10 steps, peak 11.0 GB), so {742_000 / 200 / 3600:.3g} h" in said
    assert f"{200 * wanted.flops / 28 / 1e9:.0f} GFLOP/s" in said


def test_pace_is_of_the_steps_after_the_first(tmp_path, monkeypatch):
    """A clock that ticks once a look: ten steps of two samples in eleven ticks."""
    ticks = itertools.count()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(ticks)))
    preset = read_preset(write_tiny_presets(tmp_path / "p.yaml"), "tiny", "byol")
    assert probe(preset, "byol", (20, 24, 20), torch.device("cpu"), 1000.0) == (2 * 10 / 11, 10, 0.0)


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


@pytest.mark.parametrize(("gigabytes", "samples"), [(80, 28), (16, 14), (6.5, 1), (1, 0)])
def test_a_gpu_is_measured_with_what_it_holds_of_a_batch(gigabytes, samples, monkeypatch):
    card = SimpleNamespace(total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    preset, shape, gpu = read_preset(PRESETS, "modern", "byol"), (160, 192, 160), torch.device("cuda")
    assert probe_samples(preset, "byol", shape, gpu) == samples
    assert probe_samples(preset, "byol", shape, torch.device("cpu")) == 2
    # A batch has two samples at least, so fewer are not measured, rather than being refused by the run.
    assert samples >= 2 or probe(preset, "byol", shape, gpu, 1.0) is None


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("method", ["byol", "dino", "mae", "moco", "moco_v3"])
def test_the_card_divides_a_step_where_the_run_does(method, norm, size, study, tmp_path):
    """What `pretrain --accumulate` refuses, the card must not recommend."""
    name = method.removesuffix("_v3")
    written = yaml.safe_load(write_tiny_presets(tmp_path / "p.yaml", batch_size=size).read_text())
    written["tiny"]["encoder"] |= {"norm": norm, "stem_stride": 1}
    written["tiny"]["moco"] |= {"version": 3 if method == "moco_v3" else 2}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(written))
    preset = read_preset(tmp_path / "p.yaml", "tiny", name)
    try:
        start(Run(name, "base", 0, preset), read_scans(study), make_fabric(torch.device("cpu")), parts=2)
        divided = True
    except InputError as problem:
        assert "--accumulate 2" in str(problem)
        divided = False
    wanted = need(preset.values, name, (20, 24, 20))
    assert wanted.divisible == divided
    small = (wanted.state_bytes + size * wanted.view_bytes + (size - 1) * wanted.sample_bytes) / 0.8e9
    assert wanted.micro_batches(small) == (2 if divided else None)
