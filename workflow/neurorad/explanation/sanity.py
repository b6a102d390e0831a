"""Maps that do not change when the model does explain nothing (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from neurorad.encoder import Encoder, initialised
from neurorad.seeds import seed_of

CASCADE = ("layer4", "layer3", "layer2", "layer1", "stem")
"""From the output to the input: each step randomises one stage more."""


def cascade(encoder: Encoder, seed: int) -> Iterator[tuple[str, Encoder]]:
    """The encoder with its last stage untrained, then its last two, ... and at the end all of it."""
    fresh = initialised(encoder.architecture, seed_of(seed, "sanity")).state_dict()
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for stage in CASCADE:
        mine = [name for name in weights if (f".{stage}." in f".{name}") or (stage == "stem" and ".layer" not in name)]
        weights |= {name: fresh[name] for name in mine}
        changed = initialised(encoder.architecture, 0)
        changed.load_state_dict(weights)
        yield stage, changed.eval()


def standard_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks `[n]` of values `[n]` (equal ones share the mean rank), centred and of length 1; NaN if all are equal.

    The scalar product of two of them is Spearman's correlation.
    """
    ranks = pd.Series(values).rank().to_numpy()
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / (length if length > 0 else np.nan)
