"""Grad-CAM against a closed form, MONAI's own implementation, and a planted blob."""

import pytest
import torch
from torch import nn

from neurorad.explanation import gradcam as cams
from neurorad.explanation.agreement import mass_in_mask, pointing_hit
from neurorad.explanation.gradcam import gradcam_plus_plus, look


def gradcam(net: nn.Module, layer: nn.Module, weights: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    return cams.gradcam(look(net, layer, weights[None], volume[None]))[0, 0]


class Brightness(nn.Module):
    """Two channels (bright, dark) of the first sequence, averaged over space: its map is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv3d(4, 2, 1, bias=False), nn.ReLU(inplace=True))
        with torch.no_grad():
            self.layer[0].weight.zero_()
            self.layer[0].weight[0, 0] = 1.0
            self.layer[0].weight[1, 0] = -1.0

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.layer(volume).mean(dim=(2, 3, 4))


class Small(nn.Module):
    """A random net with batch norm and dropout: what training mode would change."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.BatchNorm3d(6), nn.ReLU())
        self.layer = nn.Sequential(nn.Conv3d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.drop = nn.Dropout(0.5)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(self.stem(volume))).mean(dim=(2, 3, 4))


@pytest.fixture
def blob() -> tuple[torch.Tensor, torch.Tensor]:
    """A volume `[4, 16, 20, 12]`, dark but for one bright cube, and the mask of the cube."""
    volume = -torch.rand(4, 16, 20, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(16, 20, 12, dtype=torch.bool)
    mask[3:7, 11:16, 4:8] = True
    volume[0, mask] = 5.0
    return volume, mask


def test_planted_blob_gets_all_the_mass(blob):
    volume, mask = blob
    cam = gradcam(net := Brightness(), net.layer, torch.tensor([1.0, -1.0]), volume)
    # Channel weights are +-1 / voxels: the map is relu(bright - dark) / voxels, which is the blob alone.
    expected = (volume[0].clamp(min=0) - (-volume[0]).clamp(min=0)).clamp(min=0) / mask.numel()
    torch.testing.assert_close(cam, expected)
    assert mass_in_mask(cam.numpy(), mask.numpy()) == pytest.approx(1.0)
    assert pointing_hit(cam.numpy(), mask.numpy()) == 1.0


def test_opposite_probe_looks_away(blob):
    volume, mask = blob
    cam = gradcam(net := Brightness(), net.layer, torch.tensor([-1.0, 1.0]), volume)
    assert mass_in_mask(cam.numpy(), mask.numpy()) == 0.0


def test_agrees_with_monai(blob):
    from monai.visualize import GradCAM

    net, weights = Small(1).eval(), torch.randn(8, generator=torch.Generator().manual_seed(2))
    ours = gradcam(net, net.layer, weights, blob[0])
    head = nn.Linear(8, 1)
    head.weight.data, head.bias.data = weights[None], torch.zeros(1)
    whole = nn.Sequential(net, head)
    theirs = GradCAM(whole, "0.layer", postprocessing=lambda x: x)(blob[0][None], class_idx=0)[0, 0]
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-4, atol=1e-7)


def test_evaluation_mode_is_forced_and_the_old_mode_put_back(blob):
    net, weights = Small(1), torch.randn(8)
    expected = gradcam(net.eval(), net.layer, weights, blob[0])
    net.train()
    net.drop.eval()
    running = net.stem[1].running_mean.clone()
    torch.testing.assert_close(gradcam(net, net.layer, weights, blob[0]), expected)
    assert net.training and net.stem.training and not net.drop.training
    assert torch.equal(net.stem[1].running_mean, running)


def test_works_when_weights_are_frozen_and_gradients_are_off(blob):
    net, weights = Small(1).requires_grad_(False), torch.randn(8)
    with torch.no_grad():
        cam = gradcam(net, net.layer, weights, blob[0])
    assert cam.shape == blob[0].shape[1:] and cam.max() > 0 and not cam.requires_grad


def test_randomised_weights_change_the_map(blob):
    """Adebayo 2018: a map that survives random weights explains nothing."""
    weights = torch.ones(8)
    maps = [gradcam(net := Small(seed), net.layer, weights, blob[0]).flatten() for seed in (1, 2)]
    assert torch.corrcoef(torch.stack(maps))[0, 1] < 0.9


def test_layer_outside_the_forward_pass_is_an_error(blob):
    with pytest.raises(ValueError, match="not part"):
        gradcam(Brightness(), nn.Conv3d(4, 2, 1), torch.ones(2), blob[0])


def test_a_layer_without_space_is_an_error(blob):
    net = Small(1)
    net.layer.append(nn.AdaptiveAvgPool3d(1)).append(nn.Flatten())
    net.forward = lambda volume: net.layer(net.stem(volume))
    with pytest.raises(ValueError, match="no spatial map"):
        look(net, net.layer, torch.ones(1, 8), blob[0][None])


def test_counter_evidence_is_the_map_of_the_opposite_probe(blob):
    net, weights = Small(1), torch.randn(8, generator=torch.Generator().manual_seed(2))
    against = cams.gradcam(look(net, net.layer, weights[None], blob[0][None]), against=True)[0, 0]
    torch.testing.assert_close(against, gradcam(net, net.layer, -weights, blob[0]))


def test_plus_plus_agrees_with_monai_but_for_its_scale(blob):
    from monai.visualize import GradCAMpp

    net, weights = Small(1).eval(), torch.randn(8, generator=torch.Generator().manual_seed(2)) * 20
    ours = gradcam_plus_plus(look(net, net.layer, weights[None], blob[0][None]))[0, 0]
    head = nn.Linear(8, 1)
    head.weight.data, head.bias.data = weights[None], torch.zeros(1)
    whole = nn.Sequential(net, head)
    theirs = torch.as_tensor(GradCAMpp(whole, "0.layer", postprocessing=lambda x: x)(blob[0][None], class_idx=0)[0, 0])
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-4, atol=1e-6)
    plain = gradcam(net, net.layer, weights, blob[0])
    assert not torch.allclose(ours / ours.max(), plain / plain.max(), atol=0.05)


def test_a_batch_of_scans_and_scores_gives_the_map_of_each(blob):
    net, weights = Small(1), torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    scans = torch.stack([blob[0], blob[0].flip(1), 2 * blob[0]])
    together = look(net, net.layer, weights, scans)
    of_its_own = look(net, net.layer, torch.stack([weights, 2 * weights, -weights]), scans)
    for i, scan in enumerate(scans):
        for e in range(3):
            alone = gradcam(net, net.layer, weights[e], scan)
            torch.testing.assert_close(cams.gradcam(together)[e, i], alone)
        alone = gradcam(net, net.layer, (1, 2, -1)[i] * weights[0], scan)
        torch.testing.assert_close(cams.gradcam(of_its_own)[0, i], alone)
    assert together.score.shape == (3, 3)
    torch.testing.assert_close(together.score, net.eval()(scans) @ weights.T)


def test_three_maps_of_a_scan_cost_at_most_three_forward_passes(blob):
    """Counted in multiplications, so that a busy machine decides nothing: the backward pass stops at the layer."""
    from torch.utils.flop_counter import FlopCounterMode

    from neurorad.encoder import Architecture, initialised

    encoder = initialised(Architecture("resnet10", 8, 2, False, "group"), 0)
    volume = torch.randn(1, 4, 32, 32, 32)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        encoder.eval()(volume)
    for layer in ("layer2", "layer3", "layer4"):
        with FlopCounterMode(display=False) as mapped:
            seen = look(encoder, getattr(encoder.network, layer), torch.rand(3, encoder.dimension), volume)
            cams.gradcam(seen), gradcam_plus_plus(seen)
        assert forward.get_total_flops() <= mapped.get_total_flops() <= 3 * forward.get_total_flops()
