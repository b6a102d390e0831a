"""The DICOM writer: geometry that survives dcm2niix, headers that tell the series apart, and nobody's identity."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from neurorad.imaging.dicom import convert, identify, read_series, refusal
from neurorad.imaging.scan import ScanError, detected_state, read_image
from neurorad.phantom.dicom import Series, sequence_elements, uid, write_series
from neurorad.phantom.grids import native_grid
from neurorad.phantom.releases import REPEAT, is_repeated
from neurorad.phantom.render import protocol_of, scanner_grid, scanner_of
from neurorad.volumes import SEQUENCES

NUMBERS = {"t1n": 2, "t2w": 3, "t2f": 4, "t1c": 6}
IDENTIFYING = [
    "PatientBirthDate",
    "PatientAddress",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientTelephoneNumbers",
    "InstitutionName",
    "InstitutionAddress",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "StationName",
    "DeviceSerialNumber",
    "PatientComments",
    "EthnicGroup",
    "PatientMotherBirthName",
    "MilitaryRank",
    "RequestingPhysician",
    "IssuerOfPatientID",
]


@pytest.fixture(scope="module")
def sessions(release, study):
    """Each CUIMC scan of the plan with its session folder."""
    scans = study.plan.scans[study.plan.scans["cohort"] == "cuimc"].to_dict("records")
    return [(scan, release("cuimc") / scan["patient"] / scan["session"]) for scan in scans]


@pytest.fixture(scope="module")
def headers(sessions):
    """Every header of the cohort: (scan, header)."""
    found = []
    for scan, folder in sessions:
        for path in sorted(folder.rglob("*.dcm")):
            found.append((scan, pydicom.dcmread(path)))
    return found


def tiny(folder, series, grid, voxels, scanner):
    study = {"cohort": "c", "patient": "P-1", "session": "s", "scanner": scanner, "age": 50, "sex": "F", "seed": 0}
    write_series(folder, voxels, grid, series, study, float(grid.spacing[2]))


@pytest.mark.parametrize(
    ("plane", "tilt"), [("axial", 0.0), ("axial", -11.0), ("sagittal", 0.0)], ids=["axial", "tilted", "sagittal"]
)
def test_every_voxel_is_where_it_was_after_a_round_trip_through_dcm2niix(tmp_path, shipped, plane, tilt):
    grid = native_grid(plane, 7.0, 6.0, np.array([3.0, -18.0, 8.0]), tilt)
    voxels = np.random.default_rng(0).integers(0, 3000, grid.shape).astype(np.int16)
    tiny(tmp_path / "series", Series(2, "T1", {}), grid, voxels, shipped["scanners"]["siemens-3t"])
    (series,) = read_series(tmp_path)
    (tmp_path / "scratch").mkdir()
    image = read_image(convert(series, tmp_path / "scratch", "t1n"), "t1n")
    expected = nib.as_closest_canonical(nib.Nifti1Image(voxels, grid.affine))
    np.testing.assert_allclose(image.affine, expected.affine, atol=2e-3)
    np.testing.assert_array_equal(image.voxels, np.asarray(expected.dataobj))


@pytest.mark.parametrize("scanner", ["siemens-3t", "siemens-3d", "ge-15t", "ge-3t", "philips-15t"])
def test_the_reader_tells_the_four_series_of_every_scanner_apart(tmp_path, shipped, scanner):
    entry = shipped["scanners"][scanner]
    grid = replace(native_grid("axial", 50.0, 6.0, np.zeros(3), 0.0), shape=(4, 4, 24))
    voxels = np.zeros(grid.shape, np.int16)
    for sequence, run in shipped["protocols"][entry["protocol"]].items():
        series = Series(NUMBERS[sequence], entry["series"][sequence], sequence_elements(sequence, run, entry))
        tiny(tmp_path / sequence, series, grid, voxels, entry)
    assert {name: int(found.number) for name, found in identify(read_series(tmp_path)).items()} == NUMBERS


def wanted(scan):
    numbers = NUMBERS | ({"t2w": REPEAT} if is_repeated(scan) else {})
    return {name: number for name, number in numbers.items() if name != scan["missing"]}


def test_each_session_of_the_rendered_site_is_identified(sessions):
    for scan, folder in sessions:
        series = read_series(folder)
        decoys = {1, 5, 7, 8} | ({NUMBERS["t2w"]} if is_repeated(scan) else set())
        assert {int(one.number) for one in series} == decoys | set(wanted(scan).values())
        if scan["missing"]:
            with pytest.raises(ScanError, match=f"missing sequence {scan['missing']}"):
                identify(series)
        found = identify(series, may_lack=True)
        assert {name: int(one.number) for name, one in found.items()} == wanted(scan)
    assert [scan["missing"] for scan, _ in sessions].count("t2f") == 1
    assert 0 < sum(is_repeated(scan) for scan, _ in sessions) < len(sessions)


def test_every_decoy_is_refused_for_its_reason_even_without_a_name(sessions):
    reasons = {1: "3 slices", 5: "images at", 7: "derived image", 8: "images at"}
    for scan, folder in sessions:
        nameless = [replace(one, description="") for one in read_series(folder)]
        refused = {int(one.number): refusal(one) for one in nameless if refusal(one)}
        assert set(refused) == set(reasons)
        for number, reason in reasons.items():
            assert reason in refused[number], (number, refused[number])
        if any(one.contrast for one in nameless if one.number == NUMBERS["t1c"]):
            found = identify(nameless, may_lack=True)
            assert {name: int(one.number) for name, one in found.items()} == wanted(scan)
        else:
            with pytest.raises(ScanError, match="t1c"):
                identify(nameless, may_lack=True)


def test_a_converted_series_has_the_prescribed_grid_and_the_skull(sessions, study, tmp_path):
    scan, folder = sessions[0]
    for name, series in identify(read_series(folder)).items():
        image = read_image(convert(series, tmp_path, name), name)
        assert int(series.number) == wanted(scan)[name]
        grid = scanner_grid(study, scan, name)
        expected = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(grid.shape, np.int16), grid.affine))
        assert image.voxels.shape == expected.shape
        np.testing.assert_allclose(image.affine, expected.affine, atol=2e-3)
        assert detected_state(image) == "skull"


def test_headers_repeat_the_physics_the_signal_was_computed_with(headers, study):
    seen = set()
    for scan, header in headers:
        name = {number: sequence for sequence, number in NUMBERS.items()}.get(int(header.SeriesNumber))
        scanner = scanner_of(study, scan)[1]
        assert header.MagneticFieldStrength == scanner["field"]
        assert header.Manufacturer == scanner["vendor"]
        if name is None:
            continue
        run = protocol_of(study, scan)[name]
        assert (header.RepetitionTime, header.EchoTime) == (run["tr"], run["te"])
        assert header.get("InversionTime") == run.get("ti")
        assert header.SeriesDescription == scanner["series"][name]
        assert ("ContrastBolusAgent" in header) == (name == "t1c" and bool(scanner["agent"]))
        grid = scanner_grid(study, scan, name)
        np.testing.assert_allclose([float(v) for v in header.PixelSpacing], grid.spacing[[1, 0]], atol=1e-5)
        assert float(header.SliceThickness) == pytest.approx(grid.spacing[2], abs=1e-5)
        seen.add(name)
    assert seen == set(SEQUENCES)


def test_headers_are_valid_for_a_strict_reader(sessions, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    _, folder = sessions[0]
    for series in sorted(folder.iterdir()):
        for path in sorted(series.iterdir())[:3]:
            header = pydicom.dcmread(path, force=False)
            assert len([element.value for element in header.iterall()]) > 30
            assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
            assert header.SOPClassUID.name == "MR Image Storage"
            assert header.pixel_array.shape == (header.Rows, header.Columns)


def test_uids_are_valid_unique_and_shared_as_dicom_asks(headers):
    instances = [header.SOPInstanceUID for _, header in headers]
    assert len(set(instances)) == len(instances)
    assert all(UID(value).is_valid for value in set(instances))
    series, studies = {}, {}
    for scan, header in headers:
        key = (scan["scan"], int(header.SeriesNumber))
        assert series.setdefault(key, header.SeriesInstanceUID) == header.SeriesInstanceUID
        assert studies.setdefault(scan["scan"], header.StudyInstanceUID) == header.StudyInstanceUID
        assert UID(header.StudyInstanceUID).is_valid
    assert len(set(series.values())) == len(series)
    assert len(set(studies.values())) == len(studies) == 4


def test_a_uid_depends_on_every_name_and_on_nothing_else():
    assert uid(0, "a", 1) == uid(0, "a", 1)
    made = [uid(0, "a", k) for k in range(500)]
    assert len(set(made)) == 500
    assert max(map(len, made)) <= 64
    assert all(re.fullmatch(r"2\.25\.[1-9]\d*", one) for one in made)


def test_slices_lie_one_behind_the_other_at_equal_distance(sessions):
    _, folder = sessions[0]
    for number in NUMBERS.values():
        (series,) = folder.glob(f"{number:03d}-*")
        slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(series.iterdir())]
        assert [int(one.InstanceNumber) for one in slices] == list(range(1, len(slices) + 1))
        place = np.array([[float(v) for v in one.ImagePositionPatient] for one in slices])
        rows = np.array([float(v) for v in slices[0].ImageOrientationPatient]).reshape(2, 3)
        normal = np.cross(*rows)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        steps = np.diff(place, axis=0)
        np.testing.assert_allclose(steps @ normal, float(slices[0].SpacingBetweenSlices), atol=1e-4)
        np.testing.assert_allclose(np.cross(steps, normal), 0, atol=1e-4)


def test_headers_hold_no_identity(headers, study):
    names = set(study.plan.patients.query("cohort == 'cuimc'")["patient"])
    for scan, header in headers:
        assert not [tag for tag in IDENTIFYING if header.get(tag)]
        assert header.PatientID == str(header.PatientName) == scan["patient"]
        assert scan["patient"] in names
        assert re.fullmatch(r"CUIMC-\d{3}", header.PatientID)
        assert header.AccessionNumber == ""
        assert header.StudyDate == header.SeriesDate == header.AcquisitionDate == header.ContentDate == "20010203"
        assert not [element for element in header if element.tag.is_private]
        assert re.fullmatch(r"\d{3}Y", header.PatientAge)


def test_what_a_reader_must_pass_over_is_there(sessions):
    for _, folder in sessions:
        (scout,) = folder.glob("001-localizer")
        (diffusion,) = folder.glob("005-ep2d_diff*")
        assert len(list(scout.iterdir())) == 3
        values = [float(pydicom.dcmread(path).DiffusionBValue) for path in sorted(diffusion.iterdir())]
        assert set(values) == {0.0, 1000.0}
        assert values.count(0.0) == values.count(1000.0) >= 20
