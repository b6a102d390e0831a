from pathlib import Path

import pytest

from tests.explanation.small_study import new_study


@pytest.fixture
def study(tmp_path) -> Path:
    return new_study(tmp_path)
