"""The workflow catalogue's way in plans the same study as the root's."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.test_incremental import config

ROOT = Path(__file__).resolve().parents[2]


def planned(folder: Path, snakefile: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", snakefile, "--directory", folder, "--configfile", folder / "c.yaml"]
        + ["-n", "--quiet", "reason", "--printshellcmds"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return sorted(line.strip() for line in done.stdout.splitlines() if "neurorad " in line)


@pytest.fixture
def study(tmp_path) -> Path:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config(tmp_path)))
    return tmp_path


def test_both_snakefiles_plan_the_same_commands(study):
    commands = planned(study, ROOT / "Snakefile")
    assert len(commands) > 10
    assert planned(study, ROOT / "workflow" / "Snakefile") == commands


def test_what_the_catalogue_looks_for_is_there():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {"conda": True} and usage["report"] is True
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (ROOT / "config" / "README.md").is_file()
