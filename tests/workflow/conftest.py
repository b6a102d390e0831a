from pathlib import Path

import pytest

from tests.workflow.small_study import STUDY, finish, new_study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """The small study, finished without a break; read-only for the tests that share it."""
    folder = new_study(tmp_path_factory.mktemp("study") / "straight", STUDY)
    finish(folder)
    return folder
