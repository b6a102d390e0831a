"""Preprocessing state must not become a site label: one scanner's patients, shipped in four states, made one by the workflow.

Each patient is rendered four times, by the same scanner with the same noise, as four releases would ship it: as scanned and
stripped; corrected for bias; with the head around the brain; on another atlas' grid, turned and in another unit. A linear
probe reads the state from intensity statistics of the brain without its tumour. Patients, not scans, are split.
"""

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurorad.imaging.scan import Image
from neurorad.imaging.volume import Atlas, make_volume
from neurorad.phantom.render import on_common_grid
from neurorad.volumes import SEQUENCES
from tests.imaging.conftest import sound, study_at

PATIENTS = 8
SETTINGS = {"spacing": 4, "shape": [40, 48, 40], "n4": True, "brain_mask": {"method": "deepbet"}}
STATES = ("stripped", "bias corrected", "skull", "other grid")


def statistics(voxels: np.ndarray, counted: np.ndarray) -> list[float]:
    """Mean, SD and percentiles of each channel of [4, D, H, W]."""
    rows = [channel[counted] for channel in voxels]
    return [float(v) for x in rows for v in (x.mean(), x.std(), *np.percentile(x, (5, 25, 50, 75, 95)))]


def shipped(study, scan, state, folder):
    """Files of a patient in one state, with the tumour's mask and the statistics of what a reader would see of it."""
    there = {**scan, "grid": "mni152-182"} if state == "other grid" else scan
    made = on_common_grid(study, there, head=state == "skull")
    images = made.corrected if state == "bias corrected" else made.images
    gain = 7 if state == "other grid" else 1
    folder.mkdir(parents=True)
    files = {}
    for name in SEQUENCES:
        files[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.minimum(images[name] * float(gain), 30000), made.grids[name].affine), files[name])
    raw = np.stack([images[name] * float(gain) for name in SEQUENCES])
    counted = (raw[1] != 0) & ~binary_dilation(made.tumour > 0, iterations=2)
    canonical = nib.as_closest_canonical(
        nib.Nifti1Image((made.tumour > 0).astype(np.float32), made.grids["t1c"].affine)
    )
    tumour = Image(canonical.get_fdata(dtype=np.float32), canonical.affine)
    return files, tumour, statistics(raw, counted)


def accuracy(features: np.ndarray, states: np.ndarray, patients: np.ndarray) -> float:
    """Share of scans whose state a linear probe tells, each patient by a probe fitted to the others."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    return float((cross_val_predict(probe, features, states, groups=patients, cv=GroupKFold(4)) == states).mean())


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
def test_the_state_in_which_a_site_ships_its_scans_is_read_before_preprocessing_and_not_after(tmp_path):
    study = study_at(4.0, 0.3)
    atlas = Atlas.load(SETTINGS["spacing"], tuple(SETTINGS["shape"]))
    rows = []
    for scan in sound(study, "ucsf-pdgm", PATIENTS):
        for state in STATES:
            files, tumour, before = shipped(study, scan, state, tmp_path / scan["scan"] / state.replace(" ", "-"))
            declared = ("skull",) if state == "skull" else ("stripped",)
            volume = make_volume(files, tumour, declared, SETTINGS, atlas, tmp_path)
            counted = (volume.voxels != 0).any(axis=0) & ~binary_dilation(volume.tumour > 0, iterations=2)
            rows.append((scan["patient"], state, before, statistics(volume.voxels, counted)))
    patients, states = (np.array([row[k] for row in rows]) for k in (0, 1))
    found, chance = {}, {}
    for when, place in (("before", 2), ("after", 3)):
        features = np.array([row[place] for row in rows])
        found[when] = accuracy(features, states, patients)
        chance[when] = null(features, states, patients)
        print(
            f"{when}: {found[when]:.2f} of states told, by chance {chance[when].mean():.2f}, 95 % below {np.percentile(chance[when], 95):.2f}"
        )
        for state in STATES:
            print("  ", state, np.array([row[place] for row in rows if row[1] == state]).mean(axis=0).round(2)[:14])
    assert found["before"] > np.percentile(chance["before"], 99)
    assert found["after"] <= np.percentile(chance["after"], 95)
