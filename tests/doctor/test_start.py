"""`neurorad init` recognises every release of the phantom study and writes a config that the doctor accepts."""

import shutil
from pathlib import Path, PurePath

import pytest
import yaml

from neurorad.cli import main
from neurorad.cohorts.releases import RELEASES
from neurorad.configuration import read_config
from neurorad.doctor.checks import check_cohorts, check_leakage, check_weights
from neurorad.doctor.start import SCANS_A_JOB, Found, config_text, own_pattern, recognise
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


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["p/t1.nii", "p/t1c.nii", "p/t2.nii", "p/flair.nii"], "{patient}/*{sequence}.nii"),
        (["p/t1_x.nii", "p/t1c.nii", "p/t2.nii", "p/flair.nii"], "{patient}/*{sequence}*.nii"),
        (["p/s/anat/t1.nii.gz", "p/s/anat/t1gd.nii.gz", "p/s/anat/t2.nii.gz", "p/s/anat/flair.nii.gz"],
         "{patient}/{session}/*/*{sequence}.nii.gz"),
        (["p/t1.nii", "p/t1_gad.nii", "p/t2.nii", "p/flair.nii"], None),  # T1 with and without contrast by one word
        (["p/t1.nii", "p/t2.nii", "p/flair.nii"], None),
    ],
)  # fmt: skip
def test_a_pattern_is_guessed_only_where_words_tell_all_four(names, expected):
    found = own_pattern([PurePath(name) for name in names])
    assert (found["pattern"] if found else None) == expected


def test_many_scans_are_made_in_several_jobs():
    found = Found("ucsf-pdgm", Path("a b: c"), None, 3 * SCANS_A_JOB + 1, 120, 2)
    text = config_text({"x": found}, {"x": ["test"]}, [], {"method": "deepbet"}, Path("enc"))
    block = yaml.safe_load(text)["cohorts"]["x"]
    assert block["shards"] == 4 and block["images"] == "a b: c"
    assert yaml.safe_load(text)["pretraining"]["freeze"] == "enc"


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
