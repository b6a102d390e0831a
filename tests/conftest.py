import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Tests compare with numbers of the CPU, also where there is a GPU; only `pytest -m gpu` sees it."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real scans and tables that are not part of the project; tests that use them are skipped where there are none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the shared real data")
    return folder
