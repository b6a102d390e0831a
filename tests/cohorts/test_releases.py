"""Each release is read by the names that its own documentation uses, and only by them."""

import csv
import importlib
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neurorad.cohorts.releases import RELEASES, disease_of, generic, release_of
from neurorad.configuration import SCHEMA
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SPELLED = {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}
LUMIERE = "Imaging/Patient-042/week-000-2/DeepBraTumIA-segmentation"
UCSF = "UCSF-PDGM-v5/UCSF-PDGM-0004_nifti/UCSF-PDGM-0004"
FOLLOW_UP = "UCSF-PDGM-0433_FU007d_nifti/UCSF-PDGM-0433_FU007d"
MU = "PatientID_0003/Timepoint_2/PatientID_0003_Timepoint_2"


def kinds_of(release, path):
    """What a release takes a path for: (kind, patient, session) of every pattern that fits."""
    found = set()
    for kind, patterns in RELEASES[release].files.items():
        for pattern in patterns:
            if match := re.fullmatch(pattern, path, re.ASCII):
                found.add((kind, match["patient"], match.groupdict().get("session")))
    return found


def is_ignored(release, path):
    return any(re.fullmatch(pattern, path, re.ASCII) for pattern in RELEASES[release].ignored)


@pytest.mark.parametrize(
    ("release", "path", "kind", "patient", "session"),
    [
        ("brats-gli-pre", "BraTS2021_00097/BraTS2021_00097_t1ce.nii.gz", "t1c", "BraTS2021_00097", None),
        ("brats-gli-pre", "x/BraTS20_Training_001/BraTS20_Training_001_flair.nii", "t2f", "BraTS20_Training_001", None),
        ("brats-gli-pre", "BraTS20_Training_355/W39_1998.09.19_Segm.nii", "tumour", "BraTS20_Training_355", None),
        ("brats-gli-pre", "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1.nii.gz", "t1n", "Brats18_CBICA_AAB_1", None),
        ("brats-gli-pre", "LGG/BraTS19_2013_0_1/BraTS19_2013_0_1_t2.nii.gz", "t2w", "BraTS19_2013_0_1", None),
        ("brats-gli-pre", "a b/BraTS-GLI-00000-001/BraTS-GLI-00000-001-seg.nii.gz", "tumour", "BraTS-GLI-00000", "001"),
        ("brats-gli-post", "BraTS-GLI-00005-100/BraTS-GLI-00005-100-t2f.nii.gz", "t2f", "BraTS-GLI-00005", "100"),
        ("brats-men", "BraTS-MEN-00004-000/BraTS-MEN-00004-000-t1c.nii.gz", "t1c", "BraTS-MEN-00004", "000"),
        ("brats-met", "BraTS-MET-00553-000/BraTS-MET-00553-000-t1n.nii.gz", "t1n", "BraTS-MET-00553", "000"),
        ("brats-ped", "BraTS-PED-00001-000/BraTS-PED-00001-000-t2w.nii.gz", "t2w", "BraTS-PED-00001", "000"),
        ("lumiere", f"{LUMIERE}/atlas/skull_strip/ct1_skull_strip.nii.gz", "t1c", "Patient-042", "week-000-2"),
        ("mu-glioma-post", f"{MU}_brain_t1n.nii.gz", "t1n", "PatientID_0003", "Timepoint_2"),
        ("mu-glioma-post", f"{MU}_tumorMask.nii.gz", "tumour", "PatientID_0003", "Timepoint_2"),
        ("ucsf-pdgm", f"{UCSF}_T1c.nii.gz", "t1c", "UCSF-PDGM-0004", None),
        ("ucsf-pdgm", f"{UCSF}_T1.nii.gz", "t1n", "UCSF-PDGM-0004", None),
        ("ucsf-pdgm", f"{FOLLOW_UP}_FLAIR.nii.gz", "t2f", "UCSF-PDGM-0433", "FU007d"),
        ("ucsf-pdgm", f"{FOLLOW_UP}_tumor_segmentation.nii.gz", "tumour", "UCSF-PDGM-0433", "FU007d"),
        (
            "upenn-gbm",
            "NIfTI-files/images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1GD.nii.gz",
            "t1c",
            "UPENN-GBM-00001",
            "11",
        ),
        ("upenn-gbm", "images_segm/UPENN-GBM-00002_11_segm.nii.gz", "tumour", "UPENN-GBM-00002", "11"),
        ("cuimc", "Müller, Jörg/2020-01-02 a/t2w.nii", "t2w", "Müller, Jörg", "2020-01-02 a"),
        ("bids", "sub-01/anat/sub-01_T1w.nii.gz", "t1n", "sub-01", None),
        ("bids", "sub-01/ses-2/anat/sub-01_ses-2_acq-3D_ce-gadolinium_run-1_T1w.nii", "t1c", "sub-01", "ses-2"),
        ("bids", "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz", "t2f", "sub-01", "ses-2"),
    ],
)
def test_a_documented_name_is_one_image_of_one_patient(release, path, kind, patient, session):
    assert kinds_of(release, path) == {(kind, patient, session)}
    assert not is_ignored(release, path)


@pytest.mark.parametrize(
    ("release", "path"),
    [
        ("brats-gli-pre", "BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1c.nii.gz"),
        ("brats-gli-post", "BraTS-GLI-00005-000/BraTS-GLI-00005-000-t1c.nii.gz"),
        ("lumiere", "Imaging/Patient-042/week-044/CT1.nii.gz"),
        ("lumiere", f"{LUMIERE}/atlas/skull_strip/brain_mask.nii.gz"),
        ("lumiere", f"{LUMIERE}/atlas/segmentation/seg_mask.nii.gz"),
        ("lumiere", f"{LUMIERE}/native/segmentation/ct1_seg_mask.nii.gz"),
        ("lumiere", "Patient-042/week-044/HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz"),
        ("ucsf-pdgm", f"{UCSF}_T1c_bias.nii.gz"),
        ("ucsf-pdgm", f"{UCSF}_DTI_eddy_noreg.nii.gz"),
        ("ucsf-pdgm", f"{UCSF}_DTI_eddy.eddy_rotated_bvecs"),
        ("ucsf-pdgm", f"{UCSF}_brain_parenchyma_segmentation.nii.gz"),
        ("ucsf-pdgm", f"{FOLLOW_UP}_ASL_M0.nii.gz"),
        ("upenn-gbm", "images_structural_unstripped/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1_unstripped.nii.gz"),
        ("upenn-gbm", "images_structural/UPENN-GBM-00260_11/old/UPENN-GBM-00260_11_T1.nii.gz"),
        ("upenn-gbm", "automated_segm/UPENN-GBM-00003_11_automated_approx_segm.nii.gz"),
        ("upenn-gbm", "images_DTI/images_DTI/UPENN-GBM-00003_11/UPENN-GBM-00003_11_DTI_FA.nii.gz"),
        ("bids", "derivatives/brain/sub-01/anat/sub-01_T1w.nii.gz"),
        ("bids", "sub-01/ses-2/dwi/sub-01_ses-2_dwi.nii.gz"),
    ],
)
def test_a_documented_copy_is_passed_over_and_no_image(release, path):
    assert is_ignored(release, path)
    assert not kinds_of(release, path)


@pytest.mark.parametrize(
    ("release", "path"),
    [
        ("brats-gli-pre", "BraTS-GLI-00000-000/BraTS-GLI-00001-000-t1c.nii.gz"),
        ("brats-gli-pre", "BraTS2021_00097/BraTS2021_00097-t1c.nii.gz"),
        ("brats-men", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz"),
        ("brats-men", "BraTS-MEN-RT-0002-1/BraTS-MEN-RT-0002-1_t1c.nii.gz"),
        ("mu-glioma-post", "PatientID_0003/Timepoint_2/PatientID_0003_Timepoint_1_brain_t1n.nii.gz"),
        ("mu-glioma-post", f"{MU}_t1n.nii.gz"),
        ("ucsf-pdgm", "UCSF-PDGM-0433_FU007d_nifti/UCSF-PDGM-0433_T1.nii.gz"),
        ("ucsf-pdgm", f"{UCSF}_T1gad.nii.gz"),
        ("upenn-gbm", "UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1.nii.gz"),
        ("bids", "sub-01/ses-2/anat/sub-01_ses-1_T1w.nii.gz"),
        ("bids", "sub-01/anat/sub-01_T2star.nii.gz"),
        ("bids", "nested/sub-01/anat/sub-01_T1w.nii.gz"),
    ],
)
def test_another_name_is_neither_taken_nor_passed_over(release, path):
    assert not kinds_of(release, path)
    assert not is_ignored(release, path)


def test_every_name_of_the_real_brats_tables_is_read(shared):
    """Ids of BraTS 2017 to 2020 as their own tables list them."""
    with open(shared / "tables" / "BraTS_name_mapping.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with open(shared / "tables" / "BraTS2020_survival_info.csv", encoding="utf-8") as stream:
        names = {row["Brats20ID"] for row in csv.DictReader(stream)}
    assert len(names) == 236
    for year in (2017, 2018, 2019):
        names |= {row[f"BraTS_{year}_subject_ID"] for row in rows} - {"NA"}
    assert len(names) == 236 + 285 + 285 + 335
    for name in names:
        assert kinds_of("brats-gli-pre", f"{name}/{name}_t1ce.nii.gz") == {("t1c", name, None)}


def patterns_of(releases):
    return [
        (name, kind, pattern)
        for name in releases
        for kind, patterns in RELEASES[name].files.items()
        for pattern in patterns
    ]


@given(st.data())
def test_a_path_that_a_pattern_lets_in_is_one_kind_of_file(data):
    name, kind, pattern = data.draw(st.sampled_from(patterns_of(RELEASES)))
    path = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assert {found for found, *_ in kinds_of(name, path)} == {kind}


@given(st.data())
def test_names_of_a_public_release_are_safe_as_file_names_and_shell_words(data):
    name, _, pattern = data.draw(st.sampled_from(patterns_of(n for n in RELEASES if not RELEASES[n].private)))
    path = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    ((_, patient, session),) = kinds_of(name, path)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", patient + (session or ""), re.ASCII)
    assert not patient.startswith("-")


@pytest.mark.parametrize("name", [*RELEASES, "generic"])
def test_every_reader_says_where_it_is_documented(name):
    module = importlib.import_module(f"neurorad.cohorts.releases.{name.replace('-', '_')}")
    for part in ("Source", "Images", "Time points", "Labels"):
        assert part in module.__doc__, part
    if name not in ("cuimc", "generic"):
        assert re.search(r"doi 10\.\d{4,}/|arXiv:\d{4}\.\d{5}", module.__doc__), name


@pytest.mark.parametrize("release", RELEASES.values(), ids=lambda release: release.name)
def test_every_release_has_the_four_sequences_and_labels_for_its_mask(release):
    assert set(release.files) - {"tumour"} == set(SEQUENCES)
    assert bool(release.tumour_labels) == ("tumour" in release.files)
    assert not {0, *release.tumour_labels} & set(release.cavity_labels)
    assert release.disease in ("GLI", "MEN", "MET", "PED")
    assert set(release.state) <= {"stripped", "defaced", "skull"}


def test_label_4_is_a_cavity_only_where_the_release_says_so():
    """BraTS-GLI-post, MU-Glioma-Post: cavity (de Verdier 2024); UCSF, UPENN, BraTS 2021: enhancing; BraTS-PED: oedema."""
    cavity = {name for name, release in RELEASES.items() if 4 in release.cavity_labels}
    tumour = {name for name, release in RELEASES.items() if 4 in release.tumour_labels}
    assert cavity == {"brats-gli-post", "brats-met", "mu-glioma-post", "cuimc"}
    assert tumour == {"brats-gli-pre", "brats-ped", "ucsf-pdgm", "upenn-gbm"}


def test_the_schema_offers_every_release():
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    block = schema["properties"]["cohorts"]["additionalProperties"]["properties"]
    assert set(block["release"]["enum"]) == {*RELEASES, "generic"}
    assert set(block["state"]["enum"]) == {"stripped", "defaced", "skull"}


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"release": "brats"}, "unknown release 'brats'"),
        ({"release": "bids"}, "needs `state:`"),
        ({"release": "ucsf-pdgm", "state": "skull"}, "documents stripped"),
        ({"release": "ucsf-pdgm", "pattern": "{patient}/{sequence}.nii"}, "`pattern:` is for release `generic`"),
        ({"release": "generic", "sequences": SPELLED, "state": "skull"}, "needs `pattern:`"),
        ({"release": "generic", "pattern": "{patient}_{sequence}", "sequences": SPELLED}, "needs `state:`"),
    ],
)
def test_a_block_that_cannot_be_read_is_one_clear_error(block, named):
    with pytest.raises(InputError, match="cohort mine: .*" + re.escape(named)):
        release_of(block, "mine")


def test_a_hospital_says_in_which_state_its_images_are():
    assert release_of({"release": "cuimc"}, "mine").state == ("skull",)
    assert release_of({"release": "cuimc", "state": "defaced"}, "mine").state == ("defaced",)
    assert release_of({"release": "bids", "state": "stripped"}, "mine").state == ("stripped",)


@pytest.mark.parametrize(
    ("pattern", "sequences", "named"),
    [
        ("{patient}/x.nii.gz", SPELLED, "needs {patient} and {sequence}"),
        ("{sequence}.nii.gz", SPELLED, "needs {patient} and {sequence}"),
        ("{patient}/{visit}/{sequence}.nii.gz", SPELLED, "{visit} is unknown"),
        ("{patient}/{}/{sequence}.nii.gz", SPELLED, "{} is unknown"),
        ("{patient}/{sequence}.nii.gz", {**SPELLED, "t1c": "T1"}, "spelled alike"),
        ("{patient}/{sequence}.nii.gz", {"t1n": "T1"}, "must spell t1n, t1c, t2w, t2f"),
    ],
)
def test_a_pattern_that_cannot_tell_files_apart_is_refused(pattern, sequences, named):
    with pytest.raises(InputError, match=re.escape(named)):
        generic(pattern, sequences, "skull")


def test_a_generic_pattern_takes_whole_words_and_the_same_patient_twice():
    release = generic("{patient}/{patient}_{sequence}.nii.gz", SPELLED, "skull")

    def taken(path):
        return [kind for kind, (pattern,) in release.files.items() if re.fullmatch(pattern, path)]

    assert taken("a/a_T1.nii.gz") == ["t1n"]
    assert taken("a/a_T1ce.nii.gz") == ["t1c"]
    assert taken("a/b_T1.nii.gz") == []
    assert taken("a/a_T1w.nii.gz") == []
    assert taken("a/a_T1xnii.gz") == []


@pytest.mark.parametrize(
    ("t1n", "t1c", "files"),
    [
        ("T1", "T1 post", {"T1 pre": "t1n", "T1": "t1n", "T1 post gad": "t1c", "T1 posterior": "t1n"}),
        ("T1", "Gd T1", {"Gd T1": "t1c", "T1": "t1n", "x T1 Gd": "t1n"}),
        ("T1", "ax T1 Gd", {"ax T1 Gd": "t1c", "ax T1": "t1n", "T1 Gd": "t1n"}),
        ("T1", "T1", None),
    ],
)
def test_a_spelling_inside_a_longer_one_is_the_longer_ones(t1n, t1c, files):
    spelled = {**SPELLED, "t1n": t1n, "t1c": t1c}
    if files is None:
        with pytest.raises(InputError, match="spelled alike"):
            generic("{patient}/*{sequence}*.nii.gz", spelled, "skull")
        return
    release = generic("{patient}/*{sequence}*.nii.gz", spelled, "skull")
    for name, sequence in files.items():
        taken = [kind for kind, (pattern,) in release.files.items() if re.fullmatch(pattern, f"a/{name}.nii.gz")]
        assert taken == [sequence], name


def test_the_disease_of_a_cohort_is_what_its_block_says_else_its_releases():
    assert disease_of({"release": "brats-men"}) == "MEN"
    assert disease_of({"release": "brats-men", "disease": "MET"}) == "MET"
    assert disease_of({"release": "generic"}) == "GLI"
