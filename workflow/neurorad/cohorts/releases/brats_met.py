"""BraTS brain metastases, 2023 to 2025.

Source: Moawad 2023 (arXiv:2306.00838).

Images: t1n, t1c, t2w, t2f, skull-stripped, not bias-corrected; on SRI24 (240 x 240 x 155, 1 mm) up to 2023, on the
grid of the scan's own t1c for what 2025 added.
Mask: `seg`, corrected by hand; labels 1, 2, 3 are tumour, 4 (since 2025) is the resection cavity and is not.
Time points: `-000`, `-001`, ...
Labels: none.
"""

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.brats_names import brats_files

BRATS_MET = Release(
    name="brats-met",
    files=brats_files("MET"),
    example="BraTS-MET-00001-000/BraTS-MET-00001-000-t1c.nii.gz",
    state=("stripped",),
    grids=("sri24", "native"),
    disease="MET",
    tumour_labels=(1, 2, 3),
    cavity_labels=(4,),
)
