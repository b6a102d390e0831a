"""BraTS paediatric brain tumours, 2023 and later.

Sources: Kazerooni 2023 (arXiv:2305.17033) and 2024 (arXiv:2404.15009).

Images: t1n, t1c, t2w, t2f on SRI24 (240 x 240 x 155, 1 mm), not bias-corrected. Skull-stripped in 2023, defaced heads
in later issues: each scan is taken as what it is found to be, and the defaced ones get a brain mask.
Mask: `seg`, corrected by hand; labels 1 to 4 (enhancing, non-enhancing, cyst, oedema; 1, 2, 3 in 2023), all tumour.
Time points: `-000`, `-001`, ...
Labels: none.
"""

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.brats_names import brats_files

BRATS_PED = Release(
    name="brats-ped",
    files=brats_files("PED"),
    example="BraTS-PED-00001-000/BraTS-PED-00001-000-t1c.nii.gz",
    state=("stripped", "defaced"),
    grids=("sri24",),
    disease="PED",
    tumour_labels=(1, 2, 3, 4),
)
