"""Cascading randomisation, rank correlation, and a probe of shuffled labels."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from neurorad.encoder import Architecture, initialised
from neurorad.explanation.sanity import CASCADE, cascade, permuted_probe, rank_correlation


def test_each_step_changes_one_stage_more_and_the_encoder_stays():
    encoder = initialised(Architecture("resnet10", 4, 2, False, "group"), 3)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    changed_so_far: set[str] = set()
    for stage, changed in cascade(encoder, seed=0):
        other = changed.state_dict()
        changed_names = {name for name in before if not torch.equal(before[name], other[name])}
        assert changed_so_far < changed_names, stage
        new = {name.split(".")[1] for name in changed_names - changed_so_far}
        assert new == ({stage} if stage != "stem" else {"conv1"}), "norms start at 1 and 0, trained or not"
        changed_so_far = changed_names
    assert stage == CASCADE[-1]
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_rank_correlation_is_spearmans_inside_the_brain():
    random = np.random.default_rng(0)
    one, other = random.random((6, 5, 4)), random.random((6, 5, 4))
    brain = random.random((6, 5, 4)) > 0.4
    assert rank_correlation(one, other, brain) == pytest.approx(spearmanr(one[brain], other[brain]).statistic)
    assert rank_correlation(one, 3 * one + 1, brain) == pytest.approx(1)
    assert np.isnan(rank_correlation(one, np.zeros_like(one), brain))


def test_the_true_probe_separates_and_the_shuffled_one_does_not():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    features = random.normal(5, 3, (120, 8))
    features[:, 2] += 6 * labels
    true, shuffled = permuted_probe(features, labels, random)
    assert true.shape == shuffled.shape == (8,) and int(true.abs().argmax()) == 2
    logits = [features @ weights.numpy() for weights in (true, shuffled)]
    gap = [logit[labels == 1].mean() - logit[labels == 0].mean() for logit in logits]
    assert gap[0] > 5 * abs(gap[1])
