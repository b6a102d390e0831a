"""The tidy rows of every evaluation table: one row a number, with its interval, its counts and its caveats."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from neurorad.encoder_names import encoder_parts

COLUMNS = (
    "encoder",
    "method",
    "objective",
    "seed",
    "site",
    "endpoint",
    "protocol",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_positive",
    "n_events",
    "note",
    "leakage",
)

NEEDED = 5
"""Fewer positives, negatives, events or patients than this and the number is not estimated."""
WARNED = 20
"""Fewer than this and the row carries a warning."""


def tidy(rows: Iterable[dict[str, Any]], leakage: str, encoder: str | None = None) -> pd.DataFrame:
    """Rows as a table that begins with `COLUMNS`; counts nobody gave are missing, further keys follow as columns.

    Args:
        rows: at least site, endpoint, protocol, metric and value; `encoder` too unless given as argument.
        leakage: stamp of the leakage audit, written into every row.
    """
    complete = []
    for row in rows:
        name = row["encoder"] if encoder is None else row.get("encoder", encoder)
        method, objective, seed = encoder_parts(name) if "method" not in row else (None, None, None)
        first = {"encoder": name, "method": method, "objective": objective, "seed": seed}
        complete.append({**first, **row, "note": row.get("note", ""), "leakage": leakage})
    extra = [key for key in dict.fromkeys(key for row in complete for key in row) if key not in COLUMNS]
    table = pd.DataFrame(complete, columns=[*COLUMNS, *extra])
    for column in ("value", "ci_low", "ci_high"):
        table[column] = table[column].astype(float)
    for column in ("seed", "n", "n_positive", "n_events"):
        table[column] = table[column].astype("Int64")
    return table


def shortage(positives: int, n: int, where: str = "") -> str:
    """`not estimable: ...` if either class is too small to say anything, else empty."""
    for count, name in ((positives, "positives"), (n - positives, "negatives")):
        if count < NEEDED:
            return f"not estimable: {count} {name} of {n}{where} (needs {NEEDED})"
    return ""


def warning(positives: int, n: int) -> str:
    """`warning: ...` if a class is so small that intervals are wide, else empty."""
    small = [
        f"{count} {name}" for count, name in ((positives, "positives"), (n - positives, "negatives")) if count < WARNED
    ]
    return f"warning: only {' and '.join(small)}" if small else ""


def join_notes(*notes: str) -> str:
    """The notes that say something, in one."""
    return "; ".join(note for note in notes if note)
