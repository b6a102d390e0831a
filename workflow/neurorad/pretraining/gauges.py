"""Gauges of collapse: how much of the feature space a batch of features uses."""

import torch
from torch import Tensor


def feature_spread(features: Tensor) -> float:
    """`[B, d] ->` standard deviation of L2-normalised features, averaged over d, times sqrt(d).

    0 = all features point the same way, 1 = spread evenly over the sphere (Chen & He 2021, arXiv 2011.10566, fig. 2).
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """`[B, d] ->` exp of the entropy of the normalised singular values of the centred features (Roy & Vetterli 2007).

    1 = one direction or constant, at most min(B - 1, d). Centred, because the common offset of features after a ReLU
    would hide everything else.
    """
    features = features.double()
    centred = features - features.mean(dim=0)
    if centred.norm() <= 1e-6 * features.norm():
        return 1.0
    singular = torch.linalg.svdvals(centred)
    share = singular / singular.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def group_spreads(features: Tensor, groups: Tensor, count: int) -> list[float]:
    """`[B, d], [B] ->` of each of `count` groups the spread within it, on the scale of `feature_spread`.

    The standard deviation counts B_g - 1 degrees of freedom, since a batch holds few samples of a group; NaN below 2.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    members = (unit[groups == group] for group in range(count))
    return [
        float(own.var(dim=0).mean().sqrt() * unit.shape[1] ** 0.5) if len(own) > 1 else torch.nan for own in members
    ]


def group_ranks(features: Tensor, groups: Tensor, count: int) -> list[float]:
    """`[B, d], [B] ->` of each of `count` groups the `effective_rank` of its own samples, at most their number minus 1;
    NaN below 3, of which it is always 1."""
    members = (features[groups == group] for group in range(count))
    return [effective_rank(own) if len(own) > 2 else torch.nan for own in members]
