"""Fitted models as linear layers on the raw embedding: what an explanation looks through."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

EVERYBODY = -1
"""`repeat` and `fold` of the model that was trained on every patient."""


@dataclass(frozen=True)
class Layer:
    """One model: output = clip(x @ weights + intercept, lowest, highest) for raw features x `[n, d]`.

    Of a cross-validation, `fold` of `repeat` is what the model was tested on and never saw; its output is then the
    out-of-fold score, whose mean over repeats stands in the predictions.
    """

    weights: np.ndarray
    intercept: float
    repeat: int = EVERYBODY
    fold: int = EVERYBODY
    lowest: float = -np.inf
    highest: float = np.inf


def layer_table(endpoint: str, site: str, layers: Sequence[Layer], columns: Sequence[str]) -> pd.DataFrame:
    """endpoint site repeat fold intercept lowest highest, and one column a feature (`columns`, `[d]`)."""
    names = ("repeat", "fold", "intercept", "lowest", "highest")
    first = pd.DataFrame(
        [{"endpoint": endpoint, "site": site} | {n: getattr(each, n) for n in names} for each in layers]
    )
    weights = np.stack([each.weights for each in layers])
    return pd.concat([first, pd.DataFrame(weights, columns=list(columns))], axis=1)
