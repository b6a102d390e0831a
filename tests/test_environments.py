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
