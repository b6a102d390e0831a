"""Numbers on a command line: a wrong one is an error of the flag, not of what it breaks an hour later."""

import argparse
import math

LARGEST = 2**31 - 1
"""Where the whole numbers of the libraries end that counts go to."""


def positive(text: str) -> int:
    """At least 1."""
    number = _at_least(1, text)
    if number > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LARGEST}")
    return number


def natural(text: str) -> int:
    """At least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return number


def seconds(text: str) -> float:
    """At least 0, and finite: with NaN no time would ever be over."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds of at least 0")
    return number
