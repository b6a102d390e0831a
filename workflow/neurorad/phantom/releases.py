"""Write one cohort in the folder layout and file names of its release."""

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurorad.files import PARTIAL, write_table
from neurorad.phantom import dicom
from neurorad.phantom.grids import Grid
from neurorad.phantom.render import Images, Study, on_common_grid, on_scanner_grids, protocol_of, scanner_of
from neurorad.phantom.tables import TABLES
from neurorad.problems import InputError
from neurorad.seeds import generator

TRUNCATED_SHARE = 0.6
"""How much of a truncated file is left."""


def write_cohort(study: Study, cohort: str, out: Path) -> None:
    """Render every scan of a cohort into `out`, with its label table; whole or not at all.

    Raises:
        InputError: unknown cohort, or `out` holds something already.
    """
    scans = study.plan.scans[study.plan.scans["cohort"] == cohort].to_dict("records")
    if not scans:
        raise InputError(f"phantom cohort {cohort!r}: not in the recipe; it has {', '.join(study.recipe['cohorts'])}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"phantom {out}: exists and is not empty; delete it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=out.parent))
    try:
        for number, scan in enumerate(scans, 1):
            _WRITERS[cohort](study, scan, building)
            print(f"phantom {cohort}: {number} of {len(scans)}", file=sys.stderr)
        if cohort in TABLES:
            name, maker = TABLES[cohort]
            write_table(building / name, maker(study.plan, study.seed))
        building.chmod(0o755)
        building.replace(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _save(path: Path, voxels: np.ndarray, grid: Grid) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _save_sequences(
    scan: dict[str, Any], folder: Path, pattern: str, spelled: dict[str, str], images: Images, corrected: bool = False
) -> None:
    """Write `pattern` (with `{}` for the release's sequence name) for each sequence that is not planted missing."""
    for sequence, name in spelled.items():
        if sequence == scan["missing"]:
            continue
        path = folder / pattern.format(name)
        voxels = (images.corrected if corrected else images.images)[sequence]
        _save(path, voxels, images.grids[sequence])
        if sequence == scan["truncated"]:
            content = path.read_bytes()
            path.write_bytes(content[: int(TRUNCATED_SHARE * len(content))])


def _brats(study: Study, scan: dict[str, Any], root: Path) -> None:
    images = on_common_grid(study, scan, head=False)
    folder = root / scan["scan"]
    spelled = {name: name for name in images.images}
    _save_sequences(scan, folder, f"{scan['scan']}-{{}}.nii.gz", spelled, images)
    _save(folder / f"{scan['scan']}-seg.nii.gz", images.tumour, images.grids["t1c"])


def _mu_glioma_post(study: Study, scan: dict[str, Any], root: Path) -> None:
    images = on_common_grid(study, scan, head=False)
    folder = root / scan["patient"] / scan["session"]
    spelled = {name: name for name in images.images}
    _save_sequences(scan, folder, f"{scan['scan']}_brain_{{}}.nii.gz", spelled, images)
    _save(folder / f"{scan['scan']}_tumorMask.nii.gz", images.tumour, images.grids["t1c"])


def _lumiere(study: Study, scan: dict[str, Any], root: Path) -> None:
    folder = root / "Imaging" / scan["patient"] / scan["session"]
    native = on_scanner_grids(study, scan, to_anterior=True)
    _save_sequences(scan, folder, "{}.nii.gz", {"t1n": "T1", "t1c": "CT1", "t2w": "T2", "t2f": "FLAIR"}, native)
    atlas = on_common_grid(study, scan, head=False)
    stripped = folder / "DeepBraTumIA-segmentation" / "atlas" / "skull_strip"
    spelled = {"t1n": "t1", "t1c": "ct1", "t2w": "t2", "t2f": "flair"}
    _save_sequences(scan, stripped, "{}_skull_strip.nii.gz", spelled, atlas)
    _save(stripped / "brain_mask.nii.gz", atlas.brain.astype(np.uint8), atlas.grids["t1c"])
    _save(stripped.parent / "segmentation" / "seg_mask.nii.gz", atlas.tumour, atlas.grids["t1c"])


def _ucsf_pdgm(study: Study, scan: dict[str, Any], root: Path) -> None:
    images = on_common_grid(study, scan, head=False)
    folder = root / f"{scan['patient']}_nifti"
    spelled = {"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR"}
    _save_sequences(scan, folder, f"{scan['patient']}_{{}}.nii.gz", spelled, images)
    _save_sequences(scan, folder, f"{scan['patient']}_{{}}_bias.nii.gz", spelled, images, corrected=True)
    _save(folder / f"{scan['patient']}_tumor_segmentation.nii.gz", images.tumour, images.grids["t1c"])
    _save(folder / f"{scan['patient']}_brain_segmentation.nii.gz", images.brain.astype(np.uint8), images.grids["t1c"])


def _upenn_gbm(study: Study, scan: dict[str, Any], root: Path) -> None:
    whole = on_common_grid(study, scan, head=True)
    stripped = {name: np.maximum(voxels, 1) * whole.brain for name, voxels in whole.images.items()}
    images = Images(stripped, {}, whole.grids, whole.brain, whole.tumour)
    spelled = {"t1n": "T1", "t1c": "T1GD", "t2w": "T2", "t2f": "FLAIR"}
    name = scan["scan"]
    _save_sequences(scan, root / "images_structural" / name, f"{name}_{{}}.nii.gz", spelled, images)
    folder = root / "images_structural_unstripped" / name
    _save_sequences(scan, folder, f"{name}_{{}}_unstripped.nii.gz", spelled, whole)
    if scan["session"] == "11":
        _save(root / "images_segm" / f"{name}_segm.nii.gz", whole.tumour, whole.grids["t1c"])


REPEAT = 9
"""Series number of a T2 that was scanned again."""


def is_repeated(scan: dict[str, Any]) -> bool:
    """Whether the first T2 of a CUIMC session failed: every third patient's."""
    return int(scan["patient"].rsplit("-", 1)[1]) % 3 == 1


def _cuimc(study: Study, scan: dict[str, Any], root: Path) -> None:
    images = on_scanner_grids(study, scan, to_anterior=False)
    patient = study.patient(scan)
    _, scanner = scanner_of(study, scan)
    header = {key: scan[key] for key in ("cohort", "patient", "session")}
    header |= {"scanner": scanner, "age": patient["age"], "sex": patient["sex"], "seed": study.seed}
    folder = root / scan["patient"] / scan["session"]
    runs = protocol_of(study, scan)
    for number, sequence in ((2, "t1n"), (3, "t2w"), (4, "t2f"), (6, "t1c")):
        if sequence == scan["missing"]:
            continue
        elements = dicom.sequence_elements(sequence, runs[sequence], scanner)
        grid, voxels = images.grids[sequence], images.images[sequence]
        if sequence == "t2w" and is_repeated(scan):
            # The patient moved: a ghost half an image further. The radiographer scans again at the end.
            ghost = ((voxels.astype(np.int32) + np.roll(voxels, voxels.shape[1] // 2, axis=1)) // 2).astype(np.int16)
            failed = dicom.Series(number, scanner["series"][sequence], elements)
            _write_series(folder, ghost, grid, failed, header, float(grid.spacing[2]))
            number = REPEAT
        series = dicom.Series(number, scanner["series"][sequence], elements)
        _write_series(folder, voxels, grid, series, header, float(grid.spacing[2]))
    for series, voxels, grid in _decoys(study, scan, images):
        _write_series(folder, voxels, grid, series, header, float(grid.spacing[2]))


def _write_series(
    folder: Path, voxels: np.ndarray, grid: Grid, series: dicom.Series, header: dict[str, Any], thickness: float
) -> None:
    name = "".join(letter if letter.isalnum() else "_" for letter in series.description)
    dicom.write_series(folder / f"{series.number:03d}-{name}", voxels, grid, series, header, thickness)


def _decoys(study: Study, scan: dict[str, Any], images: Images) -> Iterable[tuple[dicom.Series, np.ndarray, Grid]]:
    """What a reader must pass over, cut from the rendered images: localizer, diffusion, subtraction and field map."""
    t1, t1_grid = images.images["t1n"], images.grids["t1n"]
    middle = t1.shape[2] // 2
    few = slice(max(middle - 3, 0), middle + 4, 3)
    affine = t1_grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * few.start
    affine[:3, 2] *= 3
    scout = t1[:, :, few]
    elements: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], "ScanningSequence": "GR"}
    elements |= {
        "SequenceVariant": "SP",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 7.8,
        "EchoTime": 3.7,
        "FlipAngle": 20.0,
    }
    yield dicom.Series(1, "localizer", elements), scout, Grid(scout.shape, affine)

    t2, t2_grid = images.images["t2w"], images.grids["t2w"]
    shape = tuple(n // 2 for n in t2.shape[:2])
    halved = t2[: 2 * shape[0], : 2 * shape[1]].astype(np.float32)
    halved = halved.reshape(shape[0], 2, shape[1], 2, -1).mean((1, 3))
    affine = t2_grid.affine.copy()
    affine[:3, 3] += (affine[:3, 0] + affine[:3, 1]) / 2
    affine[:3, :2] *= 2
    rng = generator(study.seed, "diffusion", scan["scan"])
    weighted = halved * 0.3 + np.abs(rng.normal(0, 6, halved.shape))
    voxels = np.round(np.stack([halved, weighted], -1)).astype(np.int16)
    elements = {
        "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
    }
    elements |= {"ScanOptions": "PFP", "MRAcquisitionType": "2D", "RepetitionTime": 6400.0, "EchoTime": 88.0}
    elements |= {"FlipAngle": 90.0, "DiffusionBValues": (0, 1000), "SequenceName": "*ep_b0_1000"}
    low = Grid(voxels.shape[:3], affine)
    yield dicom.Series(5, "ep2d_diff_3scan_trace", elements), voxels, low

    t1c = images.images["t1c"]
    gain = np.clip(t1c - np.median(t1c), 0, None).astype(np.int16)
    run = protocol_of(study, scan)["t1c"]
    scanner = scanner_of(study, scan)[1]
    elements = dicom.sequence_elements("t1c", run, scanner) | {"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTION"]}
    yield dicom.Series(7, f"{scanner['series']['t1c']}_SUB", elements), gain, images.grids["t1c"]

    elements = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], "ScanningSequence": "GR", "SequenceVariant": "SP"}
    elements |= {"ScanOptions": "", "MRAcquisitionType": "2D", "RepetitionTime": 500.0, "EchoTime": 4.92}
    echoes = np.stack([voxels[..., 0], (voxels[..., 0] * 0.9).astype(np.int16)], -1)
    yield dicom.Series(8, "gre_field_mapping", elements | {"FlipAngle": 60.0}), echoes, low


_WRITERS = {
    **dict.fromkeys(("brats-gli-pre", "brats-gli-post", "brats-men", "brats-met", "brats-ped"), _brats),
    "lumiere": _lumiere,
    "mu-glioma-post": _mu_glioma_post,
    "ucsf-pdgm": _ucsf_pdgm,
    "upenn-gbm": _upenn_gbm,
    "cuimc": _cuimc,
}
