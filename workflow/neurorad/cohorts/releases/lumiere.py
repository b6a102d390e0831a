"""LUMIERE: glioblastoma followed after surgery, 91 patients.

Source: Suter 2022 (doi 10.1038/s41597-022-01881-7; data doi 10.6084/m9.figshare.c.5904905).

Images: the atlas copies made by DeepBraTumIA, on MNI152 (182 x 218 x 182, 1 mm), skull-stripped.
Ignored: `T1`, `CT1`, `T2`, `FLAIR` at the top of a week (the same images as acquired, with skull, each on its own
grid): a scan must not enter twice. All segmentations: both are automatic (DeepBraTumIA, HD-GLIO-AUTO), so agreement
with them would measure another network.
Time points: weeks after surgery, `week-000-1`, `week-044`.
Labels: `LUMIERE-Demographics_Pathology.csv` states age, sex, IDH, MGMT and survival in weeks. Not verified: its headers
and spellings are those that public loaders quote, the table itself was never read here. One that differs is refused by
name; it is not guessed.
"""

from neurorad.cohorts.release import Release

_WEEK = r"(?:.*/)?(?P<patient>Patient-\d{3})/(?P<session>week-\d{3}(?:-\d)?)"
_NAMES = {"t1n": "t1", "t1c": "ct1", "t2w": "t2", "t2f": "flair"}

LUMIERE = Release(
    name="lumiere",
    files={
        ours: (rf"{_WEEK}/DeepBraTumIA-segmentation/atlas/skull_strip/{theirs}_skull_strip\.nii\.gz",)
        for ours, theirs in _NAMES.items()
    },
    example="Imaging/Patient-001/week-000-1/DeepBraTumIA-segmentation/atlas/skull_strip/ct1_skull_strip.nii.gz",
    state=("stripped",),
    grids=("mni152-182",),
    ignored=(
        r"(?:.*/)?week-\d{3}(?:-\d)?/(?:CT1|T1|T2|FLAIR)\.nii\.gz",
        r"(?:.*/)?week-\d{3}(?:-\d)?/HD-GLIO-AUTO-segmentation/.*",
        r"(?:.*/)?week-\d{3}(?:-\d)?/DeepBraTumIA-segmentation/(?!atlas/skull_strip/[^/]+_skull_strip\.nii\.gz).*",
    ),
)
