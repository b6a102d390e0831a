"""Brain masks of images with a skull.

`deepbet` (Fisch 2024, MIT) carries its weights and runs on a CPU in seconds: the embedded default.
`hd-bet` (Isensee 2019, v2, Apache-2.0) was trained on tumour patients and needs its released weights: a path and
a sha256 in the config, never a download inside a job.
"""

import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurorad.files import sha256
from neurorad.imaging.scan import Image, ScanError
from neurorad.problems import InputError

BRAIN_ML = (700.0, 2200.0)
"""Plausible volume of a brain mask in ml; outside it the scan is quarantined."""


def brain_mask(image: Image, method: dict[str, Any], scratch: Path, threads: int, device: str) -> np.ndarray:
    """Boolean [X, Y, Z] mask of the brain in an image with skull.

    Args:
        image: one sequence, whole head.
        method: `{"method": "deepbet"}` or `{"method": "hd-bet", "weights": FOLDER, "sha256": DIGEST}`.

    Raises:
        ScanError: the method failed, or its mask is empty or no plausible brain.
        InputError: weights missing or of another sha256.
    """
    mask = (
        _deepbet(image, device) if method["method"] == "deepbet" else _hd_bet(image, method, scratch, threads, device)
    )
    check_volume(mask, image.spacing)
    return mask


def check_volume(mask: np.ndarray, spacing: np.ndarray) -> float:
    """Volume of the mask in ml.

    Raises:
        ScanError: it is no plausible brain.
    """
    volume = float(mask.sum() * np.prod(spacing) / 1000)
    if not BRAIN_ML[0] <= volume <= BRAIN_ML[1]:
        raise ScanError(f"brain mask of {volume:.0f} ml is not between {BRAIN_ML[0]:.0f} and {BRAIN_ML[1]:.0f} ml")
    return volume


def _deepbet(image: Image, device: str) -> np.ndarray:
    from deepbet.bet import BrainExtraction

    with warnings.catch_warnings():
        # Its weights are TorchScript, whose loader announces a successor on every call.
        warnings.simplefilter("ignore", FutureWarning)
        extraction = BrainExtraction(no_gpu=device == "cpu")
    try:
        _, mask, _ = extraction.run(nib.Nifti1Image(image.voxels, image.affine))
    except (AssertionError, RuntimeError) as problem:
        raise ScanError(f"deepbet found no brain ({problem})") from problem
    return np.asarray(mask.dataobj) > 0


def check_weights(method: dict[str, Any]) -> Path:
    """The checkpoint HD-BET will load, verified.

    Raises:
        InputError: it is absent or has another sha256.
    """
    checkpoint = Path(method["weights"]) / "fold_all" / "checkpoint_final.pth"
    if not checkpoint.is_file():
        raise InputError(
            f"HD-BET weights: {checkpoint} does not exist; unpack the released `release_2.0.0` folder "
            "(Zenodo record 14445620) and set `imaging: {brain_mask: {weights: FOLDER, sha256: ...}}`"
        )
    if (found := sha256(checkpoint)) != method["sha256"]:
        raise InputError(f"HD-BET weights: {checkpoint} has sha256 {found}, the config says {method['sha256']}")
    return checkpoint


def _hd_bet(image: Image, method: dict[str, Any], scratch: Path, threads: int, device: str) -> np.ndarray:
    weights = check_weights(method).parent.parent
    # HD-BET looks for weights only below $HOME and writes fixed file names beside its output:
    # each scan gets a home and a folder of its own.
    home = scratch / "hd-bet"
    (home / "hd-bet_params").mkdir(parents=True)
    (home / "hd-bet_params" / "release_2.0.0").symlink_to(weights.resolve(), target_is_directory=True)
    nib.save(nib.Nifti1Image(image.voxels, image.affine), home / "image.nii.gz")
    command = ["hd-bet", "-i", str(home / "image.nii.gz"), "-o", str(home / "brain.nii.gz"), "-device", device]
    run = subprocess.run(
        [*command, "--disable_tta", "--save_bet_mask", "--no_bet_image"],
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    made = home / "brain_bet.nii.gz"
    if run.returncode or not made.is_file():
        last = (run.stderr.strip().splitlines() or ["no message; is /dev/shm large enough?"])[-1]
        raise ScanError(f"hd-bet made no mask (exit {run.returncode}: {last[:120]})")
    return np.asarray(nib.load(made).dataobj) > 0
