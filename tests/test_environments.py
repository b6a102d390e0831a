"""One set of versions: pyproject, lock file and the conda environments say the same."""

import re
import tomllib
from pathlib import Path

import yaml

from neurorad.provenance.crate import SOURCES

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


def copied() -> dict[str, dict[str, str]]:
    """Recipe -> each file or folder of the checkout that it takes -> where it puts it, as the engine would."""
    lines = (ROOT / "envs" / "Dockerfile").read_text().splitlines()
    docker = {}
    for line in lines:
        if line.startswith("COPY "):
            *sources, place = line.split()[1:]
            # A place that ends in a slash is a folder to put files into; without one it is the name of the copy.
            docker |= {name: f"{place}{name}" if place.endswith("/") else place for name in sources}
    section = re.search(r"^%files\n((?: +.*\n)+)", (ROOT / "envs" / "apptainer.def").read_text(), re.MULTILINE)[1]
    apptainer = dict(line.split() for line in section.splitlines())
    return {"Dockerfile": docker, "apptainer.def": apptainer}


def test_what_the_container_recipes_copy_is_there_and_lies_inside_as_in_the_repository():
    """Both take the same, each exists, and what a study publishes of its own code (`workflow.zip`) is among it."""
    recipes = copied()
    assert recipes["Dockerfile"] == recipes["apptainer.def"]
    for name, place in recipes["Dockerfile"].items():
        assert (ROOT / name).exists(), name
        assert place == f"/opt/neurorad/{name}"
    assert set(SOURCES) <= set(recipes["Dockerfile"])


def test_the_environments_have_the_python_that_the_package_and_the_recipes_have():
    for name in ("neurorad", "neurorad-cuda"):
        held = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"]
        assert "python=3.11" in held


def test_the_citation_file_is_of_this_version_and_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert all({"type", "title", "authors"} <= set(entry) for entry in cited["references"])
