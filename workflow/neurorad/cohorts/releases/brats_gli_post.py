"""BraTS adult glioma after treatment, 2024 and 2025.

Source: de Verdier 2024 (arXiv:2405.18368).

Images: t1n, t1c, t2w, t2f on MNI152 (182 x 218 x 182, 1 mm), skull-stripped by HD-BET, not bias-corrected.
Mask: `seg`, corrected by hand; labels 1 non-enhancing core, 2 surrounding FLAIR hyperintensity, 3 enhancing are
tumour, 4 is the resection cavity and is not. A mask may be empty: nothing is left after surgery.
Ignored: time points below 100, which are pre-treatment (release brats-gli-pre) and share the folder in 2025.
Time points: `-100`, `-101`, ...
Labels: `BraTS-PTG supplementary demographic information and metadata.xlsx` states age, sex, glioma type, site, vendor
and field strength. Not verified: its headers and spellings are those of a public tutorial, the table itself was never
read here. One that differs is refused by name; it is not guessed.
"""

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.brats_names import brats_files

BRATS_GLI_POST = Release(
    name="brats-gli-post",
    files=brats_files("GLI", r"1\d{2}"),
    example="BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1c.nii.gz",
    state=("stripped",),
    grids=("mni152-182",),
    tumour_labels=(1, 2, 3),
    cavity_labels=(4,),
    ignored=(r"(?:.*/)?BraTS-GLI-\d{5}-0\d{2}/.*",),
)
