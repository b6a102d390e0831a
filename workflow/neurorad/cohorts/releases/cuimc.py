"""The schema for a hospital's private cohort, as the paper's CUIMC.

Source: this project; write your export in this form and declare it as `release: cuimc`.

Images, one folder a session, `PATIENT/SESSION/`, either
- DICOM: any number of series of one study, in any folders and under any file names; the headers tell which is which, and a
  session with MR of two patients or studies is left out (`neurorad.imaging.dicom`), or
- NIfTI: `t1n.nii.gz`, `t1c.nii.gz`, `t2w.nii.gz`, `t2f.nii.gz`, each on its own grid or all on one.
Whole heads unless `state:` in the cohort's block says `defaced` or `stripped`.
Mask: with NIfTI, `tumour.nii.gz`; labels 1, 2, 3 are tumour, 4 is a resection cavity and is not (as BraTS 2024).
Time points: the session folders, in the order of their names.
Names of patients and sessions may be anything; only pseudonyms leave the folder.
Labels: one CSV, one row a patient; columns in `resources/labels/cuimc.yaml`.
"""

from neurorad.cohorts.release import Release

_SESSION = r"(?P<patient>[^/]+)/(?P<session>[^/]+)"

CUIMC = Release(
    name="cuimc",
    files={name: (rf"{_SESSION}/{name}\.nii(?:\.gz)?",) for name in ("t1n", "t1c", "t2w", "t2f", "tumour")},
    example="PATIENT/SESSION/SERIES/IM0001.dcm or PATIENT/SESSION/t1c.nii.gz",
    state=("skull",),
    state_in_config=True,
    tumour_labels=(1, 2, 3),
    cavity_labels=(4,),
    dicom=rf"{_SESSION}/.+(?<!\.nii)(?<!\.nii\.gz)",
    private=True,
)
