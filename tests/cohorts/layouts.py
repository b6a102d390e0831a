"""Small releases on disk, in the names of the real ones."""

import nibabel as nib
import numpy as np

from neurorad.cohorts.inventory import list_scans
from neurorad.cohorts.releases import RELEASES

SPELLED = {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}
ALL = ("t1n", "t1c", "t2w", "t2f", "seg")
FIRST = "BraTS-GLI-00001-000"


def write(path, shape=(24, 24, 16), spacing=10.0, shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), affine), path)


def brats(folder, patient="BraTS-GLI-00001", session="000", names=ALL):
    for name in names:
        write(folder / f"{patient}-{session}" / f"{patient}-{session}-{name}.nii.gz")


def listed(folder, release="brats-gli-pre"):
    return list_scans("gli", folder, RELEASES[release])


def problem_of(folder, release="brats-gli-pre"):
    scans, _ = listed(folder, release)
    return scans["problem"].item()
