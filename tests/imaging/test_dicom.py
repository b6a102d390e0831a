"""Series are told apart by physics first, names second; what cannot be a structural sequence never is."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from neurorad.imaging.dicom import convert, identify, nulls_fluid, read_series, refusal, score
from neurorad.imaging.headers import Series
from neurorad.imaging.scan import ScanError, detected_state, read_image
from neurorad.volumes import SEQUENCES

from .conftest import slice_file


def series(number, description, tr, te, ti=float("nan"), slices=34, derived=False, thickness=5.0, **more):
    kinds = frozenset({"DERIVED" if derived else "ORIGINAL", "PRIMARY"})
    fields = {"contrast": False, "coverage": 150.0, "kinds": kinds} | more
    return Series(
        f"1.{number}", (), description, tr, te, ti, number=number, thickness=thickness, slices=slices, **fields
    )


SESSION = [
    series(1, "localizer", 8, 4, slices=3),
    series(2, "T1W_SE_ax", 570, 12),
    series(3, "T2W_TSE_ax", 4191, 99),
    series(4, "FLAIR_longTR_ax", 8701, 120, 2444),
    series(5, "ep2d_diff_3scan_trace", 6400, 88, slices=68),
    series(6, "T1W_SE_ax_GD", 570, 12),
]


def chosen(session, **more):
    return {name: found.number for name, found in identify(session, **more).items()}


def test_a_session_without_contrast_tags_is_read_from_its_names():
    assert chosen(SESSION) == {"t1n": 2, "t1c": 6, "t2w": 3, "t2f": 4}


def test_the_contrast_tag_counts_without_any_name():
    session = [*SESSION[:5], series(6, "", 570, 12, contrast=True)]
    assert chosen(session)["t1c"] == 6


def test_a_t1_after_the_injection_is_no_native_t1_and_a_name_may_deny_contrast():
    timed = [replace(s, time=60.0 * s.number) for s in SESSION]
    later = series(7, "T1 thin", 570, 12, thickness=1.0, time=420.0)
    assert chosen([*timed, later]) == {"t1n": 2, "t1c": 7, "t2w": 3, "t2f": 4}
    assert score(series(8, "T1 without contrast", 570, 12), "t1n") > 0


def test_of_a_repeated_series_the_later_is_taken_and_thinner_slices_win():
    assert chosen([*SESSION, series(7, "T2W_TSE_ax", 4191, 99)])["t2w"] == 7
    assert chosen([*SESSION, series(7, "T2W_TSE_ax", 4191, 99, thickness=6.0)])["t2w"] == 3


def test_two_different_series_that_fit_equally_are_quarantined_and_the_users_choice_decides():
    session = [*SESSION, series(7, "T2_other", 3000, 80)]
    with pytest.raises(ScanError, match=r"t2w: 2 different DICOM series fit equally well \(series 3 .*series 7"):
        identify(session)
    assert chosen(session, chosen={"t2w": "7"})["t2w"] == 7
    assert chosen(session, chosen={"t2w": "1.3"})["t2w"] == 3
    with pytest.raises(ScanError, match="0 series match the chosen '9'"):
        identify(session, {"t2w": "9"})


def test_what_is_missing_is_said_with_every_candidate_and_may_be_allowed():
    session = [s for s in SESSION if s.number != 4]
    with pytest.raises(ScanError) as found:
        identify(session)
    assert "missing sequence t2f" in str(found.value)
    assert "series 1 (TR 8, TE 4, 3 slices): named as localizer" in str(found.value)
    assert "series 3 (TR 4191, TE 99, 34 slices): score 0" in str(found.value)
    assert "GD" not in str(found.value)
    assert set(identify(session, may_lack=True)) == {"t1n", "t1c", "t2w"}
    with pytest.raises(ScanError, match="missing sequence t1c"):
        identify(SESSION[:5], may_lack=True)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"derived": True}, "derived"),
        ({"slices": 19}, "19 slices"),
        ({"coverage": 60.0}, "covers 60 mm"),
        ({"diffusion": True}, "diffusion"),
        ({"echo_planar": True}, "echo planar"),
        ({"angiography": True}, "angiography"),
        ({"kinds": frozenset({"ORIGINAL", "P"})}, "no magnitude"),
        ({"problem": "mixed orientations"}, "mixed orientations"),
        ({"ti": 160.0}, "STIR"),
    ],
)
def test_what_physics_or_geometry_exclude_is_never_a_sequence(what, reason):
    one = series(2, "T1 post gd", 570, 12, **what)
    assert reason in refusal(one)
    with pytest.raises(ScanError, match=reason.replace("(", r"\(")):
        identify([one])


@pytest.mark.parametrize(
    "name",
    ["Localizer", "AAHead_Scout", "DWI b1000", "ADC map", "SWI", "TOF MRA", "T1 post subtraction", "gre_field_mapping"]
    + ["ep2d_perf", "MIP sag", "DTI 32", "ASL", "BOLD rest", "Phase"],
)
def test_names_of_other_series_are_refused(name):
    assert "named as" in refusal(series(2, name, 570, 12))


def test_an_inversion_that_nulls_fluid_is_told_by_its_physics_at_any_repetition_time():
    for tr, ti in ((9000, 2500), (6000, 2200), (4800, 1650), (4000, 1400)):
        assert nulls_fluid(series(1, "", tr, 120, ti))
    assert not nulls_fluid(series(1, "", 6000, 90, 160))
    assert not nulls_fluid(series(1, "", 6000, 90))


KINDS = {
    "siemens_anatomical_001": "t2f",
    "philips_anatomical_001": "t2f",
    "hyperfine_anatomical_001": "t2f",
    "ge_anatomical_001": "t1n",
    "philips_enhanced_anatomical_001": "t1n",
    "hitachi_anatomical_001": None,  # proton density: TR 4000, TE 12
    "siemens_multiframe_anatomical_001": None,  # no repetition time in its headers
}


def best(one):
    scores = {name: score(one, name) - 2 * (name in ("t1n", "t1c")) for name in SEQUENCES}
    name = max(scores, key=scores.get)
    return name if scores[name] >= 3 else None


@pytest.mark.parametrize("folder", KINDS)
def test_real_series_without_descriptions_are_told_by_physics_and_excerpts_are_refused(shared, folder):
    (one,) = read_series(shared / "dicom" / "multivendor_4slices" / folder)
    assert one.description == ""
    assert best(one) == KINDS[folder]
    assert refusal(one) == f"{8 if 'enhanced' in folder or 'frame' in folder or 'hyper' in folder else 4} slices"


def test_a_real_t1_is_taken_and_one_of_three_slices_is_refused(shared, tmp_path):
    (whole,) = read_series(shared / "dicom" / "siemens_t1_sagittal")
    assert (refusal(whole), best(whole), whole.slices) == ("", "t1n", 35)
    image = read_image(convert(whole, tmp_path, "t1n"), "t1n")
    assert sorted(image.voxels.shape) == [35, 256, 256]
    assert detected_state(image) == "skull"
    (short,) = read_series(shared / "dicom" / "siemens_t1_3slices")
    assert (refusal(short), best(short)) == ("3 slices", "t1n")
    with pytest.raises(ScanError, match=r"missing sequence t1n.*series 3 .*: score|missing sequence t1n.*: 3 slices"):
        identify([short])


@pytest.fixture
def slices(shared, tmp_path):
    """A real series as loose files that a test may spoil."""
    folder = tmp_path / "series"
    shutil.copytree(shared / "dicom" / "siemens_t1_sagittal", folder)
    return folder, sorted(folder.iterdir(), key=lambda p: p.name)


def changed(path, **elements):
    path.chmod(0o644)
    header = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(header, name, value)
    header.save_as(path)


def test_spoiled_slices_of_a_real_series_are_refused_by_name(slices):
    folder, files = slices

    def found():
        (one,) = read_series(folder)
        return one

    shutil.copy(files[3], folder / "again.dcm")
    assert (found().slices, refusal(found())) == (35, "")
    changed(folder / "again.dcm", SOPInstanceUID=generate_uid())
    assert refusal(found()) == "36 images at 35 slice positions"
    (folder / "again.dcm").unlink()
    places = sorted(files, key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[0]))
    kept = places[12].read_bytes()
    places[12].unlink()
    assert refusal(found()).startswith("slices missing")
    places[12].write_bytes(kept)
    changed(places[12], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    assert refusal(found()) == "mixed orientations"
    changed(places[12], ImageOrientationPatient=None)
    assert refusal(found()) == "slices without position or orientation"


def test_what_is_no_mr_image_is_passed_over(slices, tmp_path):
    folder, files = slices
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "empty.dcm").write_bytes(b"")
    shutil.copy(files[0], folder / "report.dcm")
    changed(folder / "report.dcm", Modality="SR", SOPInstanceUID=generate_uid())
    assert [one.slices for one in read_series(folder)] == [35]
    header = pydicom.dcmread(files[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(header, name)
    header.SeriesInstanceUID = generate_uid()
    header.save_as(folder / "spectrum.dcm")
    assert "no image in it" in {refusal(one) for one in read_series(folder)}


ANN = {"PatientID": "Ann-1", "PatientName": "Ann", "StudyInstanceUID": "1.71"}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"PatientID": "Ben-2"}, r"more than one PatientID \(its MR files have 2\)"),
        ({"PatientID": ""}, "more than one PatientID"),
        ({"StudyInstanceUID": "1.72"}, r"more than one StudyInstanceUID \(its MR files have 2\)"),
        ({"StudyInstanceUID": ""}, r"more than one StudyInstanceUID \(some of its MR files have none\)"),
    ],
)
def test_series_of_two_patients_or_studies_are_never_one_scan_and_no_header_is_quoted(tmp_path, other, said):
    slice_file(tmp_path / "T1" / "1", **ANN)
    slice_file(tmp_path / "T1c" / "1", **ANN)
    assert len(read_series(tmp_path)) == 2
    slice_file(tmp_path / "more" / "T2" / "1", **ANN | other)
    with pytest.raises(ScanError, match=said) as found:
        read_series(tmp_path)
    assert not any(value in str(found.value) for value in ("Ann", "Ben", "1.7"))


def test_patients_without_an_id_are_told_apart_by_their_names(tmp_path):
    nameless = {"PatientID": "", "StudyInstanceUID": "1.71"}
    slice_file(tmp_path / "1", PatientName="Ann", **nameless)
    slice_file(tmp_path / "2", PatientName="Ann", **nameless)
    assert len(read_series(tmp_path)) == 2
    slice_file(tmp_path / "3", PatientName="Ben", **nameless)
    with pytest.raises(ScanError, match="more than one PatientID"):
        read_series(tmp_path)


def test_a_session_of_one_patient_goes_on_without_any_study_and_beside_what_is_no_mr_or_hidden(tmp_path):
    for name in ("1", "2"):
        slice_file(tmp_path / "session" / name, PatientID="Ann-1")
    slice_file(tmp_path / "session" / "ct", Modality="CT", PatientID="Ben-2", StudyInstanceUID="1.72")
    slice_file(tmp_path / "session" / ".trash" / "T1" / "1", PatientID="Ben-2", StudyInstanceUID="1.72")
    assert len(read_series(tmp_path / "session")) == 2
    slice_file(tmp_path / "archive" / "T2" / "1", PatientID="Ann-1")
    (tmp_path / "session" / "T2").symlink_to(tmp_path / "archive" / "T2")
    assert len(read_series(tmp_path / "session")) == 3


def test_damaged_headers_never_stop_the_reader(slices):
    folder, files = slices
    rng = np.random.default_rng(0)
    raw = files[0].read_bytes()
    for case in range(300):
        broken = bytearray(raw[: int(rng.integers(1, len(raw)))] if case % 2 else raw)
        for at in rng.integers(0, min(len(broken), 4000), 8):
            broken[at] = int(rng.integers(256))
        alone = folder.parent / "alone"
        alone.mkdir(exist_ok=True)
        Path(alone / "x.dcm").write_bytes(bytes(broken))
        for one in read_series(alone):
            assert isinstance(refusal(one), str)
            with pytest.raises(ScanError):
                identify([one])
