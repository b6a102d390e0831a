"""Published networks of one input channel over four sequences: MedicalNet and BrainIAC, each a 3D ResNet-50.

- MedicalNet (Chen, Ma and Zheng 2019, arXiv 1904.00625): `resnet_50.pth` or `resnet_50_23dataset.pth`, which hold
  `{"state_dict": {"module.conv1.weight": ...}}`. Layers 3 and 4 are dilated by 2 and 4 instead of strided, as in the
  authors' code. Input: z-scored inside the brain, as volumes are; the authors' background noise is left out, as it would
  make embeddings random.
- BrainIAC (Tak et al. 2024, medRxiv 2024.12.02.24317992): the ResNet-50 of its first release, whose names begin with
  `backbone.`; the later ViT is another network and is refused. Input: each sequence resized to 96 voxels a side, then
  z-scored where it is not 0.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.embedding.checkpoints import fit_weights, read_tensors, without_prefix

JOINS = ("concatenate", "mean")
"""How the vectors of the four sequences become one: side by side (4 times 2048 numbers), or their mean (2048)."""

EDGE = 96


class EachSequence(nn.Module):
    """`[B, 4, D, H, W] -> [B, 4 d]` or `[B, d]`: a network of one channel over each sequence, joined as `JOINS` says."""

    def __init__(self, network: nn.Module, join: str, edge: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.join = join
        self.edge = edge

    def forward(self, volumes: Tensor) -> Tensor:
        """`[B, S, D, H, W] -> [B, d]`: each sequence alone through the network, then joined."""
        found = torch.stack(
            [self.network(self.prepared(volumes[:, i : i + 1])) for i in range(volumes.shape[1])], dim=1
        )
        return found.flatten(1) if self.join == "concatenate" else found.mean(dim=1)

    def prepared(self, sequence: Tensor) -> Tensor:
        """`[B, 1, D, H, W]` as the network saw it in training."""
        if self.edge is None:
            return sequence
        sequence = functional.interpolate(sequence, size=(self.edge,) * 3, mode="trilinear", align_corners=False)
        inside = sequence != 0
        count = inside.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
        mean = sequence.sum(dim=(1, 2, 3, 4), keepdim=True) / count
        variance = (torch.where(inside, sequence - mean, 0) ** 2).sum(dim=(1, 2, 3, 4), keepdim=True) / count
        return torch.where(inside, (sequence - mean) / variance.sqrt().clamp(min=1e-8), 0)


def medicalnet(path: str | Path, digest: str | None, join: str = "concatenate") -> EachSequence:
    """MedicalNet's ResNet-50 over each sequence.

    Raises:
        InputError: the file is missing, another one, unsafe, or does not fit.
    """
    tensors = without_prefix(read_tensors(path, digest), "module.")
    network = resnet50_of(tensors)
    for layer, dilation in (("layer3", 2), ("layer4", 4)):
        for convolution in (
            module for module in network.get_submodule(layer).modules() if isinstance(module, nn.Conv3d)
        ):
            convolution.stride = (1, 1, 1)
            if convolution.kernel_size == (3, 3, 3):
                convolution.dilation = convolution.padding = (dilation,) * 3
    fit_weights(network, tensors, path, ignored=("conv_seg.", "fc."))
    return EachSequence(network, join).eval()


def brainiac(path: str | Path, digest: str | None, join: str = "concatenate") -> EachSequence:
    """BrainIAC's ResNet-50 over each sequence.

    Raises:
        InputError: the file is missing, another one, unsafe, or does not fit.
    """
    tensors = without_prefix(without_prefix(read_tensors(path, digest), "module."), "backbone.")
    network = resnet50_of(tensors)
    fit_weights(network, tensors, path, ignored=("fc.", "classifier.", "projection", "head."))
    return EachSequence(network, join, EDGE).eval()


def resnet50_of(tensors: dict[str, Tensor]) -> nn.Module:
    """MONAI's ResNet-50 as both were made with: one channel, a stem of stride 2 with pooling, no classifier.

    Whether its shortcuts have a bias is what the file says.
    """
    from monai.networks.nets import resnet50

    biased = "layer1.0.downsample.0.bias" in tensors
    return resnet50(n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=biased)
