"""The planted study, its figures drawn and written."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from neurorad.reporting.inputs import Tables
from neurorad.reporting.registry import FIGURES, caption, figure
from neurorad.reporting.theme import theme, write_figure
from tests.reporting.planted import planted_study, without_rows


@pytest.fixture
def study() -> Tables:
    return planted_study()


@pytest.fixture
def empty_study() -> Tables:
    return without_rows(planted_study())


@pytest.fixture(scope="session")
def drawn() -> Callable:
    """Name -> the figure of the planted study, laid out; drawn once for all tests, which only look at it."""
    tables = planted_study()

    @cache
    def draw(name: str):
        picture = figure(name, tables)
        with theme():
            picture.draw_without_rendering()
        return picture

    return draw


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """A folder with every figure of the planted study as it is written."""
    folder, tables = tmp_path_factory.mktemp("figures"), planted_study()
    for name, entry in FIGURES.items():
        picture = figure(name, tables)
        write_figure(picture, folder / name, entry.title, f"{caption(name)} {picture.get_label()}")
    return folder
