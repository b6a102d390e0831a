"""What images add to age and sex: nested models on the same patients and folds."""

import numpy as np

from neurorad.evaluation.classifier import Classifier
from neurorad.evaluation.linear import balanced_weights, logistic, project

STRENGTH = np.array([10.0])
"""C of the models with age and sex: hardly any penalty, as they have 2 or 3 features."""
FEWEST = 2


def nested_logits(
    clinical: np.ndarray, y: np.ndarray, image: Classifier, new_clinical: np.ndarray, new_image: np.ndarray
) -> np.ndarray:
    """Logits `[2, m]` of new patients by age + sex alone, and by age + sex + the image's logit.

    The image enters the second model as the logit that inner folds gave each training patient, so that its weight is
    learned from logits of unseen patients. NaN for patients whose age or sex is unknown; everywhere if fewer than
    `FEWEST` training patients of a class are known.

    Args:
        clinical: `[n, 2]` age and sex of the training patients (NaN unknown), y: `[n]`; `image` was trained on them.
        new_clinical: `[m, 2]`. new_image: `[m]` logits of `image`.
    """
    known, asked = (np.isfinite(values).all(axis=1) for values in (clinical, new_clinical))
    found = np.full((2, len(new_clinical)), np.nan)
    labels = y[known]
    if min(labels.sum(), (1 - labels).sum()) < FEWEST:
        return found
    for row, with_image in enumerate((False, True)):
        seen, new = clinical[known], new_clinical[asked]
        if with_image:
            seen = np.column_stack([seen, image.inner[known]])
            new = np.column_stack([new, new_image[asked]])
        projection = project(seen)
        coefficients, intercepts = logistic(projection(seen), labels, balanced_weights(labels), STRENGTH)
        found[row, asked] = projection(new) @ coefficients[0] + intercepts[0]
    return found
