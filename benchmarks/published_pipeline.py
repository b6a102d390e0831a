"""The data pipeline of the code published with the paper, for `pretraining.py` to be measured against."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from neurorad import volumes


def published_pipeline(folder: Path) -> Callable[[], object]:
    """What the code published with the paper does for each view of a scan, in MONAI's transforms: read four NIfTI of
    240 x 240 x 155 at 1 mm, orient, resample to 2 mm, normalise each, pad or crop to 128^3."""
    import nibabel as nib
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ResizeWithPadOrCropd,
        Spacingd,
    )

    folder.mkdir()
    random, keys = np.random.default_rng(0), list(volumes.SEQUENCES)
    for key in keys:
        voxels = np.zeros((240, 240, 155), np.int16)
        voxels[40:200, 20:220, 5:150] = random.integers(100, 1000, (160, 200, 145))
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"{key}.nii.gz")
    transforms = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, "RAS", labels=None),
            Spacingd(keys, (2.0, 2.0, 2.0)),
            NormalizeIntensityd(keys, nonzero=True),
            ResizeWithPadOrCropd(keys, (128, 128, 128)),
            ConcatItemsd(keys, "image"),
        ]
    )
    paths = {key: str(folder / f"{key}.nii.gz") for key in keys}
    return lambda: transforms(dict(paths))
