"""Is each image what its name says? Fluid, grey and white matter compared where the atlas says that they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from neurorad.imaging.registration import resample
from neurorad.imaging.scan import Image, ScanError

T2_MARGIN, FLAIR_MARGIN, INJECTION_MARGIN = 0.05, 0.05, 0.10
"""How far an order must be turned round before a scan is refused. In six BraTS 2021 patients and one of TCGA with skull
the right order led by at least 0.16 (fluid in T2 against the others), 0.09 (grey matter in T1 against FLAIR) and 0.06
(fluid after an injection against before: the plexus shines)."""


@dataclass(frozen=True)
class Landmarks:
    """Boolean masks on the grid of `template`, a T1-weighted brain without skull: ventricles, cortex and deep white
    matter."""

    template: Image
    fluid: np.ndarray
    grey: np.ndarray
    white: np.ndarray

    @classmethod
    def of(cls, template: Image) -> "Landmarks":
        """Found by intensity and depth below the surface: ventricles dark and 25 mm deep, white matter bright and 12 mm
        deep, cortex between the two and 2 to 15 mm deep."""
        brain = template.voxels > 0
        depth = distance_transform_edt(brain, sampling=template.spacing)
        middle, bright = np.median(template.voxels[brain]), np.percentile(template.voxels[brain], 80)
        dark = template.voxels < 0.6 * middle
        grey = brain & ~dark & (template.voxels < 0.95 * middle) & (depth > 2) & (depth < 15)
        return cls(template, brain & dark & (depth > 25), grey, brain & (depth > 12) & (template.voxels > bright))


def darkness(voxels: np.ndarray, tissue: np.ndarray, white: np.ndarray) -> float:
    """Chance that a voxel of `tissue` is darker than one of white matter (the area under the ROC curve), 0 to 1."""
    order = np.sort(voxels[white])
    below, upto = (np.searchsorted(order, voxels[tissue], side) for side in ("left", "right"))
    return float(1 - (below + upto).mean() / 2 / len(order))


def contrasts(
    images: Mapping[str, Image], transforms: Mapping[str, np.ndarray], landmarks: Landmarks
) -> dict[str, float]:
    """`darkness` of fluid and of grey matter in each image, as `t1n_fluid`, `t1n_grey`, ...

    Args:
        transforms: [4, 4] from RAS mm of the landmarks' template to RAS mm of each image.
    """
    found = {}
    for name, image in images.items():
        voxels = resample(image, landmarks.template, transforms[name]).voxels
        found[f"{name}_fluid"] = darkness(voxels, landmarks.fluid, landmarks.white)
        found[f"{name}_grey"] = darkness(voxels, landmarks.grey, landmarks.white)
    return found


def check_contrasts(found: Mapping[str, float]) -> None:
    """Compare the images of one scan with each other: no threshold depends on a scanner's scale.

    Fluid is darker than white matter in T1 and FLAIR and brighter in T2; grey matter is darker in T1, and in FLAIR
    hardly; an injection brightens the plexus in the ventricles.

    Raises:
        ScanError: two images are the wrong way round.
    """
    others = [name for name in ("t1n", "t1c", "t2f") if f"{name}_fluid" in found]
    if "t2w_fluid" in found and others:
        darkest = min(others, key=lambda name: found[f"{name}_fluid"])
        if found["t2w_fluid"] > found[f"{darkest}_fluid"] + T2_MARGIN:
            raise ScanError(
                f"t2w and {darkest} may be swapped: fluid is darker than white matter with a chance of "
                f"{found['t2w_fluid']:.2f} in t2w and {found[f'{darkest}_fluid']:.2f} in {darkest}"
            )
    if {"t1n_grey", "t2f_grey"} <= set(found) and found["t1n_grey"] < found["t2f_grey"] - FLAIR_MARGIN:
        raise ScanError(
            f"t1n and t2f may be swapped: grey matter is darker than white with a chance of {found['t1n_grey']:.2f} in "
            f"t1n and {found['t2f_grey']:.2f} in t2f"
        )
    if {"t1n_fluid", "t1c_fluid"} <= set(found) and found["t1c_fluid"] > found["t1n_fluid"] + INJECTION_MARGIN:
        raise ScanError(
            f"t1n and t1c may be swapped: the ventricles are darker in t1c ({found['t1c_fluid']:.2f}) than in t1n "
            f"({found['t1n_fluid']:.2f})"
        )
