"""`neurorad init` recognises every release of the phantom study and writes a config that the doctor accepts."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from neurorad.cli import main
from neurorad.cohorts.releases import RELEASES
from neurorad.configuration import read_config
from neurorad.doctor.checks import check_cohorts, check_leakage, check_weights
from neurorad.doctor.start import IMAGING, PRETRAINING, SCANS_A_JOB, Found, config_text, recognise
from neurorad.files import write_json
from neurorad.pretraining.presets import read_preset
from neurorad.problems import InputError
from tests.cohorts.layouts import write

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in RELEASES if name != "bids"]
LABELLED = {
    "ucsf-pdgm": "UCSF-PDGM-metadata_v5.csv",
    "upenn-gbm": "UPENN-GBM_clinical_info_v2.1.csv",
    "cuimc": "cuimc.csv",
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> Path:
    """A folder with every release of the phantom study, a few scans each."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        main(
            [
                "phantom",
                "--cohort",
                name,
                "--out",
                str(folder / name),
                "--seed",
                "0",
                "--scale",
                "0.02",
                "--spacing",
                "4",
            ]
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_release_is_recognised_by_its_layout_whatever_its_folder_is_called(releases, tmp_path, name):
    shutil.copytree(releases / name, tmp_path / "unpacked")
    (found,) = recognise(tmp_path / "unpacked")
    assert (found.release, found.images) == (name, tmp_path / "unpacked")
    assert found.scans > 0
    assert found.labels == (tmp_path / "unpacked" / LABELLED[name] if name in LABELLED else None)


@pytest.mark.slow
def test_the_config_of_all_of_them_is_one_that_the_doctor_accepts(releases, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    main(["init", str(releases), "--out", str(path)])
    assert f"Next: neurorad doctor --configfile {path}" in capsys.readouterr().out
    config = read_config(path)
    assert sorted(config["cohorts"]) == sorted(NAMES)
    roles = {name: block["role"] for name, block in config["cohorts"].items()}
    assert {name for name, role in roles.items() if role == ["test"]} == set(LABELLED)
    findings = [*check_cohorts(config)[0], *check_weights(config), *check_leakage(config)]
    assert [text for level, text in findings if level == "PROBLEM"] == []
    for method in config["pretraining"]["methods"]:
        read_preset(ROOT / "resources" / "presets.yaml", config["pretraining"]["preset"], method)


def scans_of(folder: Path, number: int = 2) -> Path:
    for patient in range(1, number + 1):
        for name in ("T1", "T1c", "T2", "FLAIR"):
            place = folder / f"UCSF-PDGM-{patient:04d}_nifti"
            write(place / f"UCSF-PDGM-{patient:04d}_{name}.nii.gz", shape=(48, 48, 31), spacing=5.0)
    return folder


def test_roles_are_those_of_the_flags_and_each_line_is_explained(tmp_path):
    out = tmp_path / "study.yaml"
    folder = scans_of(tmp_path / "here")
    main(["init", str(folder), "--pretrain", "ucsf-pdgm", "--test", "ucsf-pdgm", "--out", str(out)])
    config = yaml.safe_load(out.read_text())
    assert config["cohorts"]["ucsf-pdgm"]["role"] == ["pretrain", "test"]
    assert config["cohorts"]["ucsf-pdgm"]["images"] == str(folder)
    text = out.read_text()
    assert "# 2 complete scans of 2 patients" in text
    assert "# labels: its label table; none was found" in text
    assert text.count("#") > 10


def test_a_bids_folder_gets_a_state_that_the_user_must_look_at(tmp_path):
    for name in ("T1w", "ce-gad_T1w", "T2w", "FLAIR"):
        write(tmp_path / "study" / "sub-01" / "anat" / f"sub-01_{name}.nii.gz")
    out = tmp_path / "study.yaml"
    main(["init", str(tmp_path / "study"), "--pretrain", "bids", "--test", "bids", "--out", str(out)])
    assert read_config(out)["cohorts"]["bids"]["state"] == "skull"
    assert "state: skull  # stripped, defaced or skull" in out.read_text()


def test_the_state_is_what_the_first_scan_shows(tmp_path):
    brain = np.zeros((24, 24, 16), np.float32)
    brain[7:17, 7:17, 4:12] = np.arange(8) + 1
    for name in ("T1", "T1ce", "T2", "FLAIR"):
        path = tmp_path / "mri" / "A" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(brain, np.diag([10, 10, 10, 1])), path)
    out = tmp_path / "study.yaml"
    main(["init", str(tmp_path / "mri"), "--pretrain", "generic", "--test", "generic", "--out", str(out)])
    assert read_config(out)["cohorts"]["generic"]["state"] == "stripped"


@pytest.mark.parametrize("place", ["mri", "."])
def test_a_table_is_the_labels_if_it_has_a_patient_of_the_scans(tmp_path, place):
    for name in ("T1", "T1ce", "T2", "FLAIR"):
        write(tmp_path / "mri" / "Patient 1" / f"{name}.nii.gz")
    table = tmp_path / place / "mine.csv"
    for text in ("patient,idh1\nPatient 2,mutant\n", "patient,weight\nPatient 2,80\n", "name\nPatient 1\n"):
        table.write_text(text)
        assert [found.labels for found in recognise(tmp_path / "mri")] == [None]
    # Also with a value that no dictionary knows: the doctor says so.
    for text in ("patient,idh1\nPatient 1,mutant\n", "patient,idh1\nPatient 1,perhaps\n"):
        table.write_text(text)
        assert [found.labels for found in recognise(tmp_path / "mri")] == [table]
    (tmp_path / place / "second.csv").write_text("patient,mgmt\nPatient 1,1\n")
    assert [found.labels for found in recognise(tmp_path / "mri")] == [None]


@pytest.mark.parametrize(("contrast", "spelling"), [("ax_T1_Gd", "T1_Gd"), ("post_ax_T1", "post_ax_T1")])
def test_contrast_said_by_a_word_of_its_own_is_understood(tmp_path, contrast, spelling):
    for name in ("ax_T1", contrast, "ax_T2", "ax_FLAIR"):
        write(tmp_path / "mri" / "A" / f"{name}.nii.gz")
    (found,) = recognise(tmp_path / "mri")
    assert found.own["sequences"] == {"t1n": "T1", "t1c": spelling, "t2w": "T2", "t2f": "FLAIR"}
    assert found.scans == 1


@pytest.mark.parametrize(
    "names",
    [
        ("post_T1", "post_T1ce", "post_T2", "post_FLAIR"),
        ("T1", "T1_pre_contrast", "T2", "FLAIR"),
        ("T1_post", "T1_gad", "T2", "FLAIR"),
        ("T1_post_x", "T1ce_x", "T2_FLAIR_x", "T2_x"),
    ],
)
def test_a_folder_that_may_have_the_two_t1_mixed_up_is_not_recognised(tmp_path, capsys, names):
    for name in names:
        write(tmp_path / "mri" / "A" / "post" / f"{name}.nii.gz")
    out = tmp_path / "study.yaml"
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "mri"), "--pretrain", "generic", "--test", "generic", "--out", str(out)])
    assert "holds no scan of a known release" in capsys.readouterr().err
    assert not out.exists()


def test_scans_of_a_hospitals_own_names_get_a_pattern_that_finds_them(tmp_path):
    for patient, session in (("A", "1"), ("A", "2"), ("B", "1")):
        for name in ("ax_T1", "ax_T1ce", "sag_T2", "ax_FLAIR", "ax_T1ce_seg"):
            write(tmp_path / "mri" / patient / session / f"{name}.nii.gz")
    out = tmp_path / "study.yaml"
    main(["init", str(tmp_path / "mri"), "--pretrain", "generic", "--test", "generic", "--out", str(out)])
    block = read_config(out)["cohorts"]["generic"]
    assert block["pattern"] == "{patient}/{session}/*{sequence}.nii.gz"
    assert block["sequences"] == {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}
    assert "# 3 complete scans of 2 patients" in out.read_text()
    assert "state: skull  # stripped, defaced or skull" in out.read_text()


def test_many_scans_are_made_in_several_jobs():
    found = Found("ucsf-pdgm", Path("a b: c"), None, 3 * SCANS_A_JOB + 1, 120, 2)
    text = config_text({"x": found}, {"x": ["test"]}, [], IMAGING, PRETRAINING | {"freeze": "enc"})
    block = yaml.safe_load(text)["cohorts"]["x"]
    assert block["shards"] == 4 and block["images"] == "a b: c"


def encoders_in(folder: Path, *names: str) -> Path:
    """Finished encoders as far as a config needs them: their cards."""
    contract = {"spacing_mm": 3.0, "shape": [48, 64, 48], "n4": True, "missing_sequence": "zero"}
    fixed = {"sequences": ["t1n", "t1c", "t2w", "t2f"], "axes": "RAS", "atlas": "MNI152 ICBM 2009a symmetric, rigid"}
    contract |= fixed | {"normalisation": "z-score inside the brain, background 0"}
    contract["interpolation"] = "linear, of voxels of the brain alone"
    for name in names:
        write_json(
            folder / name / "card.json", {"architecture": {}, "preprocessing": contract, "preset": {"name": "demo"}}
        )
        (folder / name / "encoder.safetensors").touch()
    return folder


def test_with_finished_encoders_every_cohort_is_tested_on_volumes_as_they_saw(tmp_path, monkeypatch):
    encoders_in(tmp_path / "encoders", "moco-base-s1", "moco-dro-s1", "mae-base-s1", "mae-dro-s1")
    scans_of(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    main(["init", "here", "--encoders", "encoders", "--out", "study.yaml"])
    config = read_config(tmp_path / "study.yaml")
    assert config["cohorts"]["ucsf-pdgm"]["role"] == ["test"]
    assert {key: config["imaging"][key] for key in ("spacing", "shape", "n4", "missing_sequence")} == {
        "spacing": 3,
        "shape": [48, 64, 48],
        "n4": True,
        "missing_sequence": "zero",
    }
    trained = config["pretraining"]
    assert (trained["methods"], trained["objectives"], trained["seeds"]) == (["mae", "moco"], ["base", "dro"], [1])
    # A study may run in any folder: `snakemake --directory`.
    assert trained["freeze"] == str(tmp_path / "encoders")
    assert config["cohorts"]["ucsf-pdgm"]["images"] == str(tmp_path / "here")
    assert [text for level, text in check_weights(config) if level == "PROBLEM"] == []


def test_other_volumes_than_the_encoders_saw_are_a_problem_before_any_is_made(tmp_path, capsys):
    out = tmp_path / "study.yaml"
    folder = encoders_in(tmp_path / "encoders", "byol-base-s0")
    main(["init", str(scans_of(tmp_path / "here")), "--encoders", str(folder), "--out", str(out)])
    config = read_config(out)
    config["imaging"]["spacing"] = 1
    (problem,) = [text for level, text in check_weights(config) if level == "PROBLEM"]
    assert "byol-base-s0 saw other volumes than `imaging:` makes" in problem
    assert problem.endswith("spacing_mm: 3.0 against 1.0")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "no cohort to pretrain on among ucsf-pdgm; say which with --pretrain NAME, or give finished encoders"),
        (["--pretrain", "ucsf-pdgm"], "no cohort to test on among ucsf-pdgm; say which with --test NAME"),
        (["--test", "upenn"], "no cohort is called upenn; found were ucsf-pdgm"),
        (["--encoders", "e", "--hd-bet", "nowhere"], "nowhere: has no fold_all/checkpoint_final.pth"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line(tmp_path, capsys, flags, said):
    out = tmp_path / "study.yaml"
    with pytest.raises(SystemExit) as left:
        main(["init", str(scans_of(tmp_path / "here")), *flags, "--out", str(out)])
    assert left.value.code == 2 and not out.exists()
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_of_something_else_shows_what_each_release_looks_like(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "holiday.jpg").write_bytes(b"x" * 200)
    with pytest.raises(InputError, match="holds no scan of a known release.*UCSF-PDGM-0004_nifti/.*generic"):
        recognise(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        recognise(tmp_path / "nowhere")


def test_an_existing_config_is_never_overwritten(tmp_path, capsys):
    out = tmp_path / "study.yaml"
    out.write_text("mine")
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path), "--out", str(out)])
    assert out.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err
