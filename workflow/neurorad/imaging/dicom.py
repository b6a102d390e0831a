"""DICOM sessions: which series is which sequence, from physics first and names second; conversion by dcm2niix."""

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import dcm2niix
import pydicom

from neurorad.imaging.scan import ScanError
from neurorad.volumes import SEQUENCES

MIN_SLICES = 20
MIN_SCORE = 3
NOT_STRUCTURAL = re.compile(
    r"loc(ali[sz]er)?|scout|survey|dwi|diff|adc|trace|dti|swi|swan|venbold|mra|tof|angio|perf|dsc|dce|asl|fmri|bold|"
    r"field.?map|sub(traction)?|mip|mpr\b|phase",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"post|gad|\+c|contrast|t1c|(?<![a-z])(gd|ce|km)(?![a-z])", re.IGNORECASE)
HEADER_TAGS = [
    "SeriesInstanceUID",
    "SeriesDescription",
    "ImageType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "ContrastBolusAgent",
    "SeriesNumber",
    "SliceThickness",
    "AcquisitionTime",
    "Modality",
]


@dataclass(frozen=True)
class Series:
    """Headers of one series: times in ms, thickness in mm; missing numbers are NaN."""

    uid: str
    files: tuple[Path, ...]
    description: str
    derived: bool
    tr: float
    te: float
    ti: float
    contrast: bool
    number: float
    thickness: float

    @property
    def label(self) -> str:
        """How messages name it: by number and physics, never by its free-text description."""
        return f"series {self.number:.0f} (TR {self.tr:.0f}, TE {self.te:.0f}, {len(self.files)} slices)"


def read_series(folder: Path) -> list[Series]:
    """All MR series below a session's folder, in the order of their numbers; files that are not DICOM are passed over."""
    files: dict[str, list[Path]] = defaultdict(list)
    headers: dict[str, pydicom.Dataset] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError):
            continue
        uid = str(header.get("SeriesInstanceUID", ""))
        if uid and header.get("Modality", "MR") == "MR":
            files[uid].append(path)
            headers.setdefault(uid, header)
    return sorted((_series(uid, headers[uid], files[uid]) for uid in files), key=lambda s: (s.number, s.uid))


def _series(uid: str, header: pydicom.Dataset, files: list[Path]) -> Series:
    def number(tag: str) -> float:
        value = header.get(tag)
        return float(value) if value not in (None, "") else float("nan")

    kinds = {str(kind).upper() for kind in header.get("ImageType", [])}
    return Series(
        uid=uid,
        files=tuple(files),
        description=str(header.get("SeriesDescription", "")),
        derived=bool(kinds & {"DERIVED", "LOCALIZER", "ADC", "TRACEW", "SUBTRACTION", "PROJECTION IMAGE"}),
        tr=number("RepetitionTime"),
        te=number("EchoTime"),
        ti=number("InversionTime"),
        contrast=bool(str(header.get("ContrastBolusAgent", "")).strip()),
        number=number("SeriesNumber"),
        thickness=number("SliceThickness"),
    )


def score(series: Series, sequence: str) -> int:
    """How well a series' headers fit a sequence; negative for what can never be it.

    Physics gives up to 3 points (FLAIR: long TE after a long inversion; T2: long TE, none; T1: short TE and TR, or a
    short inversion), the description 1, contrast or its absence 2.
    """
    if series.derived or NOT_STRUCTURAL.search(series.description) or len(series.files) < MIN_SLICES:
        return -1
    inverted = 1600 <= series.ti <= 3000
    long_echo = series.te >= 70
    t1_weighted = series.te <= 30 and (series.tr <= 1000 or (series.ti <= 1400 and series.tr <= 3500))
    named = series.description.lower()
    enhanced = series.contrast or bool(CONTRAST.search(named))
    match sequence:
        case "t2f":
            return 3 * (inverted and long_echo) + ("flair" in named)
        case "t2w":
            return 3 * (long_echo and not inverted) + ("t2" in named and "flair" not in named)
        case "t1c":
            return (3 * t1_weighted + ("t1" in named) + 2) if enhanced else -1
        case "t1n":
            return (3 * t1_weighted + ("t1" in named) + 2) if not enhanced else -1
    raise ValueError(sequence)


def identify(series: list[Series]) -> dict[str, Series]:
    """The series of each sequence.

    The best score wins; among equals the thinner slices, then more of them. Two series that nothing tells apart
    are a repeat: the later one is taken, as the radiographer repeats what failed.

    Raises:
        ScanError: a sequence without a series that scores at least `MIN_SCORE`.
    """
    chosen = {}
    for sequence in SEQUENCES:
        ranked = sorted(
            (s for s in series if score(s, sequence) >= MIN_SCORE),
            key=lambda s: (score(s, sequence), -s.thickness, len(s.files), s.number),
        )
        if not ranked:
            seen = "; ".join(s.label for s in series) or "none"
            raise ScanError(f"missing sequence {sequence}: no DICOM series fits (seen: {seen})")
        chosen[sequence] = ranked[-1]
    return chosen


def convert(series: Series, scratch: Path, name: str) -> Path:
    """One series to NIfTI, with a neutral file name and no text from the headers.

    Raises:
        ScanError: dcm2niix made no image, or several (mixed geometry).
    """
    source, target = scratch / f"{name}-dicom", scratch / f"{name}-nifti"
    source.mkdir()
    target.mkdir()
    for position, path in enumerate(series.files):
        (source / f"{position:05d}.dcm").symlink_to(path.resolve())
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", name, "-g", "i", "-w", "1", "-o", str(target), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    made = sorted(target.glob("*.nii"))
    if run.returncode or len(made) != 1:
        raise ScanError(f"{name}: dcm2niix made {len(made)} images of {series.label} (exit {run.returncode})")
    return made[0]
