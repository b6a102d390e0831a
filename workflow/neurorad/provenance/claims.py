"""The claim ledger: each number of the paper, the rule that makes it again, and what this study found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from neurorad import RESOURCES
from neurorad.files import read_yaml
from neurorad.problems import InputError

COLUMNS = ("claim", "paper", "this_study", "made_of", "rule", "file", "source", "contradiction")


def read_claims() -> list[dict[str, Any]]:
    """The paper's numbers, as declared in `resources/claims.yaml`."""
    return read_yaml(RESOURCES / "claims.yaml")["claims"]


def ledger(tables: Mapping[str, pd.DataFrame], claims: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a claim, in the order of the declaration.

    Args:
        tables: this study's tables by name, as in `results/tables/NAME.csv`; those that a study does not have may be absent.

    Returns:
        Columns `COLUMNS`, all text. `this_study` is empty where the study has no such number; `made_of` says of how many rows
        it is the mean, or why it is not there.

    Raises:
        InputError: a table lacks a column that the ledger asks for.
    """
    rows = []
    for claim in claims:
        value, made_of = found(claim, tables)
        table = claim.get("file")
        rows.append(
            {
                "claim": claim["claim"],
                "paper": _text(claim.get("paper")),
                "this_study": value,
                "made_of": made_of,
                "rule": claim.get("rule", f"table_{table}"),
                "file": f"results/tables/{table}.csv" if table else "",
                "source": claim["source"],
                "contradiction": " ".join(claim.get("contradiction", "").split()),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def found(claim: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> tuple[str, str]:
    """A claim's number in this study as text, and what it is made of or why there is none."""
    name = claim.get("file")
    if name is None:
        return "", "no number of a table"
    if name not in tables:
        return "", f"this study has no table {name}"
    table = tables[name]
    if table.empty:
        return "", "this study has no such row"
    column = claim.get("column", "value")
    if missing := [wanted for wanted in (*claim["rows"], column) if wanted not in table]:
        raise InputError(
            f"table {name}: has no column {', '.join(missing)}, which the claim `{claim['claim']}` asks for"
        )
    meant = pd.Series(True, index=table.index)
    for wanted, values in claim["rows"].items():
        meant &= table[wanted].astype(str).isin(map(str, values))
    values = table.loc[meant, column]
    if values.empty:
        return "", "this study has no such row"
    known = values.dropna()
    if known.empty:
        return "", f"not estimable in any of {len(values)} rows"
    numbers = pd.to_numeric(known, errors="coerce")
    if len(known) == 1:
        return _text(known.iloc[0] if numbers.isna().any() else numbers.iloc[0]), "one row"
    return _text(float(numbers.mean())), f"mean of {len(known)} rows" + _left(len(values) - len(known))


def _left(number: int) -> str:
    return f", {number} more are not estimable" if number else ""


def _text(value: Any) -> str:
    """A number with three decimals at most, or as printed if it is none of the size of a metric."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}" if abs(value) >= 1e-3 else f"{value:.3g}"
