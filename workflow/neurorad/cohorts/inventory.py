"""Which scans a release's folder holds: names and headers only, no voxel is decoded."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from neurorad.cohorts.release import TABLES_AND_NOTES, Release
from neurorad.nifti import Geometry, NiftiError, read_geometry
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SCAN_COLUMNS = (
    "cohort",
    "scan",
    "patient",
    "session",
    *SEQUENCES,
    "dicom",
    "tumour",
    "tumour_labels",
    "cavity_labels",
    "state",
    "grid",
    "problem",
)

GRIDS = {
    "sri24": (240.0, 240.0, 155.0),
    "mni152-182": (182.0, 218.0, 182.0),
    "mni152-193": (193.0, 229.0, 193.0),
    "mni152-197": (197.0, 233.0, 189.0),
}
"""Field of view in mm of the atlases that releases are on: SRI24 as BraTS stores it, MNI152 as FSL does, and as the
2009c and 2009a templates of the MNI are."""

Files = dict[str, list[str]]


def files_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file below `folder` with its path relative to it, and why it cannot be taken ("" if it can).

    Hidden names are passed over. Links are followed to files inside the folder only, so that nothing outside can
    enter and nothing inside can enter twice.

    Raises:
        InputError: a folder that cannot be opened: what it holds would be missing without a word.
    """
    root = os.path.realpath(folder)
    pending = [root]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as problem:
            raise InputError(
                f"{problem.filename} cannot be read ({problem.strerror}); mend its permissions"
            ) from problem
        for entry in listed:
            path = entry.path[len(root) + 1 :]
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not path.isprintable():
                yield ascii(path), "control characters or no UTF-8 in its name"
            elif entry.is_symlink():
                target = os.path.realpath(entry.path)
                if not target.startswith(root + os.sep):
                    yield path, "a link out of the folder"
                else:
                    yield path, "" if os.path.isfile(target) else "a link to no file"
            else:
                yield path, "" if entry.is_file() else "no regular file"


def pseudonym(cohort: str, identifier: str) -> str:
    """A stable name for a private patient or session, from which the identifier cannot be read off.

    The two ways that Unicode spells an accented letter are one name: macOS folders use the other one than tables.
    """
    identifier = unicodedata.normalize("NFC", identifier)
    return hashlib.sha256(f"{cohort}/{identifier}".encode()).hexdigest()[:10]


def list_scans(cohort: str, folder: Path, release: Release, may_lack: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Scans of one cohort, one row each, and the files that no rule of the release explains.

    Args:
        may_lack: a scan without t1n, t2w or t2f is usable; t1c it needs, which the others are aligned to.

    Returns:
        A table with `SCAN_COLUMNS` sorted by scan. Paths are `folder`-prefixed. `state` is what the release documents
        (`stripped`, or `stripped or defaced`); `grid` is what the headers show: an atlas of `GRIDS`, `native` (another
        grid, one for the four sequences) or `mixed`; `tumour_labels` and `cavity_labels` are the mask's values with
        spaces between; `problem` says why a scan cannot be used, empty otherwise.
        The unexplained paths, sorted, each with the reason behind a tab where there is one.

    Raises:
        InputError: the folder does not exist, cannot be read, or holds no scan of this release.
    """
    if not folder.is_dir():
        raise InputError(f"cohort {cohort}: images folder {folder} does not exist; mend `images:` in the config")
    found, unknown = _sort(folder, release)
    if not found:
        raise InputError(
            f"cohort {cohort}: no scan of release {release.name!r} in {folder}; expected {release.example}, found "
            + (f"{len(unknown)} other files{_first(unknown, release)}" if unknown else "no file")
            + "; mend `release:`, `images:` or `pattern:`"
        )
    rows = [
        _scan_row(cohort, folder, release, *key, files, may_lack)
        for key, files in found.items()
        if set(files) != {"tumour"}
    ]
    return pd.DataFrame(rows, columns=list(SCAN_COLUMNS)).sort_values("scan", ignore_index=True), unknown


def _first(unknown: list[str], release: Release) -> str:
    return "" if release.private else f", the first {unknown[0]!r}"


def _sort(folder: Path, release: Release) -> tuple[dict[tuple[str, str], Files], list[str]]:
    """Files by patient and session, and those that belong to no scan."""

    def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
        return re.compile(pattern, re.ASCII | flags)

    kinds = [(name, compiled(pattern)) for name, patterns in release.files.items() for pattern in patterns]
    ignored = [compiled(pattern) for pattern in (*release.ignored, TABLES_AND_NOTES)]
    refused = [(compiled(pattern), why) for pattern, why in release.refused.items()]
    dicom = compiled(release.dicom) if release.dicom else None
    # The same names with any number of digits and any case: what a renamed copy looks like.
    similar = [
        compiled(re.sub(r"\\d\{\d\}", r"\\d+", pattern), re.IGNORECASE)
        for patterns in release.files.values()
        for pattern in patterns
    ]
    found: dict[tuple[str, str], Files] = defaultdict(lambda: defaultdict(list))
    unknown = []
    for path, why in sorted(files_below(folder)):
        if why:
            unknown.append(f"{path}\t{why}")
        elif hit := next(((name, m) for name, pattern in kinds if (m := pattern.fullmatch(path))), None):
            found[_key(hit[1], release)][hit[0]].append(path)
        elif any(pattern.fullmatch(path) for pattern in ignored):
            continue
        elif dicom and (match := dicom.fullmatch(path)):
            found[_key(match, release)]["dicom"] = [path[: match.end("session")]]
        elif reason := next((why for pattern, why in refused if pattern.fullmatch(path)), ""):
            unknown.append(f"{path}\t{reason}")
        elif any(pattern.fullmatch(path) for pattern in similar):
            unknown.append(f"{path}\tspelled otherwise than the release does: {release.example}")
        else:
            unknown.append(path)
    return found, unknown


def _key(match: re.Match[str], release: Release) -> tuple[str, str]:
    patient, session = match["patient"], match.groupdict().get("session") or ""
    return release.renamed.get(patient, (patient, session))


def _scan_row(
    cohort: str, folder: Path, release: Release, patient: str, session: str, files: Files, may_lack: bool
) -> dict[str, str]:
    grid, problem = _inspect(folder, files, release, may_lack)
    stem = patient
    if release.private:
        patient, session = pseudonym(cohort, patient), pseudonym(cohort, session) if session else ""
        stem = f"{cohort}-{patient}"
    return {
        **dict.fromkeys(SCAN_COLUMNS, ""),
        "cohort": cohort,
        "scan": "_".join(filter(None, [stem, session])),
        "patient": patient,
        "session": session,
        **{name: " | ".join(str(folder / path) for path in paths) for name, paths in files.items()},
        "tumour_labels": " ".join(map(str, release.tumour_labels)),
        "cavity_labels": " ".join(map(str, release.cavity_labels)),
        "state": " or ".join(release.state),
        "grid": grid,
        "problem": problem,
    }


def _inspect(folder: Path, files: Files, release: Release, may_lack: bool) -> tuple[str, str]:
    """Grid of the scan and the first thing wrong with its files."""
    if "dicom" in files:
        return "", "both DICOM and NIfTI files in the session's folder" if len(files) > 1 else ""
    for name in (*SEQUENCES, "tumour"):
        if len(paths := files.get(name, [])) > 1:
            where = "scans.tsv names them" if release.private else " and ".join(paths)
            kind = "the tumour mask" if name == "tumour" else f"sequence {name}"
            return "", f"{len(paths)} files for {kind}: {where}"
    missing = [name for name in SEQUENCES if name not in files]
    if missing and (not may_lack or "t1c" in missing):
        return "", f"missing sequence {', '.join(missing)}"
    geometries = []
    present = [name for name in SEQUENCES if name in files]
    for name in present:
        try:
            geometries.append(read_geometry(folder / files[name][0]))
        except NiftiError as problem:
            return "", f"{name}: {problem}"
    grid = _grid(geometries)
    if release.grids and grid not in release.grids:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, geometry.shape))} at {' x '.join(f'{s:.3g}' for s in geometry.spacing)} mm"
            for name, geometry in zip(present, geometries, strict=True)
        )
        return grid, f"declared grid {' or '.join(release.grids)}, but detected {grid} ({shapes})"
    return grid, ""


def _grid(geometries: list[Geometry]) -> str:
    first = geometries[0]
    if any(geometry != first for geometry in geometries[1:]):
        return "mixed"
    return grid_class(first.shape, tuple(first.spacing))


def grid_class(shape: tuple[int, ...], spacing: tuple[float, ...]) -> str:
    """Which atlas' field of view an image has: a name of `GRIDS`, or `native`.

    The field of view (shape times spacing, in mm) is compared to one voxel, so that a resampled atlas grid
    is still recognised; of several atlases within that the nearest is meant.
    """
    if max(spacing) - min(spacing) > 1e-3:
        return "native"
    off = {
        name: max(abs(n * step - extent) for n, step, extent in zip(shape, spacing, extents, strict=True))
        for name, extents in GRIDS.items()
    }
    nearest = min(off, key=lambda name: off[name])
    return nearest if off[nearest] <= spacing[0] + 1e-3 else "native"


def listing_digest(folder: Path) -> str:
    """sha256 over the names and sizes below `folder`: changes when files come, go or change size, not when touched."""
    digest = hashlib.sha256()
    for path, why in sorted(files_below(folder)):
        size = why or (folder / path).stat().st_size
        digest.update(f"{path}\t{size}\n".encode())
    return digest.hexdigest()
