"""On a GPU (`pytest -m gpu`): the same views and features as on the CPU, and a host that never waits for the device within a step."""

import pandas as pd
import pytest
import torch

from neurorad.cli import main
from neurorad.encoder import Architecture, initialised, load_encoder
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.engine import make_batches, take_step
from neurorad.pretraining.geometry import Crop, Geometry, brain_share
from neurorad.pretraining.intensity import Intensity
from neurorad.pretraining.runs import start
from neurorad.pretraining.scans import read_scans
from neurorad.pretraining.views import make_views

from .conftest import write_tiny_presets
from .test_engine import contents, finish, make_run, stop_at

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

METHODS = ("byol", "dino", "mae", "moco")


@pytest.fixture(scope="module")
def gpu():
    return make_fabric(torch.device("cuda"))


def test_views_are_those_of_the_cpu(study):
    """But for the noise, whose numbers the device draws."""
    scans = read_scans(study)
    volumes = torch.stack([torch.from_numpy(scans.volume(scan)) for scan in range(8)])
    share, crops = brain_share(volumes), [Crop(16, (0.5, 1.0)), Crop(8, (0.25, 0.5))]
    geometry = Geometry(flip=0.5, rotation=10.0, stretch=0.1)
    intensity = Intensity(
        probability=0.7, gamma=1.5, brightness=0.1, contrast=1.3, bias=0.15, blur=1.0, low_resolution=2.0, gibbs=0.3,
        noise=0.0, sequence_dropout=0.3,
    )  # fmt: skip
    here = make_views(volumes, share, range(8), crops, geometry, intensity)
    there = make_views(volumes.cuda(), share, range(8), crops, geometry, intensity)
    for ours, theirs in zip(here, there, strict=True):
        # A voxel whose coverage is a half to within rounding is brain here and none there.
        wrong = (theirs.cpu() - ours).abs() > 1e-3
        assert ours.std() > 0.4
        assert float(wrong.float().mean()) < 1e-3


@pytest.mark.parametrize("objective", ["base", "dro"])
@pytest.mark.parametrize("method", METHODS)
def test_the_host_never_waits_within_a_step(method, objective, study, tmp_path, gpu):
    presets = write_tiny_presets(tmp_path / "presets.yaml", log_every=10**6)
    run, scans = make_run(presets, method, objective), read_scans(study)
    progress = start(run, scans, gpu)
    batches = make_batches(run, scans, progress, gpu)
    # The first step tells of itself at once.
    take_step(run, scans, progress, *next(batches), gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            told = take_step(run, scans, progress, *next(batches), gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told.check()


@pytest.mark.parametrize("objective", ["base", "dro"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_equals_uninterrupted(method, objective, study, tmp_path, gpu, monkeypatch):
    presets = write_tiny_presets(tmp_path / "presets.yaml")
    run, scans = make_run(presets, method, objective), read_scans(study)
    finish(run, scans, tmp_path / "whole", gpu)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SystemExit):
            finish(run, scans, tmp_path / "parts", gpu)
    torch.manual_seed(12345)
    finish(run, scans, tmp_path / "parts", gpu)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.skipif(torch.__version__ < "2.14", reason="PyTorch before 2.14 has no deterministic gradient of MaxPool3d")
def test_a_stem_with_pooling_has_the_same_gradient_every_time():
    encoder = initialised(
        Architecture("resnet10", width=16, stem_stride=2, stem_pool=True, norm="group"), seed=0
    ).cuda()
    volumes = torch.randn(4, 4, 64, 64, 64, generator=torch.Generator().manual_seed(0)).cuda()
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        found = []
        for _ in range(5):
            encoder.zero_grad()
            encoder(volumes).square().sum().backward()
            found.append(encoder.network.conv1.weight.grad.clone())
    finally:
        torch.set_deterministic_debug_mode(before)
    assert found[0].abs().max() > 0
    assert all(torch.equal(again, found[0]) for again in found[1:])


def test_the_command_trains_there_and_its_encoder_gives_the_features_of_the_cpu(study, tmp_path):
    presets, out = write_tiny_presets(tmp_path / "presets.yaml"), tmp_path / "encoder"
    command = ["pretrain", "--manifest", str(study), "--method", "moco", "--objective", "dro", "--seed", "0"]
    main([*command, "--preset", "tiny", "--presets", str(presets), "--device", "cuda", "--out", str(out)])
    assert torch.cuda.max_memory_allocated() > 0
    assert pd.read_csv(out / "history.csv")["loss"].notna().all()
    encoder, _ = load_encoder(out)
    volumes = torch.from_numpy(read_scans(study).volume(0))[None].float()
    with torch.no_grad():
        here, there = encoder.eval()(volumes), encoder.cuda()(volumes.cuda()).cpu()
    torch.testing.assert_close(there, here, atol=1e-3 * float(here.abs().max()), rtol=0)
