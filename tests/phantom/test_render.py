"""Rendered voxels show the planned physics: contrast, receive field, noise, slice thickness, pose and motion."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import affine_transform, binary_erosion

from neurorad.cohorts.inventory import grid_class
from neurorad.imaging.scan import Image, detected_state
from neurorad.phantom import render
from neurorad.phantom.grids import SRI24_TO_MNI, Grid, rigid
from neurorad.phantom.plan import plan
from neurorad.phantom.render import noiseless, on_common_grid, on_scanner_grids, scanner_of, tissue
from neurorad.phantom.signal import TISSUES
from neurorad.volumes import SEQUENCES


def tissue_of(study, scan, head=False):
    grid, to_person = render.grid_of(study, scan)
    return tissue(study, scan, grid, to_person, head)


def where(found, name, share=0.9):
    """Voxels of the whole grid that a tissue fills."""
    whole = np.zeros(found.grid.shape, bool)
    whole[found.box] = found.fractions[TISSUES.index(name)] > share
    return whole


def litres(found) -> float:
    return float(found.brain.sum() * np.prod(found.grid.spacing) / 1e6)


@pytest.fixture(scope="module")
def glioma(study, scan_of, with_latents):
    """A UCSF scan with a large lesion that has a core and a rim: study, scan, tissue and images."""
    scan = scan_of("ucsf-pdgm")
    changed = with_latents(study, scan, size=1.5, necrosis=1.0, enhancing=1.0, oedema=1.0, texture=-4.0)
    return changed, scan, tissue_of(changed, scan), on_common_grid(changed, scan, head=False)


def test_fractions_fill_the_brain_and_nothing_else(glioma):
    _, _, found, _ = glioma
    assert found.fractions.min() >= 0
    total = found.fractions.sum(0)
    assert total.max() < 1.03
    assert ((total > 0.97) | (total < 0.03)).mean() > 0.6
    faces = [total[0], total[-1], total[:, 0], total[:, -1], total[:, :, -1]]
    assert max(face.max() for face in faces) < 0.5, "the box cuts no brain off"


def test_a_stripped_scan_is_exactly_zero_outside_the_brain_and_positive_inside(glioma):
    _, _, _, images = glioma
    for sequence in SEQUENCES:
        for voxels in (images.images[sequence], images.corrected[sequence]):
            assert voxels.dtype == np.int16
            assert (voxels[~images.brain] == 0).all()
            assert (voxels[images.brain] >= 1).all()
    assert (images.tumour[~images.brain] == 0).all()
    assert (images.tumour > 0).sum() > 100
    np.testing.assert_array_equal(images.brain, glioma[2].brain > 0.5)


def test_tissues_have_the_contrast_of_each_sequence(glioma):
    _, _, found, images = glioma
    shown = {
        sequence: {
            name: np.median(voxels[where(found, name, share) & images.brain])
            for name, share in (("wm", 0.9), ("gm", 0.9), ("csf", 0.8), ("oedema", 0.7), ("enhancing", 0.7))
        }
        for sequence, voxels in images.corrected.items()
    }
    assert shown["t1n"]["wm"] > shown["t1n"]["gm"] > shown["t1n"]["csf"]
    assert shown["t2w"]["csf"] > shown["t2w"]["oedema"] > shown["t2w"]["gm"] > shown["t2w"]["wm"]
    assert shown["t2f"]["oedema"] > shown["t2f"]["wm"] > 2 * shown["t2f"]["csf"]
    gained = {
        name: (shown["t1c"][name] / shown["t1c"]["wm"]) / (shown["t1n"][name] / shown["t1n"]["wm"])
        for name in ("enhancing", "gm", "csf")
    }
    assert gained["enhancing"] > 1.3 > gained["gm"]
    assert gained["enhancing"] > 1.3 * gained["csf"]


def test_voxels_are_the_mixture_of_the_tissues_signals(glioma):
    """Regressed on the fractions, the noiseless T2 gives each tissue's spin echo, written out here."""
    study, scan, found, _ = glioma
    run, field = render.protocol_of(study, scan)["t2w"], scanner_of(study, scan)[1]["field"]
    assert run["slice"] < study.spacing, "no slice profile, so that voxels do not mix"
    image, white = noiseless(study, scan, "t2w", found)
    share = found.fractions.sum(0)
    inside = share > 0.6
    signals, *_ = np.linalg.lstsq(found.fractions[:, inside].T, image[found.box][inside] * share[inside], rcond=None)

    def spin_echo(entry):
        return entry["pd"] * -math.expm1(-run["tr"] / entry["t1"][field]) * math.exp(-run["te"] / entry["t2"][field])

    for name in ("csf", "gm", "wm", "vessel", "oedema", "necrosis", "enhancing"):
        expected = spin_echo(study.recipe["tissues"][name])
        assert signals[TISSUES.index(name)] == pytest.approx(expected, rel=0.01), name
    assert white == pytest.approx(spin_echo(study.recipe["tissues"]["wm"]))


@pytest.mark.parametrize(
    ("latent", "sequence", "name", "sign"),
    [("uptake", "t1c", "enhancing", 1), ("mismatch", "t2f", "tumour", -1), ("mismatch", "t1n", "tumour", -1)],
)
def test_latents_without_a_shape_move_the_signal(study, scan_of, with_latents, latent, sequence, name, sign):
    scan = scan_of("ucsf-pdgm")
    # The rim thick for contrast agent, absent for mismatch; necrosis and patches away.
    plain = {"size": 1.5, "necrosis": -4.0, "texture": -4.0, "enhancing": 2.0 if latent == "uptake" else -3.0}
    base = with_latents(study, scan, **plain)
    found = tissue_of(base, scan)
    core = where(found, name, 0.8)
    assert core.sum() > 30
    measured = []
    for value in (-1.5, -0.5, 0.5, 1.5):
        image, white = noiseless(with_latents(base, scan, **{latent: value}), scan, sequence, found)
        measured.append(np.median(image[core]) / white)
    assert (sign * np.diff(measured) > 0).all(), measured


def test_size_is_seen_in_the_written_mask(study, scan_of, with_latents):
    scan = scan_of("ucsf-pdgm")
    volumes = [
        (on_common_grid(with_latents(study, scan, size=value, texture=-4.0), scan, head=False).tumour > 0).sum()
        for value in (-1.5, 0.0, 1.5)
    ]
    assert volumes[0] < volumes[1] < volumes[2]


def test_n4_of_the_release_took_out_most_of_a_smooth_field(glioma):
    """What the `_bias` copies were divided by is smooth, positive and as strong as the scanner's field."""
    study, scan, _, images = glioma
    inside = binary_erosion(images.brain, iterations=2) & (images.images["t1n"] > 60)
    ratio = np.log(images.images["t1n"][inside] / images.corrected["t1n"][inside])
    place = np.argwhere(inside) / np.array(inside.shape) * 2 - 1
    terms = np.column_stack([place**power for power in range(1, 8)] + [np.ones(len(place))])
    rest = ratio - terms @ np.linalg.lstsq(terms, ratio, rcond=None)[0]
    assert ratio.std() > 0.02
    assert rest.std() < 0.1 * ratio.std() + 0.006  # the rest: rounding to whole numbers
    bias = scanner_of(study, scan)[1]["bias"]
    assert 0.2 * bias < ratio.std() < 1.5 * bias


def test_air_holds_rician_noise_of_the_scanners_signal_to_noise(study, scan_of):
    """Rayleigh noise of SD sigma has mean sigma sqrt(pi / 2); white matter over sigma is the stated ratio."""
    scan = scan_of("upenn-gbm")
    images = on_common_grid(study, scan, head=True)
    found = tissue_of(study, scan, head=True)
    air = found.head == 0
    for axis in range(3):  # two voxels clear of the skin, in the plane of every slice profile
        air &= np.roll(air, 3, axis) & np.roll(air, -3, axis)
    stated = scanner_of(study, scan)[1]["snr"]
    for sequence, voxels in images.images.items():
        noise = voxels[air].astype(float)
        assert len(noise) > 1000
        sigma = noise.mean() / math.sqrt(math.pi / 2)
        assert noise.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.06)
        white = np.median(voxels[where(found, "wm", 0.97)])
        assert 0.75 < white / sigma / stated < 1.35, sequence


def test_noise_differs_between_sequences_and_scans_but_not_between_runs(study, scan_of):
    one = on_common_grid(study, scan_of("upenn-gbm", 0), head=True)
    again = on_common_grid(study, scan_of("upenn-gbm", 0), head=True)
    other = on_common_grid(study, scan_of("upenn-gbm", 1), head=True)
    corner = (slice(0, 8), slice(0, 8), slice(-8, None))
    for sequence in SEQUENCES:
        np.testing.assert_array_equal(one.images[sequence], again.images[sequence])
        assert not np.array_equal(one.images[sequence][corner], other.images[sequence][corner])
    assert not np.array_equal(one.images["t1n"][corner], one.images["t2w"][corner])


def test_thick_slices_blur_across_and_not_within_the_slice(study, scan_of, recipe):
    scan = scan_of("ucsf-pdgm")
    found = tissue_of(study, scan)
    inside = binary_erosion(found.brain > 0.9, iterations=2)

    def roughness(thickness, axis):
        recipe["protocols"]["all-3d"]["t2w"]["slice"] = thickness
        image, _ = noiseless(replace(study, recipe=recipe), scan, "t2w", found)
        return np.abs(np.roll(image, -1, axis) - image)[inside].mean()

    across = [roughness(thickness, 2) for thickness in (1.0, 6.0, 10.0)]
    within = [roughness(thickness, 0) for thickness in (1.0, 6.0, 10.0)]
    assert across[0] > 1.1 * across[1] > 1.1 * across[2]
    assert across[2] / across[0] < 0.75 * within[2] / within[0]


def test_a_finer_protocol_has_finer_voxels(study, scan_of, recipe):
    scan = scan_of("cuimc")
    for protocol in recipe["protocols"].values():
        protocol["t2w"]["in_plane"] = 0.5
        protocol["t2w"]["slice"] = 7.0
    coarse = render.scanner_grid(study, scan, "t2w")
    fine = render.scanner_grid(replace(study, recipe=recipe), scan, "t2w")
    np.testing.assert_allclose(fine.spacing, [0.5 * study.spacing, 0.5 * study.spacing, 7.0])
    assert fine.shape[0] > coarse.shape[0]
    assert fine.shape[2] == round(168 / 7)


def test_a_weaker_field_changes_contrast(study, scan_of, recipe):
    scan = scan_of("ucsf-pdgm")
    found = tissue_of(study, scan)
    ratios = []
    for field in (1.5, 3.0):
        recipe["scanners"]["ge-3t"]["field"] = field
        image, white = noiseless(replace(study, recipe=recipe), scan, "t1n", found)
        ratios.append(np.median(image[where(found, "gm")]) / white)
    assert abs(ratios[0] - ratios[1]) > 0.02


def test_one_person_under_two_ids_is_the_same_anatomy_in_other_images(study, scan_of):
    pre, ucsf = scan_of("brats-gli-pre", 3), scan_of("ucsf-pdgm", 2)
    assert pre["person"] == ucsf["person"]
    assert scanner_of(study, pre) == scanner_of(study, ucsf)
    one, other, stranger = (tissue_of(study, scan) for scan in (pre, ucsf, scan_of("ucsf-pdgm", 1)))
    assert litres(one) == pytest.approx(litres(other), rel=0.01)
    assert abs(litres(stranger) / litres(one) - 1) > 0.01
    lesion = [
        found.fractions[[TISSUES.index(n) for n in ("necrosis", "tumour", "enhancing")]].sum() for found in (one, other)
    ]
    assert lesion[0] == pytest.approx(lesion[1], rel=0.1)
    images = [on_common_grid(study, scan, head=False).images["t1c"] for scan in (pre, ucsf)]
    assert not np.array_equal(*images)


def test_time_points_of_a_patient_show_one_anatomy_and_a_lesion_that_changes(study, scan_of):
    first, later = scan_of("mu-glioma-post", 0), scan_of("mu-glioma-post", 1)
    assert first["patient"] == later["patient"]
    one, other = tissue_of(study, first), tissue_of(study, later)
    np.testing.assert_allclose(one.brain, other.brain, atol=0.02)
    cavity = TISSUES.index("cavity")
    change = other.fractions[cavity].sum() / one.fractions[cavity].sum()
    assert (change > 1) == (later["growth"] > 1)
    assert abs(change - 1) > 0.02


def test_a_head_on_a_scanner_is_of_a_persons_size_and_on_an_atlas_of_the_atlas(study, scan_of):
    atlas = [litres(tissue_of(study, scan_of("lumiere", k))) for k in range(0, 8, 2)]
    stripped = [litres(tissue_of(study, scan_of("ucsf-pdgm", k))) for k in range(4)]
    scan = {**scan_of("brats-met"), "grid": "native"}
    native = litres(tissue_of(study, scan))
    assert all(1.5 < volume < 2.3 for volume in atlas)
    assert native == pytest.approx(litres(tissue_of(study, {**scan, "grid": "mni152-182"})) * 0.91**3, rel=0.03)
    assert 1.1 < native < 1.8
    # SRI24's brain is smaller than MNI152's by its own affine.
    smaller = np.mean(stripped) * np.linalg.det(SRI24_TO_MNI[:3, :3])
    assert smaller == pytest.approx(np.mean(atlas), rel=0.1)


def test_the_metastasis_scan_that_is_not_on_the_atlas_has_a_grid_of_its_own(shipped, study, scan_of):
    whole = replace(study, plan=plan(shipped, 0, 1))
    scan = scan_of("brats-met", 5, within=whole)
    assert scan["grid"] == "native"
    grid, _ = render.grid_of(whole, scan)
    assert grid_class(grid.shape, tuple(grid.spacing)) == "native"
    images = on_common_grid(whole, scan, head=False)
    assert detected_state(Image(images.images["t1c"].astype(np.float32), grid.affine)) == "stripped"
    assert not images.brain[:, 0].any()
    assert not images.brain[0].any()


def test_the_head_moves_between_sequences_as_the_truth_says(study, scan_of, monkeypatch):
    """After a large movement each sequence lies on t1c under the stated transform, not under none or its inverse."""
    scan = scan_of("cuimc")
    large = rigid(np.array([0.0, 0.0, 20.0]), np.array([18.0, -14.0, 0.0]), render.HEAD_CENTRE)
    monkeypatch.setattr(render, "motion", lambda _study, _scan, sequence: np.eye(4) if sequence == "t1c" else large)
    images = on_scanner_grids(study, scan, to_anterior=False)
    t1c = images.images["t1c"].astype(float)
    for sequence in ("t1n", "t2w", "t2f"):
        grid, voxels = images.grids[sequence], images.images[sequence].astype(float)
        fits = []
        for transform in (large, np.eye(4), np.linalg.inv(large)):
            matrix = np.linalg.inv(images.grids["t1c"].affine) @ transform @ grid.affine
            moved = affine_transform(t1c, matrix[:3, :3], matrix[:3, 3], grid.shape, order=1)
            fits.append(np.corrcoef(np.log(moved + 20).ravel(), np.log(voxels + 20).ravel())[0, 1])
        assert fits[0] > 0.85 > 0.75 > max(fits[1:]), sequence


def test_ordinary_motion_is_small_and_none_for_t1c(study, scan_of):
    scan = scan_of("cuimc")
    np.testing.assert_array_equal(render.motion(study, scan, "t1c"), np.eye(4))
    for sequence in ("t1n", "t2w", "t2f"):
        matrix = render.motion(study, scan, sequence)
        moved = np.linalg.norm((matrix @ [*render.HEAD_CENTRE, 1])[:3] - render.HEAD_CENTRE)
        assert 0 < moved < 8
        assert math.degrees(math.acos((np.trace(matrix[:3, :3]) - 1) / 2)) < 6


def test_a_raw_scan_has_a_skull_noise_in_air_and_four_grids(study, scan_of):
    scan = scan_of("cuimc")
    images = on_scanner_grids(study, scan, to_anterior=False)
    assert len({(grid.shape, grid.affine.tobytes()) for grid in images.grids.values()}) == 4
    for sequence, voxels in images.images.items():
        assert voxels.shape == images.grids[sequence].shape
        assert detected_state(Image(voxels.astype(np.float32), images.grids[sequence].affine)) == "skull"
    brain = images.brain
    volume = brain.sum() * np.prod(images.grids["t1c"].spacing) / 1e6
    assert 1.0 < volume < 1.9
    assert (images.images["t1c"][~brain] > 100).sum() > 0.3 * brain.sum(), "scalp and neck are there"
    assert (images.tumour > 0).sum() > 0


def test_a_brain_has_one_volume_whatever_the_voxel(study, scan_of):
    scan = scan_of("brats-ped")
    volumes = []
    for spacing in (4.0, 5.0):
        affine = np.diag([spacing] * 3 + [1.0])
        shape = tuple(int(length / spacing) for length in (220, 260, 220))
        affine[:3, 3] = render.HEAD_CENTRE - spacing * (np.array(shape) - 1) / 2
        volumes.append(litres(tissue(study, scan, Grid(shape, affine), np.eye(4), head=False)))
    assert volumes[0] == pytest.approx(volumes[1], rel=0.01)
