"""Scans whose names no release has: the `pattern` and `sequences` of `release: generic` that describe them, told by words."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from neurorad.cohorts.releases.generic import generic
from neurorad.scan_folders import NIFTI
from neurorad.sequence_names import CONTRAST, DENIED, SPELLINGS, spelled
from neurorad.volumes import SEQUENCES


def own_pattern(files: Sequence[PurePath]) -> dict[str, Any] | None:
    """`pattern` and `sequences` that most folders with all four sequences share.

    None without such a folder, or where a file that they take may be the other T1: an enhanced image taken for the native
    one would be seen nowhere later.

    Args:
        files: relative to the cohort's folder, each in one to three folders: patient, session, and one more.
    """
    folders: dict[PurePath, list[PurePath]] = {}
    for path in files:
        if path.name.lower().endswith(NIFTI):
            folders.setdefault(path.parent, []).append(path)
    counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for folder, paths in folders.items():
        said = {path: found for path in paths if (found := spelled(path.name, folder.name))}
        words = {one.sequence: one.written for one in said.values()}
        if not len(said) == len(words) == len(set(words.values())) == len(SEQUENCES):
            continue
        suffix = ".nii.gz" if paths[0].name.lower().endswith(".gz") else ".nii"
        # Where nothing follows the word, nothing may: a mask is often called as its image with one word more.
        last = all(path.name.endswith(f"{one.written}{suffix}") for path, one in said.items())
        above = "/".join(("{patient}", "{session}", "*")[: len(folder.parts)])
        described = f"{above}/*{{sequence}}{suffix if last else f'*{suffix}'}", tuple(words[name] for name in SEQUENCES)
        if _taken(*described, paths) == {path: one.sequence for path, one in said.items()}:
            counted[described] += 1
    if not counted:
        return None
    (pattern, spelling), _ = counted.most_common(1)[0]
    if _mixed(_taken(pattern, spelling, files)):
        return None
    return {"pattern": pattern, "sequences": dict(zip(SEQUENCES, spelling, strict=True))}


def _taken(pattern: str, spelling: Sequence[str], files: Iterable[PurePath]) -> dict[PurePath, str]:
    """The sequence for which the described release takes each file that it takes."""
    release = generic(pattern, dict(zip(SEQUENCES, spelling, strict=True)), "skull")
    found = {}
    for path in files:
        fitting = (name for name, (own,) in release.files.items() if re.fullmatch(own, str(path), re.ASCII))
        if (name := next(fitting, None)) is not None:
            found[path] = name
    return found


def _mixed(taken: Mapping[PurePath, str]) -> bool:
    """Whether words of contrast stand where t1n is taken, or their denial where nothing else makes an image t1c."""
    enhanced = {path.parent for path, sequence in taken.items() if sequence == "t1c"}
    either = f"{CONTRAST}|{SPELLINGS['t1c']}"
    for path, sequence in taken.items():
        if sequence == "t1n":
            # A series' folder that holds no other T1 may be what says which one this is.
            series = path.parent.parts[2:] if path.parent not in enhanced else ()
            if _has(either, path.name, *series):
                return True
        if sequence == "t1c" and _has(DENIED, path.name) and not _has(SPELLINGS["t1c"], path.name):
            return True
    return False


def _has(words: str, *names: str) -> bool:
    return any(re.fullmatch(words, word, re.IGNORECASE) for name in names for word in re.findall(r"[A-Za-z0-9]+", name))
