"""How the names of image files say which sequence they are, and whose."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SPELLINGS = {
    "t2f": r"t2f|flair|t2flair",
    "t1c": r"t1c|t1ce|t1gd|ct1|t1post|t1km|t1wce|t1ca",
    "t1n": r"t1n|t1|t1w|t1pre",
    "t2w": r"t2w|t2",
}
"""How a file's name says its sequence, as one of the words between its marks; the first that fits, in this order."""
CONTRAST = r"ce|gd|gad|km|post|contrast|enhanced|gadolinium"
DENIED = r"pre|no|non|not|wo|o|without|before|native"
"""Words that turn the word of contrast after them round: `T1_pre_contrast` is the native image."""
OF_NO_PATIENT = (
    r"ax(ial)?|sag(ittal)?|cor(onal)?|tra(ns(versal)?)?|[23]d|t?se|fse|gre|ir|tir(m)?|mp?rage|f?spgr|bravo|space|cube|vista|vibe|"
    r"dark|fluid|iso|fs|fatsat|pre|post|w|with|registered|reg|coreg|resampled|brain|skull|stripped|n4|s|se|series|img|image|scan|"
    r"mri?|anat|nii|dicom"
)
"""Words before a sequence's that files of one scan may differ in."""
NO_IMAGE = r"bias|seg|mask|label|labels|segmentation|tumormask|roi"
"""Words of files that are not taken: masks, and UCSF's second copies, bias-corrected already."""


class Spelled(NamedTuple):
    """What a file's name says: the sequence, how it is written there, and what stands before that."""

    sequence: str
    written: str
    before: str


def spelled(name: str, folder: str = "") -> Spelled | None:
    """The sequence that a file's name says, and what says it: `x_T1ce.nii.gz` -> t1c, T1ce, x_; `T1_Gd.nii.gz` -> t1c, T1_Gd;
    `T2_FLAIR.nii` -> t2f, T2_FLAIR. None if it says none, as `..._seg.nii.gz`, or if words of contrast and words that deny it
    leave open which T1 it is.

    Args:
        folder: name of its folder, which is left out of the file's name where that begins with it and goes on with another
            word: it is a patient's, as in `t1-trial-7/t1-trial-7_flair.nii.gz`, but not in `t1/t1ce.nii.gz` or `t1/t1.nii.gz`.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    # More than the folder's name has to follow, and not in the same word.
    if folder and (begins := re.match(rf"{re.escape(folder)}(?=[\W_]+[A-Za-z0-9])", stem, re.IGNORECASE)):
        stem = stem[begins.end() :]
    words = [*re.finditer(r"[A-Za-z0-9]+", stem)]

    def placed(spelling: str) -> list[int]:
        return [place for place, word in enumerate(words) if re.fullmatch(spelling, word[0], re.IGNORECASE)]

    def said(sequence: str, *places: int) -> Spelled:
        start, end = words[min(places)].start(), words[max(places)].end()
        return Spelled(sequence, stem[start:end], stem[:start])

    if placed(NO_IMAGE):
        return None
    sequence = next((one for one, spelling in SPELLINGS.items() if placed(spelling)), None)
    if sequence is None:
        return None
    place = placed(SPELLINGS[sequence])[0]
    if sequence == "t2f":
        return said("t2f", place, *(near for near in placed(SPELLINGS["t2w"]) if abs(near - place) == 1))
    if sequence != "t1n":
        return said(sequence, place)
    # `T1+C`, `T1_C`
    agents = placed(CONTRAST) or [near for near in placed("c") if near == place + 1]
    denials = placed(DENIED)
    if not agents:
        return said("t1n", place)
    if all(agent - 1 in denials for agent in agents):
        return said("t1n", place, *agents, *(agent - 1 for agent in agents))
    return None if denials else said("t1c", place, agents[0])


def of_two_patients(files: Mapping[Path, Spelled]) -> tuple[Path, Path] | None:
    """Two files of a folder whose names begin unlike, as those of two patients do: `smith_t1`, `jones_t2`; not `ax_t1`, `sag_t2`,
    nor `3_t1`, `12_t2`, numbers that no two share."""
    begins: dict[tuple[str, ...], Path] = {}
    numbers: dict[tuple[str, ...], list[Path]] = {}
    for path, found in files.items():
        words = re.findall(r"[A-Za-z0-9]+", found.before.lower())
        begins.setdefault(tuple(w for w in words if not (w.isdigit() or re.fullmatch(OF_NO_PATIENT, w))), path)
        numbers.setdefault(tuple(w for w in words if w.isdigit()), []).append(path)
    if len(begins) > 1:
        first, second, *_ = begins.values()
        return first, second
    if len(numbers) > 1 and max(map(len, numbers.values())) > 1:
        first, second, *_ = (paths[0] for paths in numbers.values())
        return first, second
    return None
