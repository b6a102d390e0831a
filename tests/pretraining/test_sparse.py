"""The sparse encoder: nothing of hidden blocks comes through, and statistics are those of the visible voxels."""

import pytest
import torch

from neurorad.encoder import Architecture, initialised
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.mae import Mae, MaeSettings, block_masks, grow
from neurorad.pretraining.sparse import group_statistics, resized, sparse_feature_map
from neurorad.pretraining.step import Batch
from neurorad.problems import InputError


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder_of(norm: str = "batch", name: str = "resnet10", pool: bool = False, presence: bool = False):
    return initialised(Architecture(name, 4, 2, pool, norm, presence), 0).train()


def some_blocks(size: int = 2) -> torch.Tensor:
    """`[2, 1, size, size, size]` visible."""
    return ~block_masks([3, 4], 1, size, 0.6, tube=1.0)


@pytest.mark.parametrize(
    ("norm", "name", "pool"),
    [(norm, "resnet10", False) for norm in ("batch", "group", "instance")] + [("group", "resnet50", True)],
)
def test_with_nothing_hidden_it_is_the_encoder(norm, name, pool):
    size = 64 if pool else 32
    volumes, one, two = (
        draw(0, 2, 4, size, size, size),
        encoder_of(norm, name, pool, True),
        encoder_of(norm, name, pool, True),
    )
    everything = torch.ones(2, 1, 2, 2, 2, dtype=torch.bool)
    sparse, dense = sparse_feature_map(one, volumes, everything), two.feature_map(volumes)
    torch.testing.assert_close(sparse, dense, atol=1e-3, rtol=1e-3)
    for (key, mine), theirs in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4, msg=key)
    torch.testing.assert_close(
        sparse_feature_map(one.eval(), volumes, everything), two.eval().feature_map(volumes), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_hidden_voxels_change_nothing_and_hidden_positions_are_zero(norm):
    volumes, visible = draw(0, 2, 4, 32, 32, 32), some_blocks()
    other = torch.where(grow(visible, 16), volumes, 100 * draw(1, 2, 4, 32, 32, 32))
    found = sparse_feature_map(encoder_of(norm), volumes, visible)
    assert torch.equal(found, sparse_feature_map(encoder_of(norm), other, visible))
    assert (found.masked_select(~visible) == 0).all()
    assert (found.masked_select(visible) != 0).any()


def test_hidden_voxels_get_no_gradient_and_visible_ones_do():
    volumes, visible = draw(0, 2, 4, 32, 32, 32).requires_grad_(), some_blocks()
    sparse_feature_map(encoder_of("group"), volumes, visible).sum().backward()
    here = grow(visible, 16).expand_as(volumes)
    assert (volumes.grad[~here] == 0).all()
    assert (volumes.grad[here] != 0).float().mean() > 0.9


def test_group_statistics_are_those_of_the_visible_voxels_listed_one_by_one():
    x, visible = 3 + 2 * draw(0, 2, 6, 4, 4, 4), resized(some_blocks(), 4)
    normed = group_statistics(x, visible, 3, 1e-5)
    for sample in range(2):
        for group in range(3):
            channels = slice(2 * group, 2 * group + 2)
            values = x[sample, channels][:, visible[sample, 0]]
            expected = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(normed[sample, channels][:, visible[sample, 0]], expected, atol=1e-5, rtol=1e-5)


def test_batch_statistics_are_those_of_the_visible_voxels_of_all_samples():
    """The first norm of the network, by its running statistics after one step."""
    encoder, volumes, visible = encoder_of("batch"), draw(0, 2, 4, 32, 32, 32), some_blocks()
    with torch.no_grad():
        stem = encoder.network.conv1(volumes * grow(visible, 16))
        sparse_feature_map(encoder, volumes, visible)
    here = resized(visible, 16)[:, 0]
    for channel in range(4):
        values = stem[:, channel][here]
        norm = encoder.network.bn1
        assert float(norm.running_mean[channel]) == pytest.approx(0.1 * float(values.mean()), abs=1e-5)
        assert float(norm.running_var[channel]) == pytest.approx(0.9 + 0.1 * float(values.var()), abs=1e-5)
        dense = stem[:, channel].var()
        # Statistics over hidden zeros as well would be far off.
        assert abs(float(dense - values.var())) > 0.05 * float(values.var())


def test_masks_follow_the_feature_maps_down_and_up():
    visible = some_blocks(4)
    assert torch.equal(resized(visible, 8)[:, :, ::2, ::2, ::2], visible)
    for x in range(2):
        part = visible[:, :, 2 * x : 2 * x + 2, :2, :2].flatten(1).any(dim=1)
        assert torch.equal(resized(visible, 2)[:, 0, x, 0, 0], part)


def sparse_settings(**changes) -> MaeSettings:
    values = {"crop": Crop(32, (0.5, 1.0)), "masking": "sparse", "block": 16, "masked": 0.6, "tube": 1.0}
    return MaeSettings(**{**values, "decoder_width": 4, **changes})


def test_a_sparse_step_teaches_encoder_token_and_decoder():
    torch.manual_seed(0)
    method = Mae(encoder_of("group"), sparse_settings()).train()
    volumes = draw(0, 2, 4, 32, 32, 32)
    result = method.step(Batch([volumes], torch.arange(2), [3, 4], 0, torch.zeros(2)))
    assert result.loss.shape == (2,)
    assert result.features.shape == (2, 32)
    result.loss.mean().backward()
    assert method.hidden_token.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in method.parameters())
    hidden = grow(block_masks([3, 4], 1, 2, 0.6, tube=1.0), 16).expand_as(volumes)
    assert float(result.diagnostics["hidden"]) == pytest.approx(float(hidden.float().mean()))


def test_what_sparse_cannot_do_is_refused():
    with pytest.raises(InputError, match=r"needs mae\.tube 1"):
        sparse_settings(tube=0.5)
    with pytest.raises(InputError, match="no multiple of the encoder's stride 16"):
        Mae(encoder_of(), sparse_settings(block=8))
    with pytest.raises(InputError, match="over several GPUs"):
        Mae(encoder_of("sync"), sparse_settings())
    with pytest.raises(InputError, match="hides none or all"):
        sparse_settings(block=32)
    with pytest.raises(InputError, match="masking is 'half'"):
        sparse_settings(masking="half")
