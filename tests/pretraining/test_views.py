"""Views: what is random, what stays, and where a voxel goes."""

import pytest
import torch

from neurorad.pretraining.views import (
    Crop,
    Geometry,
    Intensity,
    gaussian_blur,
    keep_sequences,
    make_views,
    rotations,
    sampling_grid,
)
from neurorad.problems import InputError

STILL = Geometry(flip=0.0, rotation=0.0, stretch=0.0)
MOVING = Geometry(flip=0.5, rotation=10.0, stretch=0.1)
STRONG = Intensity(
    probability=1.0, gamma=1.5, brightness=0.1, contrast=1.3, bias=0.2, blur=1.0, noise=0.2, sequence_dropout=0.0
)
WHOLE = Crop(24, (1.0, 1.0))
PART = Crop(16, (0.5, 0.8))


@pytest.fixture
def volumes() -> torch.Tensor:
    """`[3, 4, 24, 24, 24]`: a ball of random values in a background of 0."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 24)
    ball = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) < 0.8
    return (torch.randn(3, 4, 24, 24, 24, generator=generator) * ball).half()


def test_without_randomness_the_view_is_the_volume(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], STILL, None)
    torch.testing.assert_close(view, volumes.float(), atol=1e-4, rtol=1e-4)


def test_a_certain_flip_mirrors_left_and_right_only(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], Geometry(flip=1.1, rotation=0.0, stretch=0.0), None)
    torch.testing.assert_close(view, volumes.float().flip(2), atol=1e-4, rtol=1e-4)


def test_two_views_differ_and_a_seed_repeats_them(volumes):
    first = make_views(volumes, [1, 2, 3], [PART, PART], MOVING, STRONG)
    again = make_views(volumes, [1, 2, 3], [PART, PART], MOVING, STRONG)
    other = make_views(volumes, [4, 5, 6], [PART, PART], MOVING, STRONG)
    assert first[0].shape == (3, 4, 16, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for sample in range(3):
        assert (first[0][sample] - first[1][sample]).abs().mean() > 0.1
        assert (first[0][sample] - other[0][sample]).abs().mean() > 0.1


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(volumes):
    (together,) = make_views(volumes, [1, 2, 3], [PART], MOVING, STRONG)
    (alone,) = make_views(volumes[1:2], [2], [PART], MOVING, STRONG)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


def test_background_stays_exactly_zero(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], STILL, STRONG)
    outside = (volumes == 0).all(dim=1, keepdim=True).expand_as(view)
    assert outside.float().mean() > 0.2
    assert (view[outside] == 0).all()
    assert torch.isfinite(view).all()
    assert (view[~outside] - volumes.float()[~outside]).abs().mean() > 0.1


def test_an_absent_sequence_stays_absent(volumes):
    volumes[:, 2] = 0
    (view,) = make_views(volumes, [1, 2, 3], [PART], MOVING, STRONG)
    assert (view[:, 2] == 0).all()
    assert (view[:, 0] != 0).any()


def test_an_empty_volume_gives_an_empty_finite_view():
    (view,) = make_views(torch.zeros(2, 4, 24, 24, 24), [1, 2], [PART], MOVING, STRONG)
    assert (view == 0).all()


def test_crops_show_brain_that_lies_in_a_corner():
    volumes = torch.zeros(8, 4, 32, 48, 32)
    volumes[:, :, 2:10, 36:46, 3:11] = 1.0
    (view,) = make_views(volumes, list(range(8)), [Crop(16, (0.25, 0.4))], MOVING, None)
    assert ((view != 0).flatten(1).float().mean(dim=1) > 0.05).all()


def test_the_crop_is_a_cube_of_the_asked_size_inside_the_volume():
    """Positions of the grid, back in voxels: the edge is scale times the shortest axis, nothing lies outside."""
    brain = torch.ones(5, 1, 32, 48, 40)
    grid = sampling_grid(brain, list(range(5)), Crop(16, (0.5, 0.5)), STILL)
    voxels = (grid.flip(-1) + 1) / 2 * torch.tensor([32.0, 48.0, 40.0])
    low, high = voxels.amin(dim=(1, 2, 3)), voxels.amax(dim=(1, 2, 3))
    torch.testing.assert_close(high - low, torch.full((5, 3), 16.0 * 15 / 16), atol=1e-3, rtol=0)
    assert (grid.abs() <= 1).all()


def test_rotations_are_rotations():
    matrices = rotations(torch.tensor([[0.3, -0.2, 0.5], [0.0, 0.0, torch.pi / 2]]))
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(2))
    torch.testing.assert_close(matrices[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_blur_keeps_constants_and_spreads_a_point_like_a_gaussian():
    constant = torch.ones(1, 1, 15, 15, 15)
    torch.testing.assert_close(gaussian_blur(constant, torch.full((1, 1, 1, 1, 1), 1.5)), constant)
    # Far from the edges: beside one, the kernel is normalised over fewer voxels, so that constants stay constant.
    point = torch.zeros(1, 2, 25, 25, 25)
    point[..., 11, 12, 13] = 1
    blurred = gaussian_blur(point, torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1))
    torch.testing.assert_close(blurred[:, 0], point[:, 0])
    ratio = blurred[0, 1, 11, 13, 15] / blurred[0, 1, 11, 12, 13]
    assert float(ratio) == pytest.approx(float(torch.exp(torch.tensor(-0.5 * (1 + 4)))), rel=1e-4)


def test_dropout_of_sequences_has_its_rate_and_never_takes_all():
    kept = keep_sequences(range(2000), 4, 0.2, torch.device("cpu"))[:, :, 0, 0, 0].float()
    assert float(kept.mean()) == pytest.approx(0.8, abs=0.02)
    assert (keep_sequences(range(200), 4, 1.0, torch.device("cpu")).sum(dim=1) == 1).all()


def test_impossible_crops_are_refused():
    with pytest.raises(InputError, match="crop size"):
        Crop(32, (0.5, 1.5))
