"""Schedules and momentum networks."""

import pytest
import torch
from torch import nn

from neurorad.pretraining.step import cosine, follow, head, learning_rate, momentum_copy


def test_cosine_runs_from_start_to_end_by_step():
    assert cosine(0, 101, 0.99, 1.0) == pytest.approx(0.99)
    assert cosine(50, 101, 0.99, 1.0) == pytest.approx(0.995)
    assert cosine(100, 101, 0.99, 1.0) == pytest.approx(1.0)
    assert cosine(0, 1, 0.99, 1.0) == pytest.approx(0.99)


def test_learning_rate_warms_up_linearly_and_falls_to_zero():
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert learning_rate(0, 5, 0, 2.0) == 2.0
    assert [learning_rate(step, 100, 2, 2.0, "constant") for step in (0, 1, 2, 99)] == [1.0, 2.0, 2.0, 2.0]


def test_a_momentum_network_averages_weights_and_copies_norm_statistics():
    online = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    target = momentum_copy(online)
    before = target[0].weight.clone()
    with torch.no_grad():
        online[0].weight += 1
    online(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    follow(target, online, 0.9)
    torch.testing.assert_close(target[0].weight, before + 0.1)
    torch.testing.assert_close(target[1].running_mean, online[1].running_mean)
    assert target[1].num_batches_tracked == 1
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_small_batches_get_no_batch_norm():
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in head([8, 16, 4], 16))
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in head([8, 16, 4], 15))


def test_a_head_for_small_batches_normalises_more_than_one_number():
    """A group of one channel would turn rounding errors into signal: x - mean(x) = 0, divided by almost nothing."""
    norms = [layer for layer in head([8, 16, 4], 15) if isinstance(layer, nn.GroupNorm)]
    assert all(norm.num_channels // norm.num_groups >= 4 for norm in norms)
