"""Conformal prediction by class (Mondrian): sets that hold the true class at least 1 - alpha of the time, in each class."""

import numpy as np


def class_p_values(calibration: np.ndarray, y: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """p-value of each class for new patients (Vovk, Gammerman and Shafer 2005, Mondrian by label).

    p_c = (1 + #{calibration patients of class c at least as strange}) / (1 + n_c), strange being a logit that points away
    from the class. A class with p > alpha belongs to the prediction set of level 1 - alpha. The guarantee needs new
    patients exchangeable with the calibration patients, which those of another site are not.

    Args:
        calibration: `[n]` logits of patients that the models giving them had not seen. y: `[n]` their classes, 0/1.
        logit: `[m]` of the new patients.

    Returns:
        `[2, m]`: p of class 0, p of class 1.
    """
    found = []
    for label, sign in ((0, 1.0), (1, -1.0)):
        strange = np.sort(sign * calibration[y == label])
        as_strange = len(strange) - np.searchsorted(strange, sign * logit, side="left")
        found.append((1 + as_strange) / (1 + len(strange)))
    return np.stack(found)
