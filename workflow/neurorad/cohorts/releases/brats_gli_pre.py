"""BraTS adult glioma before treatment, 2017 to 2025.

Sources: Menze 2015 (doi 10.1109/TMI.2014.2377694), Bakas 2017 (doi 10.1038/sdata.2017.117) and 2018
(arXiv:1811.02629), Baid 2021 (arXiv:2107.02314; TCIA, doi 10.7937/jc8x-9874). BraTS 2023 re-issues the voxels of 2021
under new names.

Images: T1, T1 with contrast, T2, FLAIR, on SRI24 (240 x 240 x 155, 1 mm); BraTS 2025 made them again on MNI152.
Skull-stripped, not bias-corrected.
Mask: `seg`, corrected by hand; labels 1 necrosis, 2 oedema, 4 enhancing up to 2021 and 1, 2, 3 since: all tumour.
One mask of BraTS 2020 still carries its hospital's name.
Ignored: time points 100 and above, which are post-treatment (release brats-gli-post) and share the folder in 2025.
Time points: `-000`, `-001` since 2023; none before.
Labels: `survival_info.csv` (2017 to 2020) states age, survival and extent of resection; `name_mapping.csv` states the
grade (HGG, LGG) and the names in TCIA.
"""

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.brats_names import brats_files

_OLD_FOLDER = (
    r"(?:.*/)?(?P<patient>Brats1[78]_[A-Za-z0-9]+_[A-Za-z0-9]+_\d|BraTS19_[A-Za-z0-9]+_[A-Za-z0-9]+_\d|"
    r"BraTS20_(?:Training|Validation)_\d{3}|BraTS2021_\d{5})"
)
_OLD_NAMES = {
    "t1n": r"(?P=patient)_t1",
    "t1c": r"(?P=patient)_t1ce",
    "t2w": r"(?P=patient)_t2",
    "t2f": r"(?P=patient)_flair",
    "tumour": r"(?:(?P=patient)_seg|W39_1998\.09\.19_Segm)",
}

BRATS_GLI_PRE = Release(
    name="brats-gli-pre",
    files={
        ours: (*since_2023, rf"{_OLD_FOLDER}/{_OLD_NAMES[ours]}\.nii(?:\.gz)?")
        for ours, since_2023 in brats_files("GLI", r"0\d{2}").items()
    },
    example="BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz or BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
    state=("stripped",),
    grids=("sri24", "mni152-182"),
    tumour_labels=(1, 2, 3, 4),
    ignored=(r"(?:.*/)?BraTS-GLI-\d{5}-1\d{2}/.*",),
)
