"""What the headers of one DICOM series say: physics, geometry, and what is wrong with its slices.

Classic series have a file a slice; in an enhanced one a file holds many frames, with their physics and positions in
functional groups (PS3.3 C.7.6.16).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

_NOWHERE = float("nan")


@dataclass(frozen=True)
class Series:
    """Headers of one series: times in ms (`time` of acquisition in s after midnight), lengths in mm; missing numbers are
    NaN. `kinds` are the values of Image Type and Frame Type. `problem` says why its slices make no volume."""

    uid: str
    files: tuple[Path, ...]
    description: str
    tr: float
    te: float
    ti: float
    contrast: bool
    number: float
    thickness: float
    slices: int
    coverage: float
    time: float = _NOWHERE
    kinds: frozenset[str] = field(default_factory=frozenset)
    gradient_echo: bool = False
    echo_planar: bool = False
    diffusion: bool = False
    angiography: bool = False
    problem: str = ""

    @property
    def label(self) -> str:
        """How messages name it: by number and physics, never by its free-text description."""
        return f"series {self.number:.0f} (TR {self.tr:.0f}, TE {self.te:.0f}, {self.slices} slices)"

    @property
    def protocol(self) -> tuple[Any, ...]:
        """What two runs of one protocol have in common."""
        ti = -1.0 if math.isnan(self.ti) else round(self.ti)
        return round(self.tr), round(self.te, 1), ti, self.description, self.slices, self.contrast


def damaged(uid: str, files: tuple[Path, ...]) -> Series:
    """A series whose headers cannot be read."""
    nothing: dict[str, Any] = dict.fromkeys(("tr", "te", "ti", "number", "thickness"), _NOWHERE)
    return Series(uid, files, "", contrast=False, slices=len(files), coverage=0.0, problem="damaged headers", **nothing)


def series_of(uid: str, found: list[tuple[Path, pydicom.Dataset]]) -> Series:
    """One series from its files' headers. A file that is there twice (one SOP Instance UID) counts once."""
    once = {str(header.get("SOPInstanceUID", path)): (path, header) for path, header in reversed(found)}
    kept = sorted(once.values(), key=lambda pair: str(pair[0]))
    first = kept[0][1]
    frames = [frame for _, header in kept for frame in _frames(header)]
    problem, slices, coverage = _geometry(frames)
    if "Rows" not in first:
        problem = "no image in it"
    scanning = {str(v).upper() for v in _values(_find(frames, "ScanningSequence"))}
    kinds = {str(v).upper() for name in ("ImageType", "FrameType") for v in _values(_find(frames, name))}
    weighting = _number(_find(frames, "DiffusionBValue"))
    te = _number(_find(frames, "EchoTime"))
    return Series(
        uid=uid,
        files=tuple(path for path, _ in kept),
        description=str(first.get("SeriesDescription", "")),
        tr=_number(_find(frames, "RepetitionTime")),
        te=_number(_find(frames, "EffectiveEchoTime")) if math.isnan(te) else te,
        ti=_inversion(frames),
        contrast=bool(str(first.get("ContrastBolusAgent", "") or "").strip()),
        number=_number(first.get("SeriesNumber")),
        thickness=_number(_find(frames, "SliceThickness")),
        slices=slices,
        coverage=coverage,
        time=_seconds(first.get("AcquisitionTime") or first.get("SeriesTime")),
        kinds=frozenset(kinds),
        gradient_echo="GR" in scanning,
        echo_planar="EP" in scanning or str(_find(frames, "EchoPlanarPulseSequence")).upper() == "YES",
        diffusion=weighting > 0 or "DIFFUSION" in kinds,
        angiography=str(first.get("AngioFlag", "")).upper() == "Y" or "TOF" in kinds,
        problem=problem,
    )


def _frames(header: pydicom.Dataset) -> list[list[pydicom.Dataset]]:
    """For each frame the data sets in which an element may be, the frame's own first."""
    shared = [group for item in header.get("SharedFunctionalGroupsSequence", []) for group in _groups(item)]
    own = header.get("PerFrameFunctionalGroupsSequence", [])
    return [[*_groups(item), *shared, header] for item in own] or [[header]]


def _groups(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [entry for element in item if element.VR == "SQ" and element.value for entry in element.value[:1]]


def _find(frames: list[list[pydicom.Dataset]], name: str) -> Any:
    """The first value of an element in the first frame; None without one."""
    return next((part[name].value for part in frames[0] if name in part and part[name].value not in (None, "")), None)


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def _number(value: Any) -> float:
    try:
        return float(_values(value)[0])
    except (TypeError, ValueError, IndexError):
        return _NOWHERE


def _inversion(frames: list[list[pydicom.Dataset]]) -> float:
    """Inversion time; enhanced headers name it in the plural, and 0 means that there is none."""
    found = _find(frames, "InversionTime")
    ti = _number(_find(frames, "InversionTimes") if found is None else found)
    return ti if ti > 0 else _NOWHERE


def _seconds(value: Any) -> float:
    text = str(value or "")
    if len(text) < 6 or not text[:6].isdigit():
        return _NOWHERE
    return int(text[:2]) * 3600 + int(text[2:4]) * 60 + _number(text[4:])


def _geometry(frames: list[list[pydicom.Dataset]]) -> tuple[str, int, float]:
    """What is wrong with the slices' places, the number of different places, and mm from first to last slice."""
    orientations, positions = [], []
    for frame in frames:
        orientation = _values(_find([frame], "ImageOrientationPatient"))
        position = _values(_find([frame], "ImagePositionPatient"))
        try:
            orientations.append([float(v) for v in orientation])
            positions.append([float(v) for v in position])
        except (TypeError, ValueError):
            orientations.append([])
        if len(orientations[-1]) != 6 or len(positions[-1]) != 3:
            return "slices without position or orientation", len(frames), 0.0
    rows = np.array(orientations)
    if not np.isfinite(rows).all() or not np.isfinite(positions).all():
        return "slices without position or orientation", len(frames), 0.0
    if np.abs(rows - rows[0]).max() > 1e-2:
        return "mixed orientations", len(frames), 0.0
    places = np.sort(np.array(positions) @ np.cross(rows[0, :3], rows[0, 3:]))
    steps = np.diff(places)
    different = steps > 1e-2
    slices = int(different.sum()) + 1
    coverage = float(places[-1] - places[0])
    if slices < len(frames):
        return f"{len(frames)} images at {slices} slice positions", slices, coverage
    if slices > 2 and steps.max() > 1.5 * np.median(steps):
        return f"slices missing (steps of {np.median(steps):.1f} and {steps.max():.1f} mm)", slices, coverage
    return "", slices, coverage
