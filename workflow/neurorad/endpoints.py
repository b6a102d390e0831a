"""The endpoints a probe may predict, as declared in `resources/endpoints.yaml`."""

from dataclasses import dataclass

import pandas as pd
import yaml

from neurorad import RESOURCES


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


def endpoints() -> dict[str, Endpoint]:
    declared = yaml.safe_load((RESOURCES / "endpoints.yaml").read_text(encoding="utf-8"))
    return {name: Endpoint(name, **entry) for name, entry in declared.items()}


def binary(values: pd.Series, endpoint: Endpoint) -> pd.Series:
    """Labels as 1.0, 0.0 or NaN (unknown); a number is cut at the declared cut-off."""
    numbers = values.astype(float)
    if endpoint.cutoff is None:
        return numbers
    return (numbers >= endpoint.cutoff).astype(float).where(numbers.notna())
