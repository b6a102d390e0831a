"""UPENN-GBM: glioblastoma of the University of Pennsylvania, version 2.

Sources: Bakas 2022 (doi 10.1038/s41597-022-01560-7; TCIA, doi 10.7937/TCIA.709X-DN49).

Images: `T1`, `T1GD`, `T2`, `FLAIR` below `images_structural`, on SRI24 (240 x 240 x 155, 1 mm), skull-stripped, not
bias-corrected.
Mask: `images_segm`, corrected by hand, 147 baselines; labels 1 necrosis, 2 oedema, 4 enhancing, all tumour.
Ignored: `images_structural_unstripped` (the same images as heads), `automated_segm` (uncorrected output of a network),
`images_DTI`, `images_DSC`, and the `old` folders that two patients have.
Time points: `_11` before the first operation, `_21` a follow-up.
Labels: `UPENN-GBM_clinical_info_v2.1.csv` states age, sex, IDH1, MGMT, survival, KPS and extent of resection.
"""

from neurorad.cohorts.release import Release

_SCAN = r"(?P<patient>UPENN-GBM-\d{5})_(?P<session>\d{2})"
_NAMES = {"t1n": "T1", "t1c": "T1GD", "t2w": "T2", "t2f": "FLAIR"}

UPENN_GBM = Release(
    name="upenn-gbm",
    files={
        ours: (rf"(?:.*/)?images_structural/{_SCAN}/(?P=patient)_(?P=session)_{theirs}\.nii\.gz",)
        for ours, theirs in _NAMES.items()
    }
    | {"tumour": (rf"(?:.*/)?images_segm/{_SCAN}_segm\.nii\.gz",)},
    example="images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1GD.nii.gz",
    state=("stripped",),
    grids=("sri24",),
    tumour_labels=(1, 2, 4),
    ignored=(
        r"(?:.*/)?(?:images_structural_unstripped|automated_segm|images_DTI|images_DSC)/.*",
        r"(?:.*/)?images_structural/[^/]+/old/.*",
    ),
)
