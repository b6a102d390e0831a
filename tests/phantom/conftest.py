"""A very small synthetic study at 4 mm: each cohort is rendered once, when a test first asks for it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neurorad import RESOURCES
from neurorad.phantom import anatomy
from neurorad.phantom.plan import Plan, plan, read_recipe
from neurorad.phantom.releases import write_cohort
from neurorad.phantom.render import Study

SPACING = 4.0


@pytest.fixture(scope="session")
def shipped() -> dict[str, Any]:
    return read_recipe(RESOURCES / "phantom.yaml")


@pytest.fixture
def recipe(shipped) -> dict[str, Any]:
    """The shipped recipe, to be changed by a test."""
    return copy.deepcopy(shipped)


@pytest.fixture(scope="session")
def large(shipped) -> Plan:
    """Fifty times the shipped study, on paper only."""
    return plan(shipped, 0, 50)


@pytest.fixture(scope="session")
def study(shipped) -> Study:
    return Study(shipped, 0, SPACING, plan(shipped, 0, 0.1))


@pytest.fixture(scope="session")
def release(study, tmp_path_factory) -> Callable[[str], Path]:
    """Folder of a rendered cohort."""
    root, made = tmp_path_factory.mktemp("phantom"), {}

    def folder(cohort: str) -> Path:
        if cohort not in made:
            made[cohort] = root / cohort
            write_cohort(study, cohort, made[cohort])
        return made[cohort]

    return folder


@pytest.fixture(scope="session")
def scan_of(study) -> Callable[..., dict[str, Any]]:
    """The scan of a cohort at a position, as the writers are handed it."""

    def scan(cohort: str, at: int = 0, within: Study = study) -> dict[str, Any]:
        scans = within.plan.scans
        return scans[scans["cohort"] == cohort].iloc[at].to_dict()

    return scan


@pytest.fixture(scope="session")
def with_latents() -> Callable[..., Study]:
    """A study in which one scan's patient has other latents."""

    def changed(study: Study, scan: dict[str, Any], **latents: float) -> Study:
        patients = study.plan.patients.copy()
        own = (patients["cohort"] == scan["cohort"]) & (patients["patient"] == scan["patient"])
        for name, value in latents.items():
            patients.loc[own, f"latent_{name}"] = value
        return replace(study, plan=replace(study.plan, patients=patients))

    return changed


@pytest.fixture(scope="session")
def atlas() -> anatomy.Template:
    """The template as the study's spacing smooths it."""
    return anatomy.template(0.35 * SPACING)
