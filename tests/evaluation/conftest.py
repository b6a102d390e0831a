"""A small multi-site study on paper: patients, labels and embeddings with what a test plants in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from neurorad.endpoints import Endpoint, endpoints
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import Cell, cells, check_labels, fold_table


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """As the CLI runs: on matrices this small, threads only wait for each other."""
    with threadpool_limits(1):
        yield


SITES = {"east": 36, "north": 30, "west": 24}


@dataclass(frozen=True)
class Study:
    """Rows of all tables and features are in one order: by site, then by patient."""

    analysis: pd.DataFrame
    labels: pd.DataFrame

    @property
    def patients(self) -> pd.DataFrame:
        return check_labels(self.labels, endpoints())

    @property
    def site(self) -> np.ndarray:
        return self.analysis["cohort"].to_numpy(str)

    def folds(self, folds: int = 5, repeats: int = 1, seed: int = 0) -> pd.DataFrame:
        return fold_table(self.analysis, self.patients, endpoints(), folds, repeats, seed)

    def cell(self, endpoint: str, protocol: str, site: str = "all", **drawn: int) -> Cell:
        found = [
            c for c in cells(self.folds(**drawn)) if (c.endpoint, c.protocol, c.site) == (endpoint, protocol, site)
        ]
        assert len(found) == 1
        return found[0]

    def table(self, x: np.ndarray, encoder: str = "byol-base-s0") -> pd.DataFrame:
        features = {f"e{i}": column for i, column in enumerate(np.asarray(x, dtype=float).T)}
        return self.analysis.assign(encoder=encoder, **features)

    def embeddings(self, x: np.ndarray, encoder: str = "byol-base-s0") -> Embeddings:
        return Embeddings([self.table(x, encoder)], encoder)


@pytest.fixture(scope="session")
def study() -> Callable[..., Study]:
    """`study(sites, **columns)`: a column of labels is an array over all patients, a number a constant."""

    def make(sites: dict[str, int] | None = None, **columns: Any) -> Study:
        people = [(site, f"p{i:03d}") for site, n in sorted((sites or SITES).items()) for i in range(n)]
        who = pd.DataFrame(people, columns=["cohort", "patient"])
        return Study(who.assign(scan=who["cohort"] + "-" + who["patient"]), who.assign(**columns))

    return make


@pytest.fixture(scope="session")
def known() -> dict[str, Endpoint]:
    return endpoints()


@pytest.fixture(scope="session")
def glioblastomas(study) -> Callable[..., Study]:
    """`glioblastomas(hazard, ...)`: everybody IDH-wildtype, exponential times at exp(hazard), censored at random."""

    def make(
        hazard: np.ndarray, censored: float = 0.3, sites: dict[str, int] | None = None, seed: int = 0, **columns: Any
    ) -> Study:
        random = np.random.default_rng(seed)
        days = np.ceil(400 * random.exponential(size=len(hazard)) * np.exp(-hazard))
        event = (random.random(len(hazard)) >= censored).astype(float)
        return study(sites, **{"idh1": 0, "diagnosis": "Glioblastoma", "os_days": days, "event": event, **columns})

    return make
