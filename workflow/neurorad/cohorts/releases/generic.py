"""A release described in the config: any folder of NIfTI files whose paths follow one pattern.

Source: the cohort's block: `pattern`, `sequences` (how the files spell the four) and `state`.

Images: the files that `pattern` matches, on any grids. No mask.
Time points: `{session}`, where the pattern has it.
Names of patients and sessions may be anything; only pseudonyms leave the folder.
Labels: one table, one row a patient; columns in `resources/labels/generic.yaml`.
"""

import re
from collections.abc import Mapping

from neurorad.cohorts.release import Release
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES


def generic(pattern: str, sequences: Mapping[str, str], state: str) -> Release:
    """The release that a pattern such as `{patient}/{session}/*{sequence}*.nii.gz` describes.

    `{patient}` and `{session}` stand for one name each, the same wherever they come again, `{sequence}` for the
    spelling of a sequence in whole words (`T1` is not found in `T1ce`), `*` for anything but a slash. A file that two
    spellings fit, one with the other's words in it (`T1 post`, `T1`), is the longer one's; without (`T2`, `FLAIR`), nobody's.

    Raises:
        InputError: the pattern has no `{patient}` or no `{sequence}`, or names something else in braces; the four
            sequences are not all spelled, or two are spelled alike.
    """
    if set(sequences) != set(SEQUENCES):
        raise InputError(f"sequences {dict(sequences)}: must spell {', '.join(SEQUENCES)}")
    if len(set(sequences.values())) < len(sequences):
        raise InputError(f"sequences {dict(sequences)}: two are spelled alike, so their files cannot be told apart")
    parts = re.split(r"(\{\w*\}|\*)", pattern)
    unknown = [part for part in parts[1::2] if part not in ("{patient}", "{session}", "{sequence}", "*")]
    if unknown:
        raise InputError(f"pattern {pattern!r}: {unknown[0]} is unknown; use {{patient}}, {{session}}, {{sequence}}, *")
    if not {"{patient}", "{sequence}"} <= set(parts):
        raise InputError(f"pattern {pattern!r}: needs {{patient}} and {{sequence}}, so that files can be told apart")
    files = {}
    for ours, theirs in sequences.items():
        # All but those that its own spelling holds.
        rivals = [name for name, other in sequences.items() if not re.search(_words(other), theirs)]
        others = "".join(rf"(?!{_expression(parts, sequences[name], f'_{name}')}\Z)" for name in rivals)
        files[ours] = (others + _expression(parts, theirs),)
    return Release(name="generic", files=files, example=pattern, state=(state,), private=True)


def _words(spelling: str) -> str:
    return rf"(?<![A-Za-z0-9]){re.escape(spelling)}(?![A-Za-z0-9])"


def _expression(parts: list[str], spelling: str, mark: str = "") -> str:
    """The expression of one sequence's files; `mark` ends its groups' names, of which no two in one expression are alike."""
    expression, seen = "", set()
    for part in parts:
        name = part.strip("{}") + mark
        if part == "*":
            expression += "[^/]*"
        elif part == "{sequence}":
            expression += _words(spelling)
        elif part.startswith("{"):
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            expression += re.escape(part)
    return expression
