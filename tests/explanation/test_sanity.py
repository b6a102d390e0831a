"""Cascading randomisation and rank correlation."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from neurorad.encoder import Architecture, initialised
from neurorad.explanation.sanity import CASCADE, cascade, standard_ranks


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


def test_the_product_of_standard_ranks_is_spearmans_correlation():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 9, 80).astype(float), random.random(80)
    assert standard_ranks(one) @ standard_ranks(other) == pytest.approx(spearmanr(one, other).statistic)
    assert standard_ranks(one) @ standard_ranks(3 * one + 1) == pytest.approx(1)
    assert np.isnan(standard_ranks(one) @ standard_ranks(np.zeros(80)))
