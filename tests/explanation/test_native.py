"""Maps on the scanner's grids: a planted blob lands where it belongs, through the command, and headers say nothing."""

import argparse
import gzip

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neurorad import RESOURCES, volumes
from neurorad.explanation import commands
from neurorad.explanation.native import on_scanner_grid
from neurorad.files import read_json, write_json, write_table
from neurorad.imaging.dicom import convert, identify, read_series
from neurorad.imaging.scan import Image
from neurorad.imaging.volume import Atlas, make_volume
from neurorad.phantom import releases
from neurorad.phantom.plan import plan, read_recipe
from neurorad.phantom.render import Study, motion, on_scanner_grids
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SHAPE, SPACING = (24, 32, 20), 3.0
VOLUME = np.diag([SPACING, SPACING, SPACING, 1.0])
VOLUME[:3, 3] = [-36.0, -48.0, -30.0]
TURN = np.deg2rad(12.0)
POSE = np.array(
    [
        [np.cos(TURN), -np.sin(TURN), 0, 4.0],
        [np.sin(TURN), np.cos(TURN), 0, -7.0],
        [0, 0, 1, 11.0],
        [0, 0, 0, 1],
    ]
)
"""From the volume's RAS mm to the scanner's."""
SAGITTAL = np.array([[0, 0, -2.0, 50.0], [-1.0, 0, 0, 70.0], [0, 1.0, 0, -45.0], [0, 0, 0, 1.0]])
"""A file whose first axis runs to posterior, its second to superior and its third to the left."""
AXIAL = np.diag([1.5, 1.5, 4.0, 1.0])
AXIAL[:3, 3] = [-45.0, -68.0, -50.0]
GRIDS = {
    "t1c": {"shape": [130, 100, 45], "affine": SAGITTAL.tolist()},
    "t2f": {"shape": [64, 72, 30], "affine": AXIAL.tolist()},
}


def blob(centre, sigma: float = 1.5) -> np.ndarray:
    grid = np.indices(SHAPE)
    return np.exp(-sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) / (2 * sigma**2))


def centre_mm(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weights = values / values.sum()
    voxel = [(weights * axis).sum() for axis in np.indices(values.shape)]
    return affine[:3, :3] @ voxel + affine[:3, 3]


@pytest.fixture
def study(tmp_path):
    """One scan with a card and its maps: evidence at one place, counter-evidence at another."""
    card = {
        "preprocessing": {},
        "affine": VOLUME.tolist(),
        "grids": GRIDS,
        "transforms": dict.fromkeys(SEQUENCES, POSE.tolist()),
    }
    volumes.save(tmp_path / "cuimc" / "s0.b2nd", np.ones((4, *SHAPE)), card)
    row = {
        "cohort": "cuimc",
        "scan": "s0",
        "patient": "p0",
        "volume": str(tmp_path / "cuimc" / "s0.b2nd"),
        "status": "ok",
    }
    write_table(tmp_path / "volumes.tsv", pd.DataFrame([row]))
    maps = np.stack([blob((11, 14, 9))]).astype(np.float16)
    np.savez(
        tmp_path / "maps.npz",
        cohort=np.array(["cuimc"]),
        scan=np.array(["s0"]),
        maps=maps,
        against=np.stack([blob((14, 18, 11))]).astype(np.float16),
    )
    return tmp_path


def native(folder, *more):
    parser = argparse.ArgumentParser()
    commands.add_verbs(parser.add_subparsers())
    given = ["--maps", folder / "maps.npz", "--volumes", folder / "volumes.tsv", "--out", folder / "native", *more]
    args = parser.parse_args(["native", *(str(word) for word in given)])
    args.run(args)


@pytest.mark.parametrize("sequence", ["t1c", "t2f"])
@pytest.mark.parametrize(("kind", "place"), [("evidence", (11, 14, 9)), ("against", (14, 18, 11))])
def test_a_blob_lands_where_the_transform_puts_it(study, sequence, kind, place):
    native(study, "--sequence", sequence)
    image = nib.load(study / "native" / f"s0.{kind}.nii.gz")
    assert image.shape == tuple(GRIDS[sequence]["shape"])
    assert np.allclose(image.affine, GRIDS[sequence]["affine"])
    expected = (POSE @ VOLUME @ [*place, 1])[:3]
    found = centre_mm(image.get_fdata(), image.affine)
    # Both grids hold the whole blob; interpolation is symmetric, so far below a voxel.
    assert np.abs(found - expected).max() < 0.1 * SPACING
    assert 0.7 < image.get_fdata().max() <= 1.0 and image.get_fdata().min() == 0


def test_the_file_says_nothing_but_its_geometry_and_is_the_same_each_time(study):
    native(study)
    path = study / "native" / "s0.evidence.nii.gz"
    first = path.read_bytes()
    raw = gzip.decompress(first)
    assert first[3] == 0 and first[4:8] == bytes(4), "no name and no time in the archive"
    header = nib.load(path).header
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert header[field].item() in (b"", b"\x00") or not header[field].item().strip(b"\x00")
    assert np.frombuffer(raw[108:112], "<f4")[0] == 352 and raw[348:352] == bytes(4), "no extension"
    assert b"p0" not in raw[:352] and b"s0" not in raw[:352] and b"cuimc" not in raw
    native(study)
    assert path.read_bytes() == first


def older_card(study):
    path = study / "cuimc" / "s0.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key not in ("affine", "grids")})


def other_volume(study):
    table = pd.read_table(study / "volumes.tsv").assign(scan="s9")
    write_table(study / "volumes.tsv", table)


def other_shape(study):
    stored = dict(np.load(study / "maps.npz"))
    np.savez(study / "maps.npz", **stored | {"maps": stored["maps"][:, :-1]})


@pytest.mark.parametrize(
    ("spoil", "sequence", "said"),
    [
        (older_card, "t1c", "s0 of cuimc: its card lacks affine, grids; make the volume again"),
        (other_volume, "t1c", "scan s0 of cuimc is not among the usable volumes"),
        (other_shape, "t1c", r"map \[23, 32, 20\] is not on the volume's grid \[24, 32, 20\]"),
        (lambda study: None, "t1n", "s0 of cuimc: has no t1n; it has t1c, t2f"),
    ],
)
def test_what_cannot_be_brought_back_is_refused_by_name(study, spoil, sequence, said):
    spoil(study)
    with pytest.raises(InputError, match=said):
        native(study, "--sequence", sequence)
    assert not list((study / "native").glob("*.nii.gz"))


def test_an_endpoint_without_maps_leaves_an_empty_folder(study):
    np.savez(study / "maps.npz", cohort=np.array([], str), scan=np.array([], str))
    native(study)
    assert list((study / "native").iterdir()) == []


def test_values_between_voxels_are_linear():
    values = np.zeros((4, 4, 4))
    values[1, 1, 1], values[2, 1, 1] = 1.0, 3.0
    card = {
        "shape": [4, 4, 4, 4],
        "affine": np.eye(4),
        "transforms": {"t1c": np.eye(4)},
        "grids": {"t1c": {"shape": [8, 4, 4], "affine": np.diag([0.5, 1, 1, 1])}},
    }
    moved, affine = on_scanner_grid(values, card, "t1c", "scan")
    assert moved[2:6, 1, 1].tolist() == [1.0, 2.0, 3.0, 1.5] and affine[0, 0] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("source", ["nifti", "dicom"])
def test_the_planted_tumour_of_a_phantom_is_found_again_in_its_native_scans(tmp_path, source):
    """Through the pipeline as it is: images on the scanner's grids, registered to the atlas, and the way back.

    The tumour's place in t1c is the phantom's own, and that in t2f follows from the motion that it planted in between.
    """
    recipe = read_recipe(RESOURCES / "phantom.yaml")
    whole = Study(recipe, 0, 2.0, plan(recipe, 0, 0.1))
    scans = whole.plan.scans
    scan = scans[(scans["cohort"] == "cuimc") & (scans["missing"] == "")].iloc[0].to_dict()
    images = on_scanner_grids(whole, scan, to_anterior=False)
    if source == "dicom":
        releases._cuimc(whole, scan, tmp_path / "release")
        series = identify(read_series(tmp_path / "release"), {}, False)
        files = {name: convert(found, tmp_path, name) for name, found in series.items()}
    else:
        files = {name: tmp_path / f"{name}.nii.gz" for name in SEQUENCES}
        for name in SEQUENCES:
            nib.save(nib.Nifti1Image(images.images[name], images.grids[name].affine), files[name])
    labels = recipe["cohorts"]["cuimc"]["labels"]
    tumour = [value for name, value in labels.items() if name != "cavity"]
    planted = np.isin(images.tumour, tumour).astype(np.float32)
    settings = {"spacing": 3, "shape": [48, 64, 48], "n4": False, "brain_mask": {"method": "deepbet"}}
    mask = Image(planted, images.grids["t1c"].affine)
    volume = make_volume(files, mask, ("skull",), settings, Atlas.load(3, (48, 64, 48)), tmp_path, 1)
    card = {"preprocessing": {}, **{key: getattr(volume, key) for key in ("affine", "grids", "transforms")}}
    path = tmp_path / "cuimc" / "s0.b2nd"
    volumes.save(path, volume.voxels, card)
    row = {"cohort": "cuimc", "scan": "s0", "patient": "p0", "volume": str(path), "status": "ok"}
    write_table(tmp_path / "volumes.tsv", pd.DataFrame([row]))
    maps = volume.tumour[None].astype(np.float16)
    np.savez(tmp_path / "maps.npz", cohort=np.array(["cuimc"]), scan=np.array(["s0"]), maps=maps, against=maps)
    truth = centre_mm(planted, images.grids["t1c"].affine)
    for name in ("t1c", "t2f"):
        native(tmp_path, "--sequence", name)
        image = nib.load(tmp_path / "native" / "s0.evidence.nii.gz")
        scanned = nib.load(files[name])
        assert image.shape == scanned.shape and np.allclose(image.affine, scanned.affine, atol=1e-4)
        expected = (np.linalg.inv(motion(whole, scan, name)) @ [*truth, 1])[:3]
        off = np.linalg.norm(centre_mm(image.get_fdata(), image.affine) - expected)
        print(f"{source} {name}: {off:.2f} mm")
        assert off < settings["spacing"], name
