"""Raw scans to volumes: real ones against what others made of them, phantoms against what was planted."""

import hashlib
import os

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_fill_holes, map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from neurorad.imaging import volume as standardising
from neurorad.imaging.quality import displacement, similarity
from neurorad.imaging.registration import CLOSE_BY, CLOSE_MM, align, motion, resample_mask, working_copy
from neurorad.imaging.scan import Image, ScanError, read_image
from neurorad.imaging.volume import Atlas, make_volume
from neurorad.phantom.render import SEQUENCES
from neurorad.problems import InputError

SETTINGS = {"spacing": 3, "shape": [48, 64, 48], "n4": True, "brain_mask": {"method": "deepbet"}}
NAMES = {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load(SETTINGS["spacing"], tuple(SETTINGS["shape"]))


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def sri24(shared):
    file = shared / "atlas" / "sri24_grid_t1_brain.nii.gz"
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def brats(shared, patient="BraTS2021_01476"):
    names = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
    return {k: shared / "brats2021" / patient / f"{patient}_{v}.nii.gz" for k, v in names.items()}


def correlation(one, other):
    return float(np.corrcoef(one, other)[0, 1])


def at(image, transform, points):
    """Intensities of an image at points [n, 4] of the frame that `transform` leads from, by linear interpolation."""
    voxels = (points @ (np.linalg.inv(image.affine) @ transform).T)[:, :3].T
    return map_coordinates(image.voxels, voxels, order=1)


def away_from_ends(image, transform, points, slices=1.5):
    """Boolean [points]: those further than so many slices from the first and the last of the image."""
    across = int(np.argmax(image.spacing))
    along = (np.linalg.inv(image.affine) @ transform @ points.T)[across]
    return (along > slices) & (along < image.voxels.shape[across] - 1 - slices)


def nearby(parameters, centre):
    """[4, 4] rotation about `centre` by the vector of the first three (degrees), and shift by the last three (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[:3], degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + parameters[3:]
    return matrix


@pytest.mark.slow
def test_a_raw_patient_agrees_with_what_others_published(shared, tmp_path):
    """Also how far it could: the upper bound is the best correlation that any rigid placement of our image reaches.

    The published t1n, t2w and t2f fade to 0 close to where the field of view ends (t2f to a fifth of its tissue in the
    topmost 5 mm of the brain), as they were interpolated onto t1c's slices first; ours do not. Without what lies within one
    and a half slices of an end (1.5 to 2.6 % of the brain) all but t2w reach 0.95. Theirs lie 0.7 (t2w) and 0.5 mm (t2f) from
    ours, as they were registered to t1c by other software; t1c decides between the two, by mutual information.
    """
    source = sri24(shared)
    atlas = Atlas.load(1, (240, 240, 155), source)
    raw, reference = shared / "raw" / "TCGA-FG-6692", shared / "raw" / "TCGA-FG-6692_reference"
    files = {name: raw / f"TCGA-FG-6692_{spelled}.nii.gz" for name, spelled in NAMES.items()}
    settings = SETTINGS | {"spacing": 1, "shape": [240, 240, 155], "atlas": source, "n4": False}
    volume = make_volume(files, None, ("skull",), settings, atlas, tmp_path, 2)
    theirs = {n: read_image(reference / "sri24" / f"TCGA-FG-6692_{s}.nii.gz", n) for n, s in NAMES.items()}
    assert np.allclose(theirs["t1c"].affine, atlas.target.affine)
    brain, other = (volume.voxels != 0).any(axis=0), theirs["t1c"].voxels != 0
    direct = dice(brain, other)
    # They aligned to another image of the same atlas: its pose differs. The rest is compared in their pose.
    ours = Image(
        np.where(brain, volume.voxels[1] - volume.voxels[1].min() + 1, 0).astype(np.float32), atlas.target.affine
    )
    fixed, moving = working_copy(theirs["t1c"]), working_copy(ours)
    pose = align(fixed, moving, tmp_path)
    pose = align(fixed, moving, tmp_path, inside=fixed.voxels > 0, start=pose, levels=CLOSE_BY)
    moved = resample_mask(brain, atlas.target, theirs["t1c"], pose)
    seen = np.argwhere(moved & other)[::60]
    points = np.c_[seen, np.ones(len(seen))] @ theirs["t1c"].affine.T
    centre = points.mean(axis=0)[:3]
    images = {name: read_image(files[name], name) for name in SEQUENCES}
    to_own = {name: np.array(volume.transforms[name]) @ pose for name in SEQUENCES}
    t1c = at(images["t1c"], to_own["t1c"], points)
    close = np.argwhere(binary_dilation(moved & other, iterations=round(CLOSE_MM)))[::60]
    rim = np.c_[close, np.ones(len(close))] @ theirs["t1c"].affine.T
    t1c_rim = at(images["t1c"], to_own["t1c"], rim)
    found, inner = {}, {}
    for name in SEQUENCES:
        published = theirs[name].voxels[tuple(seen.T)]
        whole = away_from_ends(images[name], to_own[name], points) & away_from_ends(
            images["t1c"], to_own["t1c"], points
        )

        def placed(parameters, name=name):
            return at(images[name], to_own[name] @ nearby(parameters, centre), points)

        best = minimize(
            lambda parameters, published=published, placed=placed: -correlation(placed(parameters), published),
            np.zeros(6),
            method="Powell",
            options={"maxfev": 1500, "xtol": 0.005, "ftol": 1e-6},
        ).x
        moves = np.zeros(6), best
        found[name] = tuple(correlation(placed(move), published) for move in moves)
        inner[name] = tuple(correlation(placed(move)[whole], published[whole]) for move in moves)
        assert whole.mean() > 0.97
        apart = displacement(nearby(best, centre), centre)
        alike = [similarity(t1c, placed(move)) for move in moves]
        with_rim = [similarity(t1c_rim, at(images[name], to_own[name] @ nearby(m, centre), rim)) for m in moves]
        native = read_image(reference / "hdbet_native" / f"TCGA-FG-6692_{NAMES[name]}_hdbet.nii.gz", name)
        hd_bet = resample_mask(native.voxels != 0, native, atlas.target, np.array(volume.transforms[name]))
        print(
            f"{name}: correlation {found[name][0]:.3f}, at best {found[name][1]:.3f} at {apart:.2f} mm; away from the ends of "
            f"the fields of view ({whole.mean():.3f}) {inner[name][0]:.3f}, there {inner[name][1]:.3f}; mutual information "
            f"with t1c {alike[0]:.4f}, there {alike[1]:.4f}, with 6 mm around the brain {with_rim[0]:.4f}, there "
            f"{with_rim[1]:.4f}; Dice with HD-BET's native mask {dice(hd_bet, brain):.3f}"
        )
        assert dice(hd_bet, brain) > 0.95
        if name != "t1c":
            # Where ours lies elsewhere than theirs, it fits t1c at least as well: with what is close to the brain, as inside
            # it alone mutual information has its optimum beside planted motions (`CLOSE_MM`).
            assert with_rim[0] > with_rim[1] - 0.0005 and apart < 1.0
    print(
        f"Dice with the published brain {direct:.3f} as it is, {dice(moved, other):.3f} in its pose ({motion(pose)[0]:.1f} deg)"
    )
    assert direct > 0.95
    assert dice(moved, other) > 0.96
    assert found["t1n"][0] > 0.95 and found["t1c"][0] > 0.98
    # Measured 0.914 and 0.891, of 0.950 and 0.908 that any rigid placement of ours reaches.
    assert found["t2w"][0] > 0.90 and found["t2f"][0] > 0.88
    assert found["t2w"][1] < 0.96 and found["t2f"][1] < 0.93
    # Measured 0.981, 0.991, 0.940 and 0.952, of 0.985, 0.992, 0.975 and 0.967.
    assert inner["t1n"][0] > 0.97 and inner["t1c"][0] > 0.98 and inner["t2w"][0] > 0.93 and inner["t2f"][0] > 0.945
    assert inner["t2w"][1] > 0.96 and inner["t2f"][1] > 0.955


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), [("t1n", "t2w"), ("t1c", "t2w"), ("t2w", "t2f"), ("t1n", "t2f")])
def test_swapped_images_of_a_real_patient_are_refused(shared, tmp_path, atlas, one, other):
    files = brats(shared)
    swapped = files | {one: files[other], other: files[one]}
    settings = SETTINGS | {"n4": False}
    with pytest.raises(ScanError, match="may be swapped"):
        make_volume(swapped, None, ("stripped",), settings, atlas, tmp_path)


def test_a_stripped_scan_is_never_stripped_again(shared, tmp_path, atlas, monkeypatch):
    monkeypatch.setattr(standardising, "brain_mask", lambda *_: pytest.fail("stripped twice"))
    volume = make_volume(brats(shared), None, ("stripped",), SETTINGS | {"n4": False}, atlas, tmp_path)
    assert volume.brain == {"method": "as released"}
    for channel in volume.voxels:
        inside = channel[(volume.voxels != 0).any(axis=0)]
        assert abs(inside.mean()) < 1e-2 and abs(inside.std() - 1) < 1e-2


def test_an_atlas_of_ones_own_is_checked_and_gives_its_own_grid(shared, tmp_path):
    source = sri24(shared)
    atlas = Atlas.load(1, (240, 240, 155), source)
    assert np.array_equal(atlas.target.affine[:3, 3], [-239, 0, 0])
    assert Atlas.load(3, (48, 64, 48), source).target.voxels.shape == (48, 64, 48)
    with pytest.raises(InputError, match="has sha256"):
        Atlas.load(1, (240, 240, 155), source | {"sha256": "0" * 64})
    with pytest.raises(InputError, match="no such file"):
        Atlas.load(1, (240, 240, 155), source | {"file": str(tmp_path / "none.nii.gz")})
    head = shared / "raw" / "TCGA-FG-6692" / "TCGA-FG-6692_T1.nii.gz"
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="more than a brain"):
        Atlas.load(3, (48, 64, 48), {"file": str(head), "sha256": digest})


def test_methods_are_tried_in_turn_and_the_card_says_which(monkeypatch, tmp_path, atlas):
    head = Image(atlas.target.voxels + 1, atlas.target.affine)
    brain = atlas.target.voxels > 0

    def mask(image, method, *_):
        if method == "hd-bet":
            raise ScanError("hd-bet failed (RuntimeError: out of memory)")
        return brain

    monkeypatch.setattr(standardising, "brain_mask", mask)
    settings = SETTINGS | {"brain_mask": {"method": "hd-bet", "fallback": ["deepbet"]}}
    found = standardising._find_brain({"t1c": head}, "skull", settings, atlas, tmp_path, 1, "cpu")
    assert found.card == {"method": "deepbet", "failed": {"hd-bet": "hd-bet failed (RuntimeError: out of memory)"}}
    with pytest.raises(ScanError, match="out of memory"):
        only = SETTINGS | {"brain_mask": {"method": "hd-bet"}}
        standardising._find_brain({"t1c": head}, "skull", only, atlas, tmp_path, 1, "cpu")


def test_a_mask_that_is_no_brain_of_the_atlas_is_refused(tmp_path, atlas):
    """A slab of a plausible volume: size and place are taken out before it is compared with the atlas."""
    slab = np.zeros(atlas.target.voxels.shape, bool)
    slab[4:44, 4:60, 20:33] = True
    head = Image(np.where(slab, 100 + np.indices(slab.shape).sum(axis=0), 1).astype(np.float32), atlas.target.affine)
    assert 700 < slab.sum() * 27 / 1000 < 2200
    with pytest.raises(ScanError, match="brain overlaps the atlas with Dice"):
        standardising._fit(head, slab, atlas, tmp_path)


def test_a_sequence_that_lies_elsewhere_or_says_nothing_is_refused_by_name(atlas):
    brain = atlas.target.voxels > 0
    half = atlas.target.voxels.copy()
    half[:, :, half.shape[2] // 2 :] = 0
    with pytest.raises(ScanError, match=r"t2w covers only \d\d% of the brain"):
        standardising._normalise(Image(half, atlas.target.affine), brain, False, "t2w", {})
    flat = Image(np.where(brain, 5, 0).astype(np.float32), atlas.target.affine)
    with pytest.raises(ScanError, match="t2f is constant inside the brain"):
        standardising._normalise(flat, brain, False, "t2f", {})


def test_synthstrip_that_fails_falls_through_to_the_next_method(tmp_path, atlas, monkeypatch):
    """The command itself runs and dies: what it said stands in the card, and deepbet makes the mask."""
    command = tmp_path / "mri_synthstrip"
    command.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    head = Image(atlas.target.voxels + 1, atlas.target.affine)
    brain = binary_fill_holes(atlas.target.voxels > 0.3 * atlas.target.voxels.max())
    monkeypatch.setattr("neurorad.imaging.brain._deepbet", lambda *_: brain)
    settings = SETTINGS | {"brain_mask": {"method": "synthstrip", "fallback": ["deepbet"]}}
    found = standardising._find_brain({"t1c": head}, "skull", settings, atlas, tmp_path, 1, "cpu")
    failed = {"synthstrip": "synthstrip made no mask (exit 9: out of memory)"}
    assert found.card == {"method": "deepbet", "failed": failed}
    assert np.array_equal(found.mask, brain)
