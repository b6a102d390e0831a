"""Encoders: every depth and norm, presence flags, and cards of older versions."""

import pytest
import torch
from torch import nn

from neurorad.encoder import (
    CARD,
    LAYERS,
    WEIGHTS,
    Architecture,
    Encoder,
    architecture_of,
    group_norm,
    initialised,
    load_encoder,
    save_weights,
)
from neurorad.files import write_json
from neurorad.problems import InputError


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LAYERS)
def test_every_depth_gives_one_vector_a_scan(name):
    encoder = initialised(Architecture(name, 4, 2, False, "group"), 0).eval()
    assert encoder(draw(2, 4, 16, 16, 16)).shape == (2, encoder.dimension)
    assert encoder.dimension == (128 if name == "resnet50" else 32)
    assert encoder.feature_map(draw(1, 4, 32, 32, 32)).shape[2:] == (2, 2, 2)


def test_group_norm_keeps_the_type_of_autocast_and_sums_in_float32():
    """Values far from 0, whose sums bfloat16 could not hold: mean 0 and deviation 1 come out all the same."""
    norm, x = group_norm(32), 200 + draw(2, 32, 16, 16, 16)
    assert norm(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x)
    assert low.dtype == torch.bfloat16
    expected = nn.functional.group_norm(x.bfloat16().float(), 8, eps=norm.eps)
    torch.testing.assert_close(low.float(), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("batch", nn.BatchNorm3d),
        ("sync", nn.SyncBatchNorm),
        ("group", nn.GroupNorm),
        ("instance", nn.InstanceNorm3d),
    ],
)
def test_all_norms_are_of_the_asked_kind(norm, kind):
    encoder = initialised(Architecture("resnet18", 4, 2, False, norm), 0).train()
    norms = [m for m in encoder.modules() if isinstance(m, nn.GroupNorm | nn.modules.batchnorm._NormBase)]
    assert len(norms) == 20
    assert all(isinstance(m, kind) for m in norms)
    assert torch.isfinite(encoder(draw(3, 4, 32, 32, 32))).all()


def test_batch_norm_of_a_single_sample_with_one_voxel_says_so():
    """Refused by presets (batch_size at least 2); PyTorch refuses the rest."""
    with pytest.raises(ValueError, match="more than 1 value"):
        initialised(Architecture("resnet10", 4, 2, False, "batch"), 0).train()(draw(1, 4, 16, 16, 16))


def test_sync_and_batch_norm_are_the_same_on_one_device():
    batch, sync = (initialised(Architecture("resnet10", 4, 2, False, norm), 0).train() for norm in ("batch", "sync"))
    torch.testing.assert_close(batch(draw(3, 4, 16, 16, 16)), sync(draw(3, 4, 16, 16, 16)))
    assert set(batch.state_dict()) == set(sync.state_dict())


def test_presence_flags_tell_an_absent_sequence_from_one_that_is_there():
    encoder = Encoder(Architecture("resnet10", 4, 2, False, "group", presence=True))
    volumes = draw(2, 4, 16, 16, 16)
    volumes[1, 2] = 0
    flagged = encoder.with_presence(volumes)
    assert flagged.shape == (2, 8, 16, 16, 16)
    assert torch.equal(flagged[:, :4], volumes)
    assert flagged[:, 4:].flatten(2).unique(dim=2)[..., 0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert encoder.network.conv1.in_channels == 8
    with torch.no_grad():
        encoder.network.conv1.weight[:, 6] += 1
        shifted = encoder(volumes)
        encoder.network.conv1.weight[:, 6] -= 1
        plain = encoder(volumes)
    assert not torch.allclose(shifted[0], plain[0])
    torch.testing.assert_close(shifted[1], plain[1])


def test_without_flags_nothing_is_added():
    encoder = Encoder(Architecture("resnet10", 4, 2, False, "group"))
    volumes = draw(1, 4, 16, 16, 16)
    assert encoder.with_presence(volumes) is volumes


def test_a_card_from_before_the_flags_is_read_and_an_unknown_key_is_not():
    old = {"name": "resnet10", "width": 4, "stem_stride": 2, "stem_pool": False, "norm": "group"}
    assert architecture_of({"architecture": old}) == Architecture(**old, presence=False)
    for wrong in ({**old, "depth": 3}, {"name": "resnet10"}):
        with pytest.raises(InputError, match="this version needs"):
            architecture_of({"architecture": wrong})


def test_one_flipped_bit_of_the_weights_is_refused(tmp_path):
    architecture = Architecture("resnet10", 4, 2, False, "group", presence=False)
    encoder = initialised(architecture, 0)
    save_weights(tmp_path, encoder)
    write_json(tmp_path / CARD, {"architecture": vars(architecture), "preprocessing": {}})
    loaded, _ = load_encoder(tmp_path)
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    weights = bytearray((tmp_path / WEIGHTS).read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / WEIGHTS).write_bytes(weights)
    with pytest.raises(InputError, match="damaged weights .* make the encoder again"):
        load_encoder(tmp_path)
