"""MedicalNet, BrainIAC and BiomedCLIP: files of their layout, made here, come out as the same networks."""

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet50
from monai.transforms import NormalizeIntensity
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import normalize

from neurorad.embedding import published
from neurorad.embedding.biomedclip import RGB, SliceEncoder, biomedclip, pictures, slice_places
from neurorad.embedding.published import brainiac, medicalnet
from neurorad.problems import InputError

from .conftest import brain, volume


@pytest.fixture(scope="module")
def donor() -> nn.Module:
    """MONAI's ResNet-50 of one channel with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = resnet50(n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def scan() -> torch.Tensor:
    return torch.from_numpy(volume(3, (32, 32, 32)))[None]


@pytest.mark.slow
def test_medicalnet_is_the_authors_network_over_each_sequence(tmp_path, donor, scan):
    """Written again from their code's definition: layers 3 and 4 keep the grid of layer 2 and are dilated by 2 and 4."""
    tensors = {f"module.{name}": value for name, value in donor.state_dict().items()}
    tensors |= {"module.conv_seg.0.weight": torch.ones(2), "module.conv_seg.0.bias": torch.ones(2)}
    torch.save({"state_dict": tensors}, tmp_path / "resnet_50.pth")
    joined = medicalnet(tmp_path / "resnet_50.pth", None)
    averaged = medicalnet(tmp_path / "resnet_50.pth", None, "mean")

    def block(x, prefix, stride, dilation):
        def norm(x, name):
            got = [
                donor.state_dict()[f"{prefix}.{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
            ]
            return functional.batch_norm(x, *got, eps=1e-5)

        weights = donor.state_dict()
        out = norm(functional.conv3d(x, weights[f"{prefix}.conv1.weight"]), "bn1").relu()
        middle = weights[f"{prefix}.conv2.weight"]
        out = norm(functional.conv3d(out, middle, stride=stride, padding=dilation, dilation=dilation), "bn2").relu()
        out = norm(functional.conv3d(out, weights[f"{prefix}.conv3.weight"]), "bn3")
        if f"{prefix}.downsample.0.weight" in weights:
            shortcut = functional.conv3d(x, weights[f"{prefix}.downsample.0.weight"], stride=stride)
            x = norm(shortcut, "downsample.1")
        return (out + x).relu()

    with torch.no_grad():
        vectors = []
        for i in range(4):
            x = donor.maxpool(donor.bn1(donor.conv1(scan[:, i : i + 1])).relu())
            for layer, depth, stride, dilation in ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4)):
                for place in range(depth):
                    x = block(x, f"layer{layer}.{place}", stride if place == 0 else 1, dilation)
            assert x.shape[2:] == (4, 4, 4)
            vectors.append(x.mean(dim=(2, 3, 4)))
        torch.testing.assert_close(joined(scan), torch.cat(vectors, dim=1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(averaged(scan), torch.stack(vectors).mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_brainiac_is_its_backbone_on_a_cube_z_scored_where_not_zero(tmp_path, donor, scan, monkeypatch):
    """Its own cube has 96 voxels a side; a smaller one tests the same."""
    assert published.EDGE == 96
    monkeypatch.setattr(published, "EDGE", 24)
    tensors = {f"backbone.{name}": value for name, value in donor.state_dict().items()}
    torch.save({"state_dict": tensors}, tmp_path / "brainiac.ckpt")
    network = brainiac(tmp_path / "brainiac.ckpt", None, "mean")
    with torch.no_grad():
        sized = functional.interpolate(scan, size=(24, 24, 24), mode="trilinear", align_corners=False)
        expected = NormalizeIntensity(nonzero=True, channel_wise=True)(sized[0])
        torch.testing.assert_close(
            network.prepared(scan[:, :1])[0, 0], torch.as_tensor(expected[0]), atol=1e-3, rtol=1e-3
        )
        vectors = [donor(torch.as_tensor(expected[i])[None, None]) for i in range(4)]
        torch.testing.assert_close(network(scan), torch.stack(vectors).mean(0), atol=1e-3, rtol=1e-3)


def test_shortcuts_have_a_bias_where_the_file_has_one():
    for names, biased in (({}, False), ({"layer1.0.downsample.0.bias": torch.zeros(256)}, True)):
        network = published.resnet50_of(names)
        assert (network.layer1[0].downsample[0].bias is not None) == biased


def test_sequences_are_joined_side_by_side_or_by_their_mean_and_an_absent_one_is_finite():
    def network(sequence):
        return torch.stack([sequence.mean(dim=(1, 2, 3, 4)), sequence.amax(dim=(1, 2, 3, 4))], dim=1)

    volumes = torch.randn(2, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    volumes[1, 3] = 0
    joined = published.EachSequence(network, "concatenate")(volumes)
    each = torch.stack([network(volumes[:, i : i + 1]) for i in range(4)])
    torch.testing.assert_close(joined, each.transpose(0, 1).reshape(2, 8))
    torch.testing.assert_close(published.EachSequence(network, "mean")(volumes), each.mean(0))
    sized = published.EachSequence(network, "mean", 8).prepared(volumes[:, 3:])
    assert sized.shape == (2, 1, 8, 8, 8) and (sized[1] == 0).all()
    normalised = NormalizeIntensity(nonzero=True, channel_wise=True)(
        functional.interpolate(volumes[:1, :1], size=(8, 8, 8), mode="trilinear", align_corners=False)[0]
    )
    found = published.EachSequence(network, "mean", 8).prepared(volumes[:1, :1])[0]
    torch.testing.assert_close(found, torch.as_tensor(normalised), atol=1e-5, rtol=1e-5)


def test_the_file_of_another_network_is_refused(tmp_path):
    torch.save({"backbone.patch_embedding.weight": torch.ones(2, 2)}, tmp_path / "vit.ckpt")
    with pytest.raises(InputError, match="do not fit the network: lacks .*; has unknown patch_embedding.weight"):
        brainiac(tmp_path / "vit.ckpt", None)
    with pytest.raises(InputError, match="do not fit the network"):
        medicalnet(tmp_path / "vit.ckpt", None)
    with pytest.raises(InputError, match=r"lacks visual\.trunk\.patch_embed\.proj\.weight"):
        biomedclip(tmp_path / "vit.ckpt", None)


def clip_file(path, width: int = 64, side: int = 32, depth: int = 2, out: int = 24):
    """A small file in open_clip's layout of BiomedCLIP, text tower and all, and the tower it was made from."""
    torch.manual_seed(1)
    trunk = VisionTransformer(
        img_size=side, patch_size=16, embed_dim=width, depth=depth, num_heads=width // 64, num_classes=0
    ).eval()
    head = nn.Linear(width, out, bias=False)
    tensors = {f"visual.trunk.{name}": value for name, value in trunk.state_dict().items()}
    tensors |= {"visual.head.proj.weight": head.weight.detach(), "text.transformer.x": torch.ones(3)}
    torch.save({**tensors, "logit_scale": torch.tensor(4.6)}, path)
    return nn.Sequential(trunk, head)


def test_biomedclip_is_its_tower_over_slices_mean_and_maximum(tmp_path):
    tower = clip_file(tmp_path / "clip.bin")
    encoder = biomedclip(tmp_path / "clip.bin", None, slices=3)
    scan = torch.from_numpy(volume(0))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        found = encoder(scan[None])
        seen = torch.stack([tower(normalize(picture, mean, std)[None])[0] for picture in pictures(scan, 3, 32)])
    assert found.shape == (1, 48)
    torch.testing.assert_close(found[0], torch.cat([seen.mean(0), seen.max(0).values]), atol=1e-5, rtol=1e-5)


def test_width_heads_and_pictures_of_the_released_size_follow_from_the_file(tmp_path):
    clip_file(tmp_path / "clip.bin", width=768, side=224, depth=1, out=512)
    encoder = biomedclip(tmp_path / "clip.bin", None)
    trunk = encoder.tower[0]
    assert (trunk.embed_dim, len(trunk.blocks), trunk.blocks[0].attn.num_heads) == (768, 1, 12)
    assert trunk.pos_embed.shape == (1, 197, 768) and encoder.side == 224


def test_slices_lie_in_the_brain_in_three_planes_and_know_no_tumour():
    inside = torch.from_numpy(brain())
    for axis in range(3):
        places = slice_places(inside, axis, 5)
        extent = np.flatnonzero(inside.numpy().any(axis=tuple(i for i in range(3) if i != axis)))
        assert len(set(places)) == 5 and min(places) > extent[0] and max(places) < extent[-1]
        assert all(inside.select(axis, place).any() for place in places)
    scan = volume(0)
    shown = pictures(torch.from_numpy(scan), 4, 16)
    assert shown.shape == (12, 3, 16, 16)
    assert float(shown.min()) >= 0 and float(shown.max()) <= 1 and float(shown.std()) > 0.05
    assert RGB == (1, 3, 2)
    # A volume with a bright tumour anywhere is cut at the same places.
    scan[:, 10:13, 12:15, 8:11] += 5
    assert [slice_places((torch.from_numpy(scan) != 0).any(0), a, 5) for a in range(3)] == [
        slice_places(inside, a, 5) for a in range(3)
    ]


def test_a_slice_is_upright_and_square():
    """A lone voxel block, superior and to the right: high up in coronal pictures, in the right half."""
    scan = torch.zeros(4, 20, 30, 24)
    scan[:, 1:19, 1:29, 1:23] = 0.01
    scan[:, 14:18, :, 19:22] = 3
    coronal = pictures(scan, 2, 64)[2]
    assert coronal.shape == (3, 64, 64)
    bright = (coronal[0] > 0.5).nonzero().float().mean(dim=0)
    assert bright[0] < 26 and bright[1] > 32


def test_an_empty_volume_is_black():
    assert float(pictures(torch.zeros(4, 8, 8, 8), 2, 16).max()) == 0
    tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    assert torch.isfinite(SliceEncoder(tower, 16, 2)(torch.zeros(1, 4, 8, 8, 8))).all()
