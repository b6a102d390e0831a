"""Occlusion, deletion and insertion on a score whose answer is known: a weighted sum of the voxels."""

import numpy as np
import pytest
import torch

from neurorad.explanation.faithfulness import BATCH, deletion_and_insertion, occlusion

GRID = (12, 10, 8)


@pytest.fixture
def volume() -> torch.Tensor:
    voxels = torch.rand(4, *GRID, generator=torch.Generator().manual_seed(0)) + 0.5
    voxels[:, :2] = 0
    return voxels


def weighing(weights: torch.Tensor):
    """One score: the weighted sum, and a second one that is its double."""

    def score(volumes: torch.Tensor) -> torch.Tensor:
        assert len(volumes) <= BATCH
        one = (volumes * weights).sum(dim=(1, 2, 3, 4))
        return torch.stack([one, 2 * one], dim=1)

    return score


def test_occlusion_of_a_sum_is_the_mean_of_the_cubes_sums(volume):
    weights = torch.zeros(4, *GRID)
    weights[0, 5, 5, 4] = 2.0
    fall, double = occlusion(weighing(weights), volume, window=4)
    assert np.allclose(double, 2 * fall, atol=1e-4)
    expected, covered = np.zeros(GRID), np.zeros(GRID)
    for x in range(0, 9, 2):
        for y in range(0, 7, 2):
            for z in range(0, 5, 2):
                cube = (slice(x, x + 4), slice(y, y + 4), slice(z, z + 4))
                expected[cube] += float((volume * weights)[(slice(None), *cube)].sum())
                covered[cube] += 1
    assert np.allclose(fall, expected / covered, atol=1e-4)
    # The voxel that counts is hidden by every cube around it, others by some.
    assert fall[5, 5, 4] == pytest.approx(2 * float(volume[0, 5, 5, 4]), abs=1e-4) == fall.max()


def test_cubes_without_brain_are_not_computed(volume):
    calls = []

    def score(volumes: torch.Tensor) -> torch.Tensor:
        calls.append(len(volumes))
        return volumes.sum(dim=(2, 3, 4))[:, :1]

    volume[:, :6] = 0
    occlusion(score, volume, window=4)
    # Starts 4, 6 and 8 along the first axis reach the brain; 4 along the second, 3 along the third.
    assert sum(calls) == 1 + 3 * 4 * 3


def test_deletion_and_insertion_of_a_sum_in_closed_form(volume):
    brain = (volume != 0).any(dim=0)
    score = weighing(torch.ones(4, *GRID))
    order = volume.sum(dim=0).numpy()
    falls, rises = deletion_and_insertion(score, volume, [order, -order], steps=5)
    sums = np.sort(order[brain.numpy()])
    for i, row in enumerate((sums[::-1], sums)):
        taken = np.cumsum([part.sum() for part in np.array_split(row, 5)])[:-1]
        assert falls[i] == pytest.approx(taken.mean() * np.array([1, 2]), rel=1e-4)
        assert rises[i] == pytest.approx(taken.mean() * np.array([1, 2]), rel=1e-4)


def test_the_order_that_knows_the_weights_beats_the_others(volume):
    weights = torch.zeros(4, *GRID)
    weights[:, 3:6, 2:5, 2:5] = 1.0
    truth = weights[0].numpy()
    prior = np.exp(-((np.indices(GRID) - np.array([7, 5, 4]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) / 20)
    random = np.random.default_rng(0).random(GRID)
    falls, rises = deletion_and_insertion(weighing(weights), volume, [truth, prior, random], 10)
    for found in (falls[:, 0], rises[:, 0]):
        assert found[0] > 1.3 * found[1] and found[0] > 1.3 * found[2]
