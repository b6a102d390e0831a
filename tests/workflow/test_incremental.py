"""What runs again after a change, and what does not: studies with a stand-in for the command line, so that jobs cost nothing."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from neurorad.cli import main

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SCANS = 6


def cohort(folder: Path, name: str, role: str, scans: int = SCANS, shards: int = 2) -> dict:
    """A cohort of empty scan folders and a label table."""
    for number in range(scans):
        (folder / "data" / name / f"{name}-{number:05d}").mkdir(parents=True, exist_ok=True)
    table = folder / "data" / f"{name}.csv"
    table.write_text("patient,idh\n" + "".join(f"{name}-{number:05d},wildtype\n" for number in range(scans)))
    return {
        "release": "bids",
        "state": "skull",
        "role": [role],
        "images": f"data/{name}",
        "labels": f"data/{name}.csv",
        "shards": shards,
    }


def config(folder: Path) -> dict:
    return {
        "cohorts": {
            "north": cohort(folder, "north", "pretrain"),
            "south": cohort(folder, "south", "pretrain"),
            "east": cohort(folder, "east", "test"),
            "west": cohort(folder, "west", "test"),
        },
        "imaging": {"spacing": 1, "shape": [160, 192, 160], "n4": True, "brain_mask": {"method": "deepbet"}},
        "pretraining": {"methods": ["byol", "mae"], "objectives": ["base", "dro"], "seeds": [0], "preset": "modern"},
        "evaluation": {"folds": 5, "repeats": 3, "bootstrap": 500, "seed": 0},
        "explanation": {"endpoints": ["idh1"], "patients": 4, "layer": "layer3"},
    }


def snakemake(folder: Path, *arguments: str, root: Path = ROOT) -> str:
    """Run Snakemake on a study in `folder`; the jobs' `python` is the stand-in."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    stand_in = Path(__file__).with_name("stand_in.py")
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -SE {stand_in} "$@"\n')
    (tools / "python").chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", str(root / "Snakefile"), "--directory", str(folder)]
        + ["--configfile", str(folder / "study.yaml"), "--scheduler", "greedy", "--cores", "2", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(root / "workflow"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        },
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]
    return run.stdout + run.stderr


def ran(told: str) -> Counter:
    """Rule -> jobs that ended."""
    names = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", told, re.MULTILINE)
    return Counter(name for name in names if name != "all")


def finish(folder: Path, settings: dict, root: Path = ROOT) -> Counter:
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    return ran(snakemake(folder, root=root))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "study"
    folder.mkdir()
    counts = finish(folder, config(folder))
    assert counts["volumes"] == 8
    assert counts["pretrain"] == counts["explain"] == 4
    return folder


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A finished study of one's own."""
    shutil.copytree(finished, tmp_path / "study", copy_function=shutil.copy2, symlinks=True)
    return tmp_path / "study"


def settings_of(study: Path) -> dict:
    return yaml.safe_load((study / "study.yaml").read_text())


EVALUATION = {"folds", "embed", "probe", "survival", "invariance", "compare", "explain", "clean", "reliability"}
REPORTING = {"report", "documents", "manifest", "crate"}
ABOUT_THE_STUDY = {"claims", "deviations"}


def stages(counts: Counter) -> set[str]:
    """The rules that ran, without figures and tables."""
    return {name for name in counts if not name.startswith(("figure_", "table_"))}


def test_a_second_run_and_touched_files_run_nothing(study):
    for path in [
        *(study / "data").rglob("*.csv"),
        study / "study.yaml",
        *(study / "results" / "cohorts").rglob("*.tsv"),
    ]:
        path.touch()
    told = snakemake(study)
    assert ran(told) == {}
    assert "Nothing to be done" in told


def test_a_new_test_cohort_makes_its_own_volumes_and_embeddings_and_the_evaluation(study):
    settings = settings_of(study)
    settings["cohorts"]["new"] = cohort(study, "new", "test")
    counts = finish(study, settings)
    assert counts["inventory"] == counts["labels"] == counts["qc"] == 1
    assert counts["volumes"] == 2
    assert counts["embed"] == 4 + 2
    assert counts["pretrain"] == 0
    assert counts["probe"] == counts["survival"] == counts["invariance"] == 4 + 2


def test_a_new_pretraining_cohort_trains_every_encoder_again(study):
    settings = settings_of(study)
    settings["cohorts"]["new"] = cohort(study, "new", "pretrain")
    counts = finish(study, settings)
    assert counts["volumes"] == 2
    assert counts["pretrain"] == 4
    assert counts["embed"] == 2 * 5


def test_pinned_encoders_are_used_as_they_are(study):
    settings = settings_of(study)
    shutil.copytree(study / "results" / "encoders", study / "pinned")
    settings["pretraining"]["freeze"] = "pinned"
    finish(study, settings)
    settings["cohorts"]["new"] = cohort(study, "new", "pretrain")
    counts = finish(study, settings)
    assert counts["volumes"] == 2
    assert counts["pretrain"] == counts["embed"] == 0


@pytest.mark.parametrize(("where", "trained"), [("east", 0), ("north", 4)])
def test_one_scan_more_makes_one_shard_of_its_cohort_again(study, where, trained):
    (study / "data" / where / f"{where}-90000").mkdir()
    (study / "data" / where / f"{where}-90000" / "t1.nii.gz").touch()
    counts = finish(study, settings_of(study))
    assert counts["inventory"] == counts["volumes"] == counts["qc"] == 1
    assert counts["pretrain"] == trained
    assert counts["embed"] == (2 * 5 if trained else 4 + 2)


@pytest.mark.parametrize(("where", "trained"), [("east", 0), ("north", 4)])
def test_a_verdict_makes_no_volume_again(study, where, trained):
    """A test scan that a reader fails leaves the evaluation; one that was pretrained on trains the encoders again; a verdict
    that passes makes the page of quality control alone."""
    settings = settings_of(study)
    verdicts = study / "data" / "verdicts.tsv"
    verdicts.write_text(f"scan\tverdict\tcomment\twho\twhen\n{where}-00000\tpass\t\tab\t2026-01-02\n")
    settings["cohorts"][where]["verdicts"] = "data/verdicts.tsv"
    counts = finish(study, settings)
    assert stages(counts) - {"config"} <= {"qc"} | REPORTING | ABOUT_THE_STUDY
    verdicts.write_text(f"scan\tverdict\tcomment\twho\twhen\n{where}-00000\tfail\tmoved\tab\t2026-01-02\n")
    counts = finish(study, settings)
    assert counts["volumes"] == counts["inventory"] == counts["labels"] == 0
    assert counts["volumes_index"] == counts["audit"] == 1
    assert counts["pretrain"] == trained
    # Encoders and the untrained one; the clinical baseline reads no volume, and the stand-in's folds have the same bytes.
    assert counts["probe"] >= 4 + 1


def test_one_label_corrected_embeds_and_trains_nothing(study):
    table = study / "data" / "east.csv"
    table.write_text(table.read_text().replace("wildtype", "mutated", 1))
    counts = finish(study, settings_of(study))
    assert counts["labels"] == 1
    assert stages(counts) <= {"labels", "audit", "excluded", "qc"} | EVALUATION | REPORTING | ABOUT_THE_STUDY
    assert counts["pretrain"] == counts["volumes"] == 0
    assert counts["probe"] == counts["survival"] == 4 + 2
    assert counts["embed"] <= 1  # the clinical baseline reads the label table


def test_an_evaluation_setting_leaves_volumes_encoders_and_embeddings_alone(study):
    settings = settings_of(study)
    settings["evaluation"]["repeats"] = 4
    counts = finish(study, settings)
    assert stages(counts) == (EVALUATION - {"embed"}) | REPORTING | ABOUT_THE_STUDY | {"config"}


@pytest.fixture
def from_copy(tmp_path):
    """A study finished from a copy of the workflow, so that the copy can be changed."""
    root, folder = tmp_path / "code", tmp_path / "study"
    for name in ("workflow", "resources", "envs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", root)
    folder.mkdir()
    finish(folder, config(folder), root)
    return root, folder


def edit(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text, f"{file} has no {old!r}"
    (root / file).write_text(text.replace(old, new, 1))


def test_changed_code_runs_what_it_made_and_what_depends_on_it(from_copy):
    root, folder = from_copy

    def again() -> Counter:
        return finish(folder, settings_of(folder), root)

    edit(root, "workflow/neurorad/reporting/site_figures.py", "def draw_sites", "# a comment\ndef draw_sites")
    assert again() == {}
    edit(root, "workflow/neurorad/reporting/site_figures.py", '"coordinates")\n', '"coordinates").copy()\n')
    figures = {name for name in again() if name.startswith("figure_")}
    assert figures == {"figure_fig4c_sites"}
    edit(root, "workflow/neurorad/evaluation/survival.py", "patients: pd.DataFrame,", "patients: pd.DataFrame | None,")
    counts = again()
    assert counts["survival"] == 6
    assert counts["probe"] == counts["embed"] == counts["pretrain"] == counts["volumes"] == 0
    edit(root, "resources/presets.yaml", "learning_rate: 2.0e-4", "learning_rate: 1.0e-4")
    counts = again()
    assert counts["pretrain"] == 4
    assert counts["volumes"] == counts["inventory"] == 0


def lock_plan(study: Path) -> None:
    main(["lock-plan", "--configfile", str(study / "study.yaml"), "--directory", str(study)])


def test_a_locked_plan_is_written_into_the_tables_and_makes_nothing_else_again(study):
    """Stamps stand in tables alone: no volume, encoder, embedding, evaluation or figure is made for them."""
    lock_plan(study)
    counts = ran(snakemake(study))
    assert {name for name in counts if name.startswith("table_")}
    assert not [name for name in counts if name.startswith("figure_")]
    assert stages(counts) == REPORTING | ABOUT_THE_STUDY
    (study / "analysis_plan.lock.json").touch()
    assert ran(snakemake(study)) == {}


def test_a_change_after_the_lock_is_a_deviation(study):
    lock_plan(study)
    snakemake(study)
    settings = settings_of(study)
    settings["evaluation"]["bootstrap"] = 600
    counts = finish(study, settings)
    assert counts["deviations"] == counts["claims"] == 1
    assert counts["pretrain"] == counts["volumes"] == counts["embed"] == 0
    told = (study / "results" / "tables" / "deviations.csv").read_text()
    assert "evaluation.bootstrap" in told and "; 1 deviation" in told
