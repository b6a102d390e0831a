"""The residual network is the one of MONAI: the same names and initial weights to the bit, the same features and gradients."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from neurorad.encoder import LAYERS, Architecture, initialised
from neurorad.resnet import ResNet, Stem


def both(name: str, width: int, stem_stride: int, stem_pool: bool) -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.resnet import ResNet as Reference

    block, depths = LAYERS[name]
    torch.manual_seed(0)
    ours = ResNet(block, depths, width, 4, stem_stride, stem_pool, nn.BatchNorm3d)
    torch.manual_seed(0)
    reference = Reference(
        block,
        list(depths),
        [width * factor for factor in (1, 2, 4, 8)],
        n_input_channels=4,
        conv1_t_stride=stem_stride,
        no_max_pool=not stem_pool,
        bias_downsample=False,
        feed_forward=False,
    )
    return ours, reference


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("stem_stride", "stem_pool"), [(1, True), (2, False)])
def test_weights_features_and_gradients_are_those_of_monai(name, stem_stride, stem_pool):
    ours, reference = both(name, 4, stem_stride, stem_pool)
    expected = reference.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
    # In float64: float32 sums round by their order in memory, which differs.
    x = torch.randn(2, 4, 24, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = [network(x) for network in (ours.double().train(), reference.double().train())]
    pooled = features[0].mean(dim=(2, 3, 4))
    assert pooled.shape == features[1].shape == (2, ours.dimension)
    assert torch.allclose(pooled, features[1], rtol=0, atol=1e-12)
    for output in (pooled, features[1]):
        output.square().sum().backward()
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_the_stem_is_a_plain_convolution():
    """Its memory order changes nothing but the order of sums: 1e-5 of the largest number, in float32."""
    stem = Stem(4, 16, 7, 2, padding=3, bias=False)
    plain = torch.nn.Conv3d(4, 16, 7, 2, padding=3, bias=False)
    plain.load_state_dict(stem.state_dict())
    x = torch.randn(3, 4, 20, 24, 18, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(3, 16, 10, 12, 9, generator=torch.Generator().manual_seed(2))
    found = []
    for layer in (stem, plain):
        seen = x.clone().requires_grad_()
        made = layer(seen)
        assert made.is_contiguous()
        (made * weights).sum().backward()
        found.append((made.detach(), layer.weight.grad, seen.grad))
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert torch.equal(stem.eval()(x), plain(x))


def test_no_tensor_depends_on_the_norm():
    """All encoders of a seed start with the same convolutions, whichever norm follows them."""
    kinds = [initialised(Architecture("resnet10", 4, 1, True, norm), 0).state_dict() for norm in ("batch", "group")]
    convolutions = [key for key, tensor in kinds[0].items() if tensor.ndim == 5]
    assert len(convolutions) == 1 + 4 * 2 + 3
    assert all(torch.equal(kinds[0][key], kinds[1][key]) for key in convolutions)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("neurorad.embedding.embed, neurorad.explanation.explain", ["monai", "torch._inductor", "sklearn", "ants"]),
        # Lightning Fabric brings PyTorch's compiler: a second, once in a job that trains.
        ("neurorad.pretraining.outputs", ["monai", "sklearn", "ants"]),
    ],
)
def test_commands_that_use_an_encoder_do_not_import_all_of_monai(modules, absent):
    code = f"import sys, {modules}; print([m for m in {absent} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
