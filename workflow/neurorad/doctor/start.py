"""A first config.yaml: the folders that were given are looked at, their releases recognised, every line explained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from neurorad.cohorts.crosswalks import read_crosswalk
from neurorad.cohorts.inventory import list_scans
from neurorad.cohorts.label_tables import read_labels
from neurorad.cohorts.labels import harmonise
from neurorad.cohorts.release import Release
from neurorad.cohorts.releases import RELEASES
from neurorad.cohorts.releases.generic import generic
from neurorad.contract import imaging_of
from neurorad.doctor.own_names import own_pattern
from neurorad.encoder import load_card
from neurorad.encoder_names import METHODS, OBJECTIVES, encoder_parts
from neurorad.imaging.scan import ScanError, read_image, scan_state
from neurorad.problems import InputError
from neurorad.scan_folders import has_dicom_mark
from neurorad.volumes import SEQUENCES

TESTED = ("ucsf-pdgm", "upenn-gbm", "cuimc")
"""Releases that the paper tests on; it pretrains on the others."""

LOOSE = ("bids", "cuimc")
"""Layouts that any folder may happen to have: tried after the published ones, in this order."""

SCANS_A_JOB = 50

IMAGING: Mapping[str, Any] = {"spacing": 1, "shape": [160, 192, 160], "n4": True}
PRETRAINING: Mapping[str, Any] = {
    "methods": list(METHODS),
    "objectives": ["base", "dro"],
    "seeds": [0],
    "preset": "modern",
    "groups": "cohort",
}
"""What a study that trains its own encoders begins with."""


@dataclass(frozen=True)
class Found:
    """A cohort that was recognised."""

    release: str
    images: Path
    labels: Path | None
    scans: int
    patients: int
    unexplained: int
    own: Mapping[str, Any] = field(default_factory=dict)
    """Of `generic`: `pattern`, `sequences` and `state`; of `bids`: `state`, which is the last."""


def recognise(folder: Path) -> list[Found]:
    """The cohorts in a folder: itself one release, or each of its subfolders that is one, or scans named in a way of its own.

    Raises:
        InputError: no such folder, or nothing in it looks like scans; the message shows what each release expects.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that a release was unpacked into")
    whole = _releases_in(folder)
    published = [found for found in whole if found.release not in LOOSE]
    if len(published) == 1:
        return published
    below = [found for part in sorted(folder.iterdir()) if part.is_dir() for found in _releases_in(part)[:1]]
    # A hospital's PATIENT/SESSION/ looks like a folder of such folders: then the folder itself is meant.
    if any(found.release not in LOOSE for found in below) or not whole:
        whole = below or published
    if whole:
        return whole
    if own := _own_names(folder):
        return [own]
    expected = "; ".join(f"{name}: {release.example}" for name, release in RELEASES.items())
    raise InputError(
        f"{folder}: holds no scan of a known release. Expected one of: {expected}. Names of your own are recognised where a "
        "patient's folder holds one NIfTI file of each sequence with t1, t1ce, t2, flair or the like as a word of its name; "
        "for others write a cohort with `release: generic`, `pattern:`, `sequences:` and `state:` (docs/cohorts.md)"
    )


def _releases_in(folder: Path) -> list[Found]:
    """Releases of which the folder holds complete scans: those of published names, most scans first; else one of `LOOSE`."""
    published = [name for name in RELEASES if name not in LOOSE]
    found = [one for name in published if (one := _read(folder, name))]
    if found:
        return sorted(found, key=lambda one: -one.scans)
    return [one for name in LOOSE if (one := _read(folder, name))][:1]


def _complete(folder: Path, name: str, release: Release) -> tuple[pd.DataFrame, int]:
    """The complete scans of a folder, and how many of its files no rule explains."""
    scans, unknown = list_scans(name, folder, release)
    return scans[scans["problem"] == ""], len(unknown)


def _read(folder: Path, name: str) -> Found | None:
    try:
        complete, unexplained = _complete(folder, name, RELEASES[name])
    except InputError:
        return None
    if complete.empty:
        return None
    if name == "cuimc" and not any(_is_image(folder, row) for row in complete.head(3).to_dict("records")):
        return None
    table = _label_table(folder, name, complete)
    own = {"state": _state(complete)} if name == "bids" else {}
    return Found(name, folder, table, len(complete), complete["patient"].nunique(), unexplained, own)


def _own_names(folder: Path) -> Found | None:
    """Scans of names that no release has, if most of their folders hold one file of each sequence, told by words."""
    described = own_pattern(
        [path.relative_to(folder) for depth in (2, 3, 4) for path in folder.glob("/".join(["*"] * depth))]
    )
    if described is None:
        return None
    complete, unexplained = _complete(folder, "generic", generic(**described, state="skull"))
    if complete.empty:
        return None
    own = described | {"state": _state(complete)}
    table = _label_table(folder, "generic", complete)
    return Found("generic", folder, table, len(complete), complete["patient"].nunique(), unexplained, own)


def _state(scans: pd.DataFrame) -> str:
    """`stripped`, `defaced` or `skull`, by the first scan that can be read: the rule by which volumes will be judged."""
    for scan in scans.head(3).to_dict("records"):
        try:
            images = {name: read_image(scan[name], name) for name in SEQUENCES}
            return scan_state(images, ("stripped", "defaced", "skull"))
        except ScanError:
            continue
    return "skull"


def _is_image(folder: Path, scan: Mapping[str, str]) -> bool:
    """Whether a private scan's files are images at all: NIfTI by their names, DICOM by their fourth word."""
    if not scan["dicom"]:
        return True
    first = next((path for path in sorted(Path(scan["dicom"]).rglob("*")) if path.is_file()), None)
    return first is not None and has_dicom_mark(first)


def _tables(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv", ".xlsx") and path.is_file()
    )


def _label_table(folder: Path, release: str, scans: pd.DataFrame) -> Path | None:
    """The one table in the folder, or beside it, that reads as the release's and has a patient of the scans."""
    for place in (folder, folder.parent):
        fitting = [path for path in _tables(place) if set(scans["patient"]) & _patients(path, release)]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _patients(path: Path, release: str) -> set[str]:
    """As the scans' inventory calls them; none if the table is not the release's."""
    try:
        exams, problems, _ = harmonise(*read_labels(path, release), release)
    except InputError:
        return set()
    return {*exams["patient"], *(problem.patient for problem in problems)}


def crosswalks_in(folders: Collection[Path]) -> list[Path]:
    """Published mappings of ids (BraTS to TCIA and so on) in the folders or beside them."""
    found = []
    for place in sorted({place for folder in folders for place in (folder, folder.parent)}):
        for path in _tables(place):
            try:
                read_crosswalk(path, None)
            except InputError:
                continue
            found.append(path)
    return found


def suggested_role(found: Found) -> list[str]:
    """As in the paper; another cohort is tested on if it has labels."""
    if found.release in (*LOOSE, "generic") and found.release not in TESTED:
        return ["test"] if found.labels else ["pretrain"]
    return ["test"] if found.release in TESTED else ["pretrain"]


def named(cohorts: Sequence[Found]) -> dict[str, Found]:
    """A name for each cohort: its release, with a number where two are of one release."""
    names: dict[str, Found] = {}
    for found in cohorts:
        same = sum(other.release == found.release for other in names.values())
        names[f"{found.release}-{same + 1}" if same else found.release] = found
    return names


def brain_mask(weights: Path | None) -> dict[str, str]:
    """HD-BET where its weights were given, by their sha256; else the method whose weights come with the installation.

    Raises:
        InputError: the folder does not hold HD-BET's checkpoint.
    """
    if weights is None:
        return {"method": "deepbet"}
    checkpoint = weights / "fold_all" / "checkpoint_final.pth"
    if not checkpoint.is_file():
        raise InputError(
            f"{weights}: has no fold_all/checkpoint_final.pth; give HD-BET's released folder `release_2.0.0`"
        )
    with open(checkpoint, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"method": "hd-bet", "weights": str(weights), "sha256": digest}


def finished_encoders(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`imaging` (without brain mask) and `pretraining` of a study that uses the encoders of a folder as they are.

    Raises:
        InputError: there is none, or its card cannot be read.
    """
    parts = {path.parent.name: encoder_parts(path.parent.name) for path in sorted(folder.glob("*/encoder.safetensors"))}
    own = {name: part for name, part in parts.items() if part[0] in METHODS and part[1] in OBJECTIVES}
    if not own:
        raise InputError(f"{folder}: holds no encoder such as byol-dro-s0; give a study's results/encoders")
    methods, objectives, seeds = (set(which) for which in zip(*own.values(), strict=True))
    card = load_card(folder / next(iter(own)))
    return imaging_of(card["preprocessing"]), {
        "methods": [method for method in METHODS if method in methods],
        "objectives": [objective for objective in OBJECTIVES if objective in objectives],
        "seeds": sorted(seeds),
        "preset": card["preset"]["name"],
        "freeze": str(folder),
    }


def config_text(
    cohorts: Mapping[str, Found],
    roles: Mapping[str, Sequence[str]],
    crosswalks: Sequence[Path],
    imaging: Mapping[str, Any],
    pretraining: Mapping[str, Any],
) -> str:
    """The config as commented YAML.

    Args:
        roles: of each cohort, `pretrain`, `test` or both.
        imaging, pretraining: those blocks of the config; with `freeze` nothing is pretrained.

    Raises:
        InputError: no cohort to test on, or none to pretrain on and no finished encoders.
    """
    wanted = ("test",) if "freeze" in pretraining else ("test", "pretrain")
    for role in wanted:
        if not any(role in said for said in roles.values()):
            raise InputError(
                f"no cohort to {role} on among {', '.join(cohorts)}; say which with --{role} NAME"
                + ("" if "freeze" in pretraining else ", or give finished encoders with --encoders FOLDER")
            )
    blocks = "".join(_block(name, found, roles[name]) for name, found in cohorts.items())
    leakage = {"crosswalks": [{"table": str(path)} for path in crosswalks]} if crosswalks else {}
    overlaps = (
        "# Published tables that say which patients of two releases are one. Without them documented overlaps are stamped\n"
        "# LEAKAGE NOT EXCLUDED in every table.\n"
    )
    leak = (
        f"leakage: {_flow(leakage)}\n"
        if leakage
        else "# leakage: {crosswalks: [{table: BraTS2021_MappingToTCIA.xlsx}]}\n"
    )
    encoders = (
        "# Finished encoders, used as they are; what they were trained on is not known here, and every table says so.\n"
        if "freeze" in pretraining
        else "# Encoders: every method with and without Group-DRO over `groups` (cohort, disease, cohort_x_disease or column:NAME).\n"
        "# Presets are in resources/presets.yaml: `modern` needs a GPU, `demo` shows the machinery on a CPU.\n"
    )
    return f"""# A study, written by `neurorad init`. Check the roles, then ask `neurorad doctor` what would stop it.
# Every key is explained in workflow/schemas/config.schema.yaml, and a wrong one is refused before any job runs.

# One block a cohort: which reader understands it, what it is for, where it is.
cohorts:
{blocks}
# What an unknown spelling in a label table does: `stop` (one clear error) or `quarantine` (the patient leaves, listed).
labels: {{unknown: quarantine}}

{overlaps}{leak}
# The volumes: mm, voxels, bias correction, brain mask (hd-bet needs its released weights: init --hd-bet FOLDER).
imaging: {_flow(dict(imaging))}

{encoders}pretraining: {_flow(dict(pretraining))}

# Nested cross-validation; `bootstrap` resamples of patients make each confidence interval.
evaluation: {{folds: 5, repeats: 10, bootstrap: 2000, seed: 0}}

# Endpoints whose maps are drawn and checked.
explanation: {{endpoints: [idh1]}}
"""


def _block(name: str, found: Found, role: Sequence[str]) -> str:
    jobs = math.ceil(found.scans / SCANS_A_JOB)
    lines = [
        f"  # {found.scans} complete scans of {found.patients} patients"
        + (f"; {found.unexplained} files that no rule explains" if found.unexplained else ""),
        f"  {name}:",
        f"    release: {found.release}",
        f"    role: {_flow(list(role))}",
        f"    images: {_flow(str(found.images))}",
    ]
    lines += [f"    {key}: {_flow(value)}" for key, value in found.own.items()]
    if "state" in found.own:
        lines[-1] += "  # stripped, defaced or skull: as its first scan shows; a scan that shows another is left out"
    lines.append(
        f"    labels: {_flow(str(found.labels))}"
        if found.labels
        else "    # labels: its label table; none was found (docs/releases.md says what its columns are)"
    )
    lines.append(f"    shards: {jobs}  # jobs its volumes are made in")
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    """A value on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
        .split("\n...")[0]
        .strip()
    )
