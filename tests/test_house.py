"""The house itself: how long a file may be, and that a commit is checked by what `make lint` runs."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {".py", ".smk", ".js", ".css", ".html", ".yaml", ".sh"}
FOLDERS = ("workflow", "tests", "benchmarks", "resources", "config", "slurm", "envs")


def test_no_source_file_has_more_than_400_lines():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [ROOT / "Snakefile", *files]}
    assert len(lengths) > 300
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > 400} == {}


def test_the_hooks_before_a_commit_are_the_commands_of_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n?)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    commands = [line.strip().removeprefix("$(ACTIVE) ") for line in recipe.splitlines()]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == commands
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    # A command names its own files.
    assert not any(hook["pass_filenames"] for hook in local["hooks"])
