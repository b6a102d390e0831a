"""Raw DICOM as a scanner sends it: one file a slice, headers that match the physics, and the series nobody asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from neurorad.phantom.grids import Grid
from neurorad.seeds import seed_of

_LPS = np.diag([-1.0, -1.0, 1.0])
_DATE = "20010203"
"""Every study's date: no true date, and the same bytes in every run."""


@dataclass(frozen=True)
class Series:
    """One series: `number`, `description`, and header elements that differ from a plain T1 (`elements`)."""

    number: int
    description: str
    elements: dict[str, Any]


def uid(*names: object) -> str:
    """A DICOM UID from names (2.25 root, PS3.5 B.2): the same names, the same UID."""
    return f"2.25.{seed_of('dicom-uid', *names) << 60 | seed_of('dicom-uid-2', *names) >> 3}"


def sequence_elements(sequence: str, run: dict[str, Any], scanner: dict[str, Any]) -> dict[str, Any]:
    """Header elements of one of the four sequences, from the parameters its signal was computed with."""
    volumetric = run["slice"] < 2
    spin = run["kind"] == "se" or sequence == "t2f"
    elements = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]
        if scanner["vendor"] == "SIEMENS"
        else ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": ["SE", "IR"] if sequence == "t2f" else "SE" if spin else ["GR", "IR"],
        "SequenceVariant": ["SK", "SP"] if spin else ["SK", "SP", "MP"],
        "ScanOptions": "IR" if "ti" in run else "",
        "MRAcquisitionType": "3D" if volumetric else "2D",
        "RepetitionTime": float(run["tr"]),
        "EchoTime": float(run["te"]),
        "FlipAngle": 90.0 if spin else 9.0,
        "EchoTrainLength": 17 if sequence in ("t2w", "t2f") else 1,
    }
    if "ti" in run:
        elements["InversionTime"] = float(run["ti"])
    if sequence == "t1c" and scanner["agent"]:
        elements |= {"ContrastBolusAgent": scanner["agent"], "ContrastBolusRoute": "IV"}
    return elements


def write_series(
    folder: Path, voxels: np.ndarray, grid: Grid, series: Series, study: dict[str, Any], thickness: float
) -> None:
    """Write one series, a file a slice.

    Args:
        folder: made here; files are `IM-0001.dcm`, ... in order of instance numbers.
        voxels: int16 [columns, rows, slices] on `grid` (or [columns, rows, slices, volumes]).
        grid: RAS; DICOM's LPS positions and directions are derived from it.
        series: number, description and elements.
        study: `patient`, `session`, `scanner` and `age`, `sex` of the patient.
        thickness: slice thickness in mm (the distance between slices follows from the grid).
    """
    folder.mkdir(parents=True)
    columns = (_LPS @ grid.affine[:3, :3]).T
    steps = np.linalg.norm(columns, axis=1)
    orientation = [*columns[0] / steps[0], *columns[1] / steps[1]]
    volumes = voxels.reshape(*voxels.shape[:3], -1)
    instance = 0
    for volume in range(volumes.shape[3]):
        for index in range(volumes.shape[2]):
            instance += 1
            data = _header(series, study, instance, volume)
            position = _LPS @ (grid.affine @ [0, 0, index, 1])[:3]
            data.ImagePositionPatient = [f"{value:.6f}" for value in position]
            data.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
            # DICOM: spacing between rows first, then between columns.
            data.PixelSpacing = [f"{steps[1]:.6f}", f"{steps[0]:.6f}"]
            data.SliceThickness = f"{thickness:.6f}"
            data.SpacingBetweenSlices = f"{steps[2]:.6f}"
            data.SliceLocation = f"{float(position @ np.cross(orientation[:3], orientation[3:])):.6f}"
            _pixels(data, volumes[:, :, index, volume].T)
            data.save_as(folder / f"IM-{instance:04d}.dcm", enforce_file_format=True)


def _header(series: Series, study: dict[str, Any], instance: int, volume: int) -> Dataset:
    names = (study["cohort"], study["patient"], study["session"])
    scanner = study["scanner"]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = UID(uid(study["seed"], *names, series.number, instance))
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID = UID("2.25.1")
    data.SOPClassUID = MRImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = uid(study["seed"], *names)
    data.SeriesInstanceUID = uid(study["seed"], *names, series.number)
    data.FrameOfReferenceUID = uid(study["seed"], *names, "frame")
    data.Modality = "MR"
    data.Manufacturer = scanner["vendor"]
    data.ManufacturerModelName = scanner["model"]
    data.MagneticFieldStrength = scanner["field"]
    data.PatientID = study["patient"]
    data.PatientName = study["patient"]
    data.PatientSex = study["sex"]
    data.PatientAge = f"{int(study['age']):03d}Y"
    data.PatientPosition = "HFS"
    data.BodyPartExamined = "BRAIN"
    data.StudyID = "1"
    data.AccessionNumber = ""
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = _DATE
    data.StudyTime = "090000"
    data.SeriesTime = data.AcquisitionTime = data.ContentTime = f"09{4 * series.number:02d}00"
    data.StudyDescription = "MR BRAIN W WO CONTRAST"
    data.SeriesDescription = data.ProtocolName = series.description
    data.SeriesNumber = series.number
    data.AcquisitionNumber = volume + 1
    data.InstanceNumber = instance
    for name, value in series.elements.items():
        if name == "DiffusionBValues":
            data.DiffusionBValue = float(value[volume])
        else:
            setattr(data, name, value)
    return data


def _pixels(data: Dataset, rows_by_columns: np.ndarray) -> None:
    pixels = np.ascontiguousarray(rows_by_columns, dtype="<u2")
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = 16
    data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = 0
    data.WindowCenter = str(int(pixels.max()) // 2)
    data.WindowWidth = str(max(int(pixels.max()), 1))
    data.PixelData = pixels.tobytes()
