"""Scans of the phantom's sites, rendered when a test first asks for them."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from neurorad import RESOURCES
from neurorad.imaging.scan import Image
from neurorad.phantom.plan import plan, read_recipe
from neurorad.phantom.releases import write_cohort
from neurorad.phantom.render import Study


@lru_cache
def study_at(spacing: float, scale: float = 0.1) -> Study:
    """The shipped study at `spacing` mm."""
    recipe = read_recipe(RESOURCES / "phantom.yaml")
    return Study(recipe, 0, spacing, plan(recipe, 0, scale))


def sound(study: Study, cohort: str, count: int) -> list[dict]:
    """The first scans of a cohort without a planted fault."""
    scans = study.plan.scans
    own = scans[(scans["cohort"] == cohort) & (scans["missing"] == "") & (scans["truncated"] == "")]
    return own.head(count).to_dict("records")


def slice_file(path: Path, **elements: str) -> None:
    """A DICOM file of a series of its own, with `elements` and no pixels; Modality is MR unless it is one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, generate_uid()
    header.SeriesInstanceUID = generate_uid()
    for name, value in {"Modality": "MR", **elements}.items():
        setattr(header, name, value)
    header.save_as(path, enforce_file_format=True)


def image(voxels: np.ndarray, affine: np.ndarray) -> Image:
    """In RAS+ order, as `read_image` returns it."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.float32), affine))
    return Image(np.ascontiguousarray(canonical.get_fdata(dtype=np.float32)), canonical.affine)


@pytest.fixture(scope="session")
def one_scan(tmp_path_factory) -> Callable[[str, float], Path]:
    """Folder of a cohort's release that holds its first sound scan alone."""
    made: dict[tuple[str, float], Path] = {}

    def folder(cohort: str, spacing: float = 4.0) -> Path:
        if (cohort, spacing) not in made:
            study = study_at(spacing)
            only = study.plan.scans["scan"] == sound(study, cohort, 1)[0]["scan"]
            alone = replace(study, plan=replace(study.plan, scans=study.plan.scans[only]))
            made[cohort, spacing] = tmp_path_factory.mktemp("one") / cohort
            write_cohort(alone, cohort, made[cohort, spacing])
        return made[cohort, spacing]

    return folder
