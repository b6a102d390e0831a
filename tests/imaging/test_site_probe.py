"""Preprocessing state must not become a site label: one scanner's patients, shipped in four states, made one by the workflow.

Each patient is scanned once, and what the scanner made is shipped as four releases would: with the head around the brain;
stripped; corrected for bias and stripped; from an oblique grid with slices first, stripped, in another unit. The mask is
the one that the workflow would make: a brain cut otherwise is another brain, which no later step can undo. A linear probe
reads the state from intensity statistics of the brain without its tumour.
"""

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurorad.imaging.brain import brain_mask
from neurorad.imaging.registration import resample_mask
from neurorad.imaging.scan import Image, read_image
from neurorad.imaging.volume import Atlas, make_volume
from neurorad.phantom import render
from neurorad.phantom.grids import Grid, rigid
from neurorad.volumes import SEQUENCES
from tests.imaging.conftest import image, sound, study_at

PATIENTS = 6
SPACING = 3.0
SETTINGS = {"spacing": 3, "shape": [56, 68, 56], "n4": True, "brain_mask": {"method": "deepbet"}}
STATES = ("skull", "stripped", "bias corrected", "other grid")
TURN = rigid(np.array([4.0, -6.0, 8.0]), np.array([4.0, -3.0, 2.0]), render.HEAD_CENTRE)


def statistics(voxels: np.ndarray, counted: np.ndarray) -> list[float]:
    """Mean, SD and percentiles of each channel of [4, D, H, W]."""
    rows = [channel[counted] for channel in voxels]
    return [float(v) for x in rows for v in (x.mean(), x.std(), *np.percentile(x, (5, 25, 50, 75, 95)))]


def turned(grid: Grid) -> Grid:
    """The grid lying otherwise in the scanner: slices first, from the left to the right, and oblique."""
    axes = np.zeros((4, 4))
    axes[[2, 0, 1, 3], [0, 1, 2, 3]] = [1, -1, 1, 1]
    axes[0, 3] = grid.shape[0] - 1
    x, y, z = grid.shape
    return Grid((z, x, y), TURN @ grid.affine @ axes)


def shipped(study, scan, state, mask: Image | None, folder, monkeypatch):
    """Files of a patient in one state, its tumour's mask, and the statistics that a reader of the files would see."""
    grid, to_person = render.grid_of(study, scan)
    if state == "other grid":
        monkeypatch.setattr(render, "grid_of", lambda *_: (turned(grid), to_person))
    made = render.on_common_grid(study, scan, head=True)
    monkeypatch.undo()
    images = made.corrected if state == "bias corrected" else made.images
    gain = 7.0 if state == "other grid" else 1.0
    shown = np.ones(made.brain.shape, bool)
    if mask is not None:
        own = Image(np.zeros(made.brain.shape, np.float32), made.grids["t1c"].affine)
        shown = resample_mask(mask.voxels, mask, own, np.eye(4))
    folder.mkdir(parents=True)
    files = {}
    raw = np.stack([np.where(shown, np.maximum(images[name], 1), 0) * gain for name in SEQUENCES]).astype(np.float32)
    for name, voxels in zip(SEQUENCES, raw, strict=True):
        files[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, made.grids[name].affine), files[name])
    tumour = image(made.tumour > 0, made.grids["t1c"].affine)
    return files, tumour, statistics(raw, shown & ~binary_dilation(made.tumour > 0, iterations=2))


def accuracy(features: np.ndarray, states: np.ndarray, patients: np.ndarray) -> float:
    """Share of scans whose state a linear probe tells, each patient by a probe fitted to the others."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    return float((cross_val_predict(probe, features, states, groups=patients, cv=GroupKFold(3)) == states).mean())


def null(features: np.ndarray, states: np.ndarray, patients: np.ndarray, rounds: int = 100) -> np.ndarray:
    """The same with the states of each patient shuffled among its scans."""
    random, found = np.random.default_rng(0), []
    for _ in range(rounds):
        shuffled = states.copy()
        for patient in np.unique(patients):
            shuffled[patients == patient] = random.permutation(states[patients == patient])
        found.append(accuracy(features, shuffled, patients))
    return np.array(found)


@pytest.mark.slow
def test_the_state_in_which_a_site_ships_its_scans_is_read_before_preprocessing_and_not_after(tmp_path, monkeypatch):
    study = study_at(SPACING, 0.3)
    atlas = Atlas.load(SETTINGS["spacing"], tuple(SETTINGS["shape"]))
    rows = []
    for scan in sound(study, "ucsf-pdgm", PATIENTS):
        mask = None
        for state in STATES:
            folder = tmp_path / scan["scan"] / state.replace(" ", "-")
            files, tumour, before = shipped(study, scan, state, mask, folder, monkeypatch)
            if mask is None:
                t1c = read_image(files["t1c"], "t1c")
                mask = Image(brain_mask(t1c, "deepbet", {}, folder, 1, "cpu"), t1c.affine)
            declared = ("skull",) if state == "skull" else ("stripped",)
            volume = make_volume(files, tumour, declared, SETTINGS, atlas, tmp_path)
            counted = (volume.voxels != 0).any(axis=0) & ~binary_dilation(volume.tumour > 0, iterations=2)
            rows.append((scan["patient"], state, before, statistics(volume.voxels, counted)))
    patients, states = (np.array([row[k] for row in rows]) for k in (0, 1))
    found, chance = {}, {}
    for when, place in (("before", 2), ("after", 3)):
        features = np.array([row[place] for row in rows])
        found[when], chance[when] = accuracy(features, states, patients), null(features, states, patients)
        print(f"{when}: {found[when]:.2f}, by chance 95 % below {np.percentile(chance[when], 95):.2f}")
    assert found["before"] > np.percentile(chance["before"], 99)
    assert found["after"] <= np.percentile(chance["after"], 95)
