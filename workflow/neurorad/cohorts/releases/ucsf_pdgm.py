"""UCSF-PDGM: preoperative diffuse glioma of the University of California San Francisco, versions 2 to 5.

Sources: Calabrese 2022 (doi 10.1148/ryai.220058; TCIA, doi 10.7937/tcia.bdgf-8v37).

Images: `T1`, `T1c`, `T2`, `FLAIR` registered to FLAIR and resampled to 240 x 240 x 155 at 1 mm, skull-stripped.
Mask: `tumor_segmentation`, corrected by hand; labels 1 necrosis, 2 oedema, 4 enhancing, all tumour.
Ignored: the `_bias` copies, which are corrected by N4: the uncorrected ones are read, so that every cohort gets the same
correction. SWI, DWI, ASL, diffusion tensor maps, brain masks.
Time points: one; six exams are follow-ups, named `_FU007d` and so on since version 3 and like patients of their own
before.
Labels: `UCSF-PDGM-metadata_v5.csv` (ids of three digits, folders have four) states age, sex, grade, diagnosis, MGMT,
1p/19q, IDH, survival, extent of resection and the exam's name in BraTS 2021.
"""

from neurorad.cohorts.label_tables import dictionaries
from neurorad.cohorts.release import Release

_FOLDER = r"(?:.*/)?(?P<patient>UCSF-PDGM-\d{4})(?:_(?P<session>FU\d{3}d))?_nifti"
_NAMES = {"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR", "tumour": "tumor_segmentation"}
_OTHERS = (
    r"(?:T1|T1c|T2|FLAIR|SWI|DWI)_bias|SWI|DWI|ADC|ASL|ASL_M0|DTI_eddy_(?:noreg|FA|MD|L1|L2|L3)|"
    r"brain_segmentation|brain_parenchyma_segmentation"
)

UCSF_PDGM = Release(
    name="ucsf-pdgm",
    files={
        ours: (rf"{_FOLDER}/(?P=patient)(?(session)_(?P=session))_{theirs}\.nii\.gz",)
        for ours, theirs in _NAMES.items()
    },
    example="UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T1c.nii.gz",
    state=("stripped",),
    grids=("sri24",),
    tumour_labels=(1, 2, 4),
    ignored=(
        rf"(?:.*/)?UCSF-PDGM-\d{{4}}(?:_FU\d{{3}}d)?_nifti/UCSF-PDGM-\d{{4}}(?:_FU\d{{3}}d)?_(?:{_OTHERS})\.nii\.gz",
        r".*_DTI_eddy\.eddy_rotated_bvecs",
    ),
    renamed={old: tuple(new) for old, new in dictionaries("ucsf-pdgm")[0]["id"]["renamed"].items()},
)
