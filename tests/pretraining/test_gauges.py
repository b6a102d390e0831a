"""Gauges of collapse on features whose collapse is known."""

import math

import pytest
import torch

from neurorad.pretraining.gauges import effective_rank, feature_spread, group_ranks


def test_constant_features_are_a_point():
    features = torch.full((16, 8), 3.0)
    assert feature_spread(features) == pytest.approx(0, abs=1e-9)
    assert effective_rank(features) == 1.0


def test_features_on_a_line_have_rank_one_whatever_the_offset():
    line = torch.linspace(-1, 1, 16)[:, None] * torch.arange(1.0, 9.0) + 100
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)


def test_isotropic_features_fill_the_space():
    features = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert effective_rank(features) == pytest.approx(8, abs=0.05)
    assert feature_spread(features) == pytest.approx(1, abs=0.02)


def test_orthogonal_axes_have_the_rank_of_their_number():
    features = torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(torch.nn.functional.pad(features, (0, 5))) == pytest.approx(3)


def test_a_group_on_a_line_is_told_from_the_others_and_two_samples_say_nothing():
    features = torch.randn(14, 8, generator=torch.Generator().manual_seed(0))
    features[:6] = torch.linspace(0, 1, 6)[:, None] * features[0] + 1
    line, cloud, pair, absent = group_ranks(features, torch.tensor([0] * 6 + [1] * 6 + [2] * 2), 4)
    assert line == pytest.approx(1, abs=1e-4)
    assert 3.5 < cloud <= 5
    assert math.isnan(pair)
    assert math.isnan(absent)
