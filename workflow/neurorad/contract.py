"""The preprocessing contract: what every volume of a study, and the encoder that is to see them, have in common."""

from collections.abc import Mapping
from typing import Any


def contract_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two preprocessing contracts, one text a key: `"spacing: [3, 3, 3] against [1, 1, 1]"`."""
    absent = "absent"
    return [
        f"{key}: {expected.get(key, absent)} against {found.get(key, absent)}"
        for key in sorted({*expected, *found})
        if expected.get(key, absent) != found.get(key, absent)
    ]
