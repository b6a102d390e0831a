"""DICOM sessions: which series is which sequence, from physics first and names second; conversion by dcm2niix."""

import math
import re
import subprocess
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import dcm2niix
import pydicom

from neurorad.files import visible_files
from neurorad.imaging.headers import Series, damaged, series_of
from neurorad.imaging.scan import ScanError
from neurorad.volumes import SEQUENCES

MIN_SLICES = 20
MIN_COVERAGE_MM = 90.0
MIN_SCORE = 3
CSF_T1_MS = 4300.0
NOT_STRUCTURAL = re.compile(
    r"loc(ali[sz]er)?|scout|survey|dwi|diff|adc|trace|dti|swi|swan|venbold|mra|tof|angio|perf|dsc|dce|asl|fmri|bold|"
    r"field.?map|sub(traction)?|mip|mpr\b|phase",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"post|gad|\+c|contrast|t1c|(?<![a-z])(gd|ce|km)(?![a-z])", re.IGNORECASE)
UNENHANCED = re.compile(r"(without|w/?o|pre|non?)[ _.-]?(contrast|gad|gd|km)", re.IGNORECASE)
DERIVED = frozenset(
    {"DERIVED", "LOCALIZER", "ADC", "TRACEW", "SUBTRACTION", "PROJECTION IMAGE", "MIP", "MPR", "REFORMATTED"}
)
NOT_MAGNITUDE = frozenset({"P", "PHASE", "PHASE MAP", "PHASE_MAP", "R", "REAL", "I", "IMAGINARY", "B0", "FIELD_MAP"})


def read_series(folder: Path) -> list[Series]:
    """All MR series below a session's folder, in the order of their numbers; files that are not DICOM are passed over.

    Raises:
        ScanError: they are of several patients or studies, or some do not say of which: their scan would be a mixture.
        InputError: a folder that cannot be opened.
    """
    files: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    patients, studies = set(), set()
    # A damaged header may fail anywhere inside pydicom, whose warnings quote values that may be a person's.
    with warnings.catch_warnings(action="ignore"):
        for path in visible_files(folder):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
                if not is_mr(header):
                    continue
                uid, study = str(header.SeriesInstanceUID), study_of(header)
                patient = str(header.get("PatientID") or header.get("PatientName") or "").strip()
            except Exception:
                continue
            files[uid].append((path, header))
            patients.add(patient)
            studies.add(study)
        series = [_described(uid, found) for uid, found in files.items()]
    for element, held in (("PatientID", patients), ("StudyInstanceUID", studies)):
        if len(held) > 1:
            said = "some of its MR files have none" if "" in held else f"its MR files have {len(held)}"
            raise ScanError(
                f"DICOM of more than one {element} ({said}); give each study of a patient a folder of its own"
            )
    return sorted(series, key=lambda s: (-math.inf if math.isnan(s.number) else s.number, s.uid))


def is_mr(header: pydicom.Dataset) -> bool:
    """Whether a file belongs to an MR series, as one without Modality is taken to."""
    return bool(header.get("SeriesInstanceUID")) and (header.get("Modality") or "MR") == "MR"


def study_of(header: pydicom.Dataset) -> str:
    """Its StudyInstanceUID; empty without one."""
    return str(header.get("StudyInstanceUID") or "").strip()


def _described(uid: str, found: list[tuple[Path, pydicom.Dataset]]) -> Series:
    try:
        return series_of(uid, found)
    except Exception:
        return damaged(uid, tuple(path for path, _ in found))


def refusal(series: Series) -> str:
    """Why a series can be none of the four sequences, whatever its contrast; empty if it can."""
    if series.problem:
        return series.problem
    if derived := sorted(series.kinds & DERIVED):
        return f"derived image ({derived[0].lower()})"
    if phase := sorted(series.kinds & NOT_MAGNITUDE):
        return f"no magnitude image ({phase[0].lower()})"
    if series.diffusion:
        return "diffusion"
    if series.echo_planar:
        return "echo planar"
    if series.angiography:
        return "angiography"
    if named := NOT_STRUCTURAL.search(series.description):
        return f"named as {named[0].lower()}"
    if series.slices < MIN_SLICES:
        return f"{series.slices} slices"
    if series.coverage < MIN_COVERAGE_MM:
        return f"covers {series.coverage:.0f} mm"
    if 0 < series.ti < 400:
        return "short inversion (STIR)"
    return ""


def nulls_fluid(series: Series) -> bool:
    """Whether the inversion leaves less than a third of CSF's signal: |1 - 2 exp(-TI/T1) + exp(-TR/T1)| < 0.33."""
    if not series.ti > 0:
        return False
    repeat = series.tr if series.tr > series.ti else math.inf
    return abs(1 - 2 * math.exp(-series.ti / CSF_T1_MS) + math.exp(-repeat / CSF_T1_MS)) < 0.33


def enhanced(series: Series, injected: float = math.inf) -> bool:
    """Whether contrast agent was in the blood: its tag, its name, or acquired after a series that has either."""
    if series.contrast:
        return True
    if UNENHANCED.search(series.description):
        return False
    return bool(CONTRAST.search(series.description)) or series.time > injected


def injection(series: list[Series]) -> float:
    """Acquisition time (s) of the first T1-weighted series that says it is enhanced; infinite without one."""
    said = [s.time for s in series if t1_weighted(s) and enhanced(s) and not math.isnan(s.time)]
    return min(said, default=math.inf)


def t1_weighted(series: Series) -> bool:
    """Short echo, and short repetition or an inversion between 400 ms and 1.4 s; a gradient echo shorter than 15 ms."""
    short_echo = series.te <= (15 if series.gradient_echo else 30)
    return short_echo and (series.tr <= 1000 or (400 <= series.ti <= 1400 and series.tr <= 3500))


def score(series: Series, sequence: str, injected: float = math.inf) -> int:
    """How well a series' headers fit a sequence, 0 to 6; -1 for what it cannot be.

    Physics gives up to 3 points (FLAIR: long TE, fluid nulled; T2: long TE, no inversion; T1: `t1_weighted`), the
    description 1, contrast or its absence 2.
    """
    long_echo = series.te >= 70
    named = series.description.lower()
    fluid_dark = "flair" in named or "dark-fluid" in named or "dark_fluid" in named
    match sequence:
        case "t2f":
            return 3 * (long_echo and nulls_fluid(series)) + fluid_dark
        case "t2w":
            return 3 * (long_echo and not series.ti > 0) + ("t2" in named and not fluid_dark)
        case "t1c" | "t1n":
            if enhanced(series, injected) != (sequence == "t1c"):
                return -1
            return 3 * t1_weighted(series) + ("t1" in named) + 2
    raise ValueError(sequence)


def identify(
    series: list[Series], chosen: Mapping[str, str] | None = None, may_lack: bool = False
) -> dict[str, Series]:
    """The series of each sequence.

    The best score wins; among equals the thinner slices, then the larger coverage. Two series that nothing tells apart
    are a repeat: the later one is taken, as the radiographer repeats what failed.

    Args:
        chosen: the user's own choice, sequence -> number or UID of a series; it decides against any score.
        may_lack: t1n, t2w and t2f may be missing.

    Raises:
        ScanError: a sequence without a series that scores at least `MIN_SCORE`, or two that differ and fit equally
            well; the message lists the candidates.
    """
    found = {name: _named(series, name, wanted) for name, wanted in (chosen or {}).items()}
    injected = injection([s for s in series if not refusal(s)])
    for sequence in SEQUENCES:
        if sequence in found:
            continue
        free = [s for s in series if not refusal(s) and s not in found.values()]
        fitting = [s for s in free if score(s, sequence, injected) >= MIN_SCORE + 2 * sequence.startswith("t1")]
        if fitting:
            found[sequence] = _best(fitting, sequence, injected)
        elif not may_lack or sequence == "t1c":
            raise ScanError(
                f"missing sequence {sequence}: no DICOM series fits (seen: {_seen(series, sequence, injected)})"
            )
    return {name: found[name] for name in SEQUENCES if name in found}


def _named(series: list[Series], sequence: str, wanted: str) -> Series:
    matching = [s for s in series if wanted in (s.uid, f"{s.number:.0f}")]
    if len(matching) != 1:
        known = ", ".join(s.label for s in series) or "none"
        raise ScanError(f"{sequence}: {len(matching)} series match the chosen {wanted!r} (seen: {known})")
    if matching[0].problem:
        raise ScanError(f"{sequence}: chosen {matching[0].label}: {matching[0].problem}")
    return matching[0]


def _best(fitting: list[Series], sequence: str, injected: float) -> Series:
    def rank(one: Series) -> tuple[int, float, float]:
        return (
            score(one, sequence, injected),
            -math.inf if math.isnan(one.thickness) else -round(one.thickness, 1),
            round(one.coverage, -1),
        )

    best = max(rank(s) for s in fitting)
    equal = [s for s in fitting if rank(s) == best]
    if any(s.protocol != equal[0].protocol for s in equal[1:]):
        names = "; ".join(s.label for s in equal)
        raise ScanError(
            f"{sequence}: {len(equal)} different DICOM series fit equally well ({names}); choose one in `series:`"
        )
    return max(equal, key=lambda s: (s.number, s.uid))


def _seen(series: list[Series], sequence: str, injected: float) -> str:
    """Every series with its score, or why it was refused."""
    return "; ".join(f"{s.label}: {refusal(s) or f'score {score(s, sequence, injected)}'}" for s in series) or "none"


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
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=600)
    except subprocess.TimeoutExpired as problem:
        raise ScanError(f"{name}: dcm2niix did not end on {series.label}") from problem
    made = sorted(target.glob("*.nii"))
    if run.returncode or len(made) != 1:
        raise ScanError(f"{name}: dcm2niix made {len(made)} images of {series.label} (exit {run.returncode})")
    return made[0]
