"""Maps that do not change when the model does explain nothing (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import rankdata

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


def rank_correlation(one: np.ndarray, other: np.ndarray, brain: np.ndarray) -> float:
    """Spearman's correlation of two maps inside the brain; NaN if one of them is constant there."""
    ranks = [rankdata(values[brain]) for values in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def permuted_probe(embeddings: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Weights `[d]` of the same simple probe on the true labels and on shuffled ones: the maps must differ.

    A class-weighted logistic regression on standardised features (C = 0.01), folded into one linear layer.

    Args:
        embeddings: `[n, d]`. labels: `[n]` 0/1, both present.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(embeddings)
    standardised = scaler.transform(embeddings)
    found = []
    for target in (labels, random.permutation(labels)):
        probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000).fit(standardised, target)
        found.append(torch.from_numpy((probe.coef_[0] / scaler.scale_).astype(np.float32)))
    return tuple(found)
