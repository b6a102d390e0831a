"""What was planted in a scan of every site is found again: poses, motions, receive fields, brains. The tolerances are in a table."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurorad.imaging.quality import displacement
from neurorad.imaging.registration import motion as size_of
from neurorad.imaging.registration import n4, resample, resample_inside, resample_mask, without_scale
from neurorad.imaging.scan import Image
from neurorad.imaging.volume import Atlas, _find_brain, make_volume
from neurorad.phantom import render
from neurorad.phantom.grids import rigid
from neurorad.phantom.render import Images, Study
from neurorad.volumes import SEQUENCES
from tests.imaging.conftest import image, sound, study_at

SPACING = 2.0
SETTINGS = {"spacing": 2, "shape": [80, 96, 80], "n4": False, "brain_mask": {"method": "deepbet"}}
MOVING = ("t1n", "t2w", "t2f")
POSE = rigid(np.array([7.0, -5.0, 9.0]), np.array([6.0, -8.0, 5.0]), np.zeros(3))
PLANTED = {
    "t1n": rigid(np.array([3.0, -2.0, 2.0]), np.array([3.0, -2.0, 2.0]), render.HEAD_CENTRE),
    "t2w": rigid(np.array([-4.0, 1.0, 3.0]), np.array([-2.0, 3.0, 4.0]), render.HEAD_CENTRE),
    "t2f": rigid(np.array([2.0, 4.0, -3.0]), np.array([1.0, -4.0, -3.0]), render.HEAD_CENTRE),
}
"""RAS mm of a sequence to RAS mm of t1c, for sites that ship their sequences on one grid."""


def rendered(study: Study, scan: dict) -> Images:
    if render.is_native(scan):
        return render.on_scanner_grids(study, scan, to_anterior=True)
    return render.on_common_grid(study, scan, head=False)


def without_bias(study: Study) -> Study:
    scanners = {name: {**entry, "bias": 0.0} for name, entry in study.recipe["scanners"].items()}
    return replace(study, recipe={**study.recipe, "scanners": scanners})


def scanned(study: Study, scan: dict) -> tuple[dict[str, Image], Image, dict[str, np.ndarray]]:
    """The images of a scan, its brain on the grid of t1c, and [4, 4] from t1c mm to each sequence's.

    A scan on its scanner's grids moved by itself. On one that is shipped on a common grid motion is planted: each sequence
    is resampled onto slices as thick as its site's protocol has them.
    """
    made = rendered(study, scan)
    images = {name: image(made.images[name], made.grids[name].affine) for name in SEQUENCES}
    brain = image(made.brain, made.grids["t1c"].affine)
    if render.is_native(scan):
        return images, brain, {name: np.linalg.inv(render.motion(study, scan, name)) for name in MOVING}
    protocol = render.protocol_of(study, scan)
    for name in MOVING:
        source = images[name]
        # Every site here cuts axial slices but the 3D ones, whose voxels the phantom's spacing exceeds anyway.
        step = np.array([1, 1, max(protocol[name]["slice"] / SPACING, 1)])
        affine = source.affine @ np.diag([*step, 1])
        affine[:3, 3] += source.affine[:3, :3] @ (step - 1) / 2
        shape = np.ceil(np.array(source.voxels.shape) / step).astype(int)
        images[name] = resample(source, Image(np.zeros(shape, np.float32), affine), PLANTED[name])
    return images, brain, {name: np.linalg.inv(PLANTED[name]) for name in MOVING}


def save(images: dict[str, Image], folder: Path, pose: np.ndarray) -> dict[str, Path]:
    """NIfTI files of the scan, lying elsewhere in the scanner by `pose`."""
    folder.mkdir()
    files = {name: folder / f"{name}.nii.gz" for name in images}
    for name, path in files.items():
        nib.save(nib.Nifti1Image(np.round(images[name].voxels).astype(np.int16), pose @ images[name].affine), path)
    return files


def middle(brain: Image) -> np.ndarray:
    return brain.affine[:3, :3] @ np.argwhere(brain.voxels > 0).mean(axis=0) + brain.affine[:3, 3]


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.load(SETTINGS["spacing"], tuple(SETTINGS["shape"]))


TOLERANCES = {
    #                 motion mm  deg  pose mm  deg  Dice  bias left
    "brats-gli-pre": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "brats-gli-post": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "brats-men": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "brats-met": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "brats-ped": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "lumiere": (0.5, 0.5, 2.5, 2.5, 0.97, 0.4),
    "mu-glioma-post": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "ucsf-pdgm": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "upenn-gbm": (0.5, 0.5, 2.5, 2.5, 0.99, 0.4),
    "cuimc": (0.5, 0.5, 2.5, 2.5, 0.97, 0.4),
}
"""Root mean square over a head in mm and degrees, of a sequence to t1c and of the scan to the atlas; Dice of the brain on
the store's grid; SD of what N4 leaves of the log receive field over the SD of what was planted.

Measured: motion up to 0.41 mm and 0.30 degrees; Dice 1.000 and, with heads, 0.983. The way to the atlas still depends on how the
head lay, by 0.1 to 2.1 mm and 2.2 degrees: the search ends at 4 mm. A last level inside the atlas' brain halves that on phantoms and was
given up: on real patients the brain's outline then no longer holds the scale (Dice with the atlas 0.93 to 0.85)."""


def bias_left(
    study: Study, scan: dict, image_of: Image, own: np.ndarray, mask: np.ndarray, target: Image, pose: np.ndarray
) -> float:
    """SD inside the brain of what N4 leaves of the planted log receive field, over the SD of the field.

    The same scan rendered without a field shows what was planted, and what N4 takes for bias that is anatomy.
    """
    plain_study = without_bias(study)
    made = rendered(plain_study, scan)
    plain = image(made.images["t1c"], made.grids["t1c"].affine)
    before, fields = [], []
    for one in (image_of, plain):
        there = resample_inside(one, own, target, pose)
        brain = Image(np.where(mask, np.maximum(there.voxels, 0), 0).astype(np.float32), target.affine)
        corrected = n4(brain, mask)
        before.append(brain.voxels)
        fields.append(np.log(np.maximum(brain.voxels, 1e-6) / np.maximum(corrected.voxels, 1e-6)))
    seen = mask & (before[0] > 0.4 * np.median(before[0][mask])) & (before[1] > 0.4 * np.median(before[1][mask]))
    planted = np.log(before[0][seen] / before[1][seen])
    found = (fields[0] - fields[1])[seen]
    return float((found - planted).std() / planted.std())


@pytest.mark.slow
@pytest.mark.parametrize("cohort", TOLERANCES)
def test_what_was_planted_at_a_site_is_recovered(tmp_path, atlas, cohort):
    motion_mm, motion_deg, pose_mm, pose_deg, overlap, left = TOLERANCES[cohort]
    study = study_at(SPACING)
    scan = sound(study, cohort, 1)[0]
    images, brain, truth = scanned(study, scan)
    state = "skull" if render.is_native(scan) else "stripped"
    volume = make_volume(save(images, tmp_path / "lying", np.eye(4)), None, (state,), SETTINGS, atlas, tmp_path)
    to_atlas = np.array(volume.transforms["t1c"])
    centre = middle(brain)

    wrong = {n: np.array(volume.transforms[n]) @ np.linalg.inv(truth[n] @ to_atlas) for n in MOVING}
    moved = {n: (displacement(matrix, truth[n][:3] @ [*centre, 1]), size_of(matrix)[0]) for n, matrix in wrong.items()}

    # The person's own shape has no true place in the atlas; but how the same head lies in the scanner must not matter.
    turned = {"t1c": Image(images["t1c"].voxels, POSE @ images["t1c"].affine)}
    again = without_scale(_find_brain(turned, state, SETTINGS, atlas, tmp_path, 1, "cpu").fitted, atlas.template)
    matrix = np.linalg.inv(POSE) @ again @ np.linalg.inv(to_atlas)
    posed = displacement(matrix, centre), size_of(matrix)[0]

    there = resample_mask(brain.voxels > 0, brain, atlas.target, to_atlas)
    mask = (volume.voxels != 0).any(axis=0)
    overlapping = 2 * (mask & there).sum() / (mask.sum() + there.sum())
    remaining = bias_left(study, scan, images["t1c"], brain.voxels > 0, mask, atlas.target, to_atlas)
    print(
        f"{cohort} ({render.scanner_of(study, scan)[0]}): "
        + ", ".join(f"{n} {mm:.2f} mm {deg:.2f} deg" for n, (mm, deg) in moved.items())
        + f"; pose {posed[0]:.2f} mm {posed[1]:.2f} deg; Dice {overlapping:.3f}; bias left {remaining:.2f}"
    )
    assert max(mm for mm, _ in moved.values()) < motion_mm and max(deg for _, deg in moved.values()) < motion_deg
    assert posed[0] < pose_mm and posed[1] < pose_deg
    assert overlapping > overlap
    assert remaining < left
