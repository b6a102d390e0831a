"""The preprocessing contract: what every volume of a study, and the encoder that is to see them, have in common."""

from collections.abc import Mapping
from typing import Any

from neurorad.problems import InputError


def contract_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two preprocessing contracts, one text a key: `"spacing: [3, 3, 3] against [1, 1, 1]"`."""
    absent = "absent"
    return [
        f"{key}: {expected.get(key, absent)} against {found.get(key, absent)}"
        for key in sorted({*expected, *found})
        if expected.get(key, absent) != found.get(key, absent)
    ]


def imaging_of(contract: Mapping[str, Any]) -> dict[str, Any]:
    """The config's `imaging` settings that make volumes of a contract; without brain mask and atlas, which it names only.

    Raises:
        InputError: the contract lacks one.
    """
    missing = {"spacing_mm", "shape", "n4"} - set(contract)
    if missing:
        raise InputError(f"the encoder's card: preprocessing lacks {', '.join(sorted(missing))}")
    return {
        "spacing": contract["spacing_mm"],
        "shape": contract["shape"],
        "n4": contract["n4"],
        "missing_sequence": contract.get("missing_sequence", "exclude"),
    }
