"""One set of versions: pyproject, lock file and the conda environments say the same."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_every_declared_dependency_is_locked_at_its_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["test"]
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (item.split("==") for item in declared)}
    assert pins.items() <= lock().items()


def test_environments_hold_the_locked_pins():
    for name in ("neurorad", "neurorad-cuda"):
        environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
        pinned = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
        assert dict(item.split("==") for item in pinned) == lock()


def test_the_container_recipes_take_their_versions_from_the_lock_file():
    """One base image, the Python that the package asks for, every package from the lock, and all that a study needs."""
    recipes = {name: (ROOT / "envs" / name).read_text() for name in ("Dockerfile", "apptainer.def")}
    bases = {re.search(r"^(?:FROM|From:) (\S+)$", text, re.MULTILINE)[1] for text in recipes.values()}
    assert bases == {"python:3.11-slim-bookworm"}
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == ">=3.11,<3.12"
    needed = (
        "requirements.lock",
        "Snakefile",
        "config.yaml",
        "pyproject.toml",
        "README.md",
        "workflow",
        "resources",
        "slurm",
    )
    for text in recipes.values():
        assert "--requirement /opt/neurorad/requirements.lock" in text
        assert "--no-deps --editable /opt/neurorad" in text
        assert not re.search(r"pip install.*==", text)
        copied = "\n".join(line for line in text.splitlines() if "/opt/neurorad" in line and "pip" not in line)
        assert all((ROOT / name).exists() and re.search(rf"\b{re.escape(name)}\b", copied) for name in needed)
