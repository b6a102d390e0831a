"""BraTS meningioma, 2023 and later.

Sources: LaBella 2023 (arXiv:2305.07642) and 2024 (doi 10.1038/s41597-024-03350-9).

Images: t1n, t1c, t2w, t2f on SRI24 (240 x 240 x 155, 1 mm), skull-stripped, not bias-corrected.
Mask: `seg`, corrected by hand; labels 1, 2, 3, all tumour.
Refused: BraTS-MEN-RT (LaBella 2024, arXiv:2405.18383), the radiotherapy planning scans: t1c alone, on its own grid,
defaced.
Time points: `-000`.
Labels: none.
"""

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.brats_names import brats_files

BRATS_MEN = Release(
    name="brats-men",
    files=brats_files("MEN"),
    example="BraTS-MEN-00004-000/BraTS-MEN-00004-000-t1c.nii.gz",
    state=("stripped",),
    grids=("sri24",),
    disease="MEN",
    tumour_labels=(1, 2, 3),
    refused={r"(?:.*/)?BraTS-MEN-RT-[^/]+\.nii\.gz": "BraTS-MEN-RT: one sequence (t1c), no scan of four"},
)
