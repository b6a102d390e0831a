"""MU-Glioma-Post: post-operative glioma of the University of Missouri, 203 patients.

Source: Yaseen 2025 (TCIA, doi 10.7937/7k9k-3c83).

Images: `brain_t1n`, `brain_t1c`, `brain_t2w`, `brain_t2f` on SRI24 (240 x 240 x 155, 1 mm), skull-stripped, not
bias-corrected.
Mask: `tumorMask`, corrected by hand; labels 1, 2, 3 are tumour, 4 is the resection cavity and is not.
Time points: `Timepoint_1` to `Timepoint_6`.
Labels: `MU-Glioma-Post_ClinicalData-July2025.xlsx` states age, sex, grade, diagnosis, the molecular markers and
survival, in codes that its sheet `Data Dictionary` explains.
"""

from neurorad.cohorts.release import Release

_FOLDER = r"(?:.*/)?(?P<patient>PatientID_\d{4})/(?P<session>Timepoint_\d)"
_NAMES = {name: f"brain_{name}" for name in ("t1n", "t1c", "t2w", "t2f")} | {"tumour": "tumorMask"}

MU_GLIOMA_POST = Release(
    name="mu-glioma-post",
    files={ours: (rf"{_FOLDER}/(?P=patient)_(?P=session)_{theirs}\.nii\.gz",) for ours, theirs in _NAMES.items()},
    example="PatientID_0003/Timepoint_1/PatientID_0003_Timepoint_1_brain_t1c.nii.gz",
    state=("stripped",),
    grids=("sri24",),
    tumour_labels=(1, 2, 3),
    cavity_labels=(4,),
)
