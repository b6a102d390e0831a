"""The endpoints a probe may predict, as declared in `resources/endpoints.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from neurorad import RESOURCES
from neurorad.files import read_yaml

TIMES = {"os": ("os_days", "event"), "pfs": ("pfs_days", "progressed")}
"""Time-to-event endpoint -> its columns of patients.tsv: days, and 1 event or 0 censored. Progression counts from the same
day as survival; a death without progression ends it as the hospital's table says."""

CUTOFFS = {"ki67_cutoff": "ki67", "tp53_cutoff": "tp53_percent"}
"""Key of the config's `labels` block -> the number that it cuts. `resources/endpoints.yaml` has the default of an endpoint."""


@dataclass(frozen=True)
class Endpoint:
    """One molecular marker or grade.

    Attributes:
        name: column of `patients.tsv`.
        label: how figures and tables write it.
        kind: `binary` (values 0/1), `continuous` (also regressed as it is) or `ordinal` (only cut).
        cutoff: a number at or above it is positive; None for a binary endpoint.
    """

    name: str
    label: str
    kind: str
    cutoff: float | None = None


def endpoints(decided: Mapping[str, Any] | None = None) -> dict[str, Endpoint]:
    """Every endpoint by name. `decided`: the config's `labels` block, whose cut-offs go before the declared ones."""
    declared = read_yaml(RESOURCES / "endpoints.yaml")
    known = {name: Endpoint(name, **entry) for name, entry in declared.items()}
    chosen = decided or {}
    for key, name in CUTOFFS.items():
        if key in chosen and name in known:
            known[name] = replace(known[name], cutoff=float(chosen[key]))
    return known


def binary(values: pd.Series, endpoint: Endpoint) -> pd.Series:
    """Labels as 1.0, 0.0 or NaN (unknown); a number is cut at the declared cut-off."""
    numbers = values.astype(float)
    if endpoint.cutoff is None:
        return numbers
    return (numbers >= endpoint.cutoff).astype(float).where(numbers.notna())
