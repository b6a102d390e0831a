"""The recipes of docs/extending.md, applied to a copy of the repository as they stand there, do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.cohorts.layouts import write
from tests.pretraining.conftest import write_study, write_tiny_presets

ROOT = Path(__file__).resolve().parents[1]
NEW = re.compile(r"^`(?P<path>[^`]+)` \(new file\):\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGED = re.compile(r"^`(?P<path>[^`]+)`: `(?P<old>[^`]+)` becomes `(?P<new>[^`]+)`\.$", re.MULTILINE)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("extended")
    for name in ("workflow", "resources"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    recipes = (ROOT / "docs" / "extending.md").read_text()
    for made in NEW.finditer(recipes):
        assert not (copy / made["path"]).exists()
        (copy / made["path"]).write_text(made["text"])
    changes = list(CHANGED.finditer(recipes))
    assert len(changes) > 10
    for change in changes:
        text = (copy / change["path"]).read_text()
        old, new = (change[key].replace("\\n", "\n") for key in ("old", "new"))
        assert text.count(old) >= 1, f"{change['path']} has no {old!r}"
        (copy / change["path"]).write_text(text.replace(old, new))
    return copy


def run(copy: Path, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy / "workflow"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_each_recipe_is_short():
    for recipe in (ROOT / "docs" / "extending.md").read_text().split("\n## ")[1:]:
        lines = [line for made in NEW.finditer(recipe) for line in made["text"].splitlines() if line.strip()]
        assert len(lines) + len(CHANGED.findall(recipe)) <= 40
        assert len([line for line in lines if not line.startswith(("from ", "import ", '"""'))]) < 30


def test_a_release_of_its_own_is_read(extended, tmp_path):
    for sequence in ("T1", "T1C", "T2", "FLAIR"):
        write(tmp_path / "data" / "MY-001" / f"MY-001_{sequence}.nii.gz")
    (tmp_path / "table.csv").write_text("ID,IDH\nMY-001,mutated\n")
    inventory = ["inventory", "--cohort", "mine", "--release", "my-release", "--images", tmp_path / "data"]
    run(extended, "-m", "neurorad", *inventory, "--out", tmp_path / "scans.tsv", "--unknown", tmp_path / "unknown.txt")
    scans = pd.read_csv(tmp_path / "scans.tsv", sep="\t", dtype=str)
    assert scans[["patient", "state"]].values.tolist() == [["MY-001", "stripped"]]
    labels = run(extended, "-m", "neurorad", "labels", "--release", "my-release", "--table", tmp_path / "table.csv")
    assert "MY-001" in labels and "glioblastoma" in labels


def test_a_method_of_its_own_trains_under_group_dro(extended, tmp_path):
    manifest = write_study(tmp_path / "study")
    presets = write_tiny_presets(tmp_path / "presets.yaml")
    tiny = yaml.safe_load(presets.read_text())
    tiny["tiny"]["simsiam"] = {"crop": {"size": 16, "scale": [0.5, 1.0]}, "hidden": 16, "output": 8}
    presets.write_text(yaml.safe_dump(tiny))
    arguments = ["pretrain", "--method", "simsiam", "--objective", "dro", "--seed", 0, "--preset", "tiny"]
    run(extended, "-m", "neurorad", *arguments, "--presets", presets, "--manifest", manifest, "--out", tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["method"] == "simsiam"
    weights = pd.read_csv(tmp_path / "out" / "groups.csv")
    assert weights.groupby("step")["weight"].sum().round(6).eq(1).all()
    shipped = yaml.safe_load((extended / "resources" / "presets.yaml").read_text())
    assert shipped["demo"]["simsiam"]["hidden"] == 256
    schema = yaml.safe_load((extended / "workflow" / "schemas" / "config.schema.yaml").read_text())
    assert "simsiam" in json.dumps(schema)


def test_an_endpoint_of_its_own_is_known_and_read(extended, tmp_path):
    code = "from neurorad.endpoints import endpoints; print(endpoints()['h3k27m'].label)"
    assert run(extended, "-c", code) == "H3 K27M\n"
    columns = "patient,age,sex,grade,diagnosis,idh1,mgmt,1p19q,egfr,atrx,tp53,cdkn2ab,tert,ki67,os_days,event,h3k27m"
    (tmp_path / "table.csv").write_text(f"{columns}\nA,50,M,4,glioblastoma,0,1,0,,,,,,,,,1\n")
    read = run(extended, "-m", "neurorad", "labels", "--release", "generic", "--table", tmp_path / "table.csv")
    header, row = (line.split("\t") for line in read.splitlines()[:2])
    assert dict(zip(header, row, strict=True))["h3k27m"] in {"1", "1.0"}


def test_a_metric_of_its_own_has_a_row_with_an_interval(extended):
    code = """
import numpy as np
from neurorad.evaluation.metrics import bootstrap_counts
from neurorad.evaluation.probe import score_rows
random = np.random.default_rng(0)
truth = np.repeat([0, 1], 30)
score = truth + random.normal(size=60)
mean = {"score": score - 0.5, "margin": score - 0.5, "probability": 1 / (1 + np.exp(-score))}
rows = {row["metric"]: row for row in score_rows(truth, mean, truth, bootstrap_counts(60, 200, random))}
assert rows["youden"]["ci_low"] < rows["youden"]["value"] < rows["youden"]["ci_high"]
print(rows["youden"]["value"] - rows["sensitivity"]["value"] - rows["specificity"]["value"] + 1)
"""
    assert abs(float(run(extended, "-c", code))) < 1e-9
