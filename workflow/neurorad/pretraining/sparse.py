"""A ResNet on the visible voxels of a volume only: the idea of SparK (Tian et al. 2023, arXiv 2301.03580) in 3D.

After every convolution and pooling the hidden positions are 0 again, so that the visible pattern does not shrink from
layer to layer, and every norm takes its statistics over visible positions only, so that the share that is hidden does
not shift them. With nothing hidden this is the ordinary forward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.resnet import NormLayer


def sparse_feature_map(encoder: Encoder, volumes: Tensor, visible: Tensor) -> Tensor:
    """`[B, 4, s, s, s]` and the visible blocks `[B, 1, n, n, n]` bool `-> [B, d, s', s', s']`, 0 where hidden.

    n must be a multiple of s' and s of n: a voxel of the last feature map lies within one block.
    """
    network = encoder.network
    inputs = encoder.with_presence(volumes * resized(visible, volumes.shape[-1]))
    x = network.act(_norm(network.bn1, _kept(network.conv1(inputs), visible), visible))
    # After the ReLU no visible value is below the 0 of hidden ones, so pooling takes none of them.
    x = _kept(network.maxpool(x), visible)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            x = _block(block, x, visible)
    return x


def _block(block: Any, x: Tensor, visible: Tensor) -> Tensor:
    """`BasicBlock` (two convolutions) or `Bottleneck` (three)."""
    residual, last = x, 3 if hasattr(block, "conv3") else 2
    for number in range(1, last + 1):
        x = _kept(getattr(block, f"conv{number}")(x), visible)
        x = _norm(getattr(block, f"bn{number}"), x, visible)
        if number < last:
            x = block.act(x)
    if block.downsample is not None:
        convolution, norm = block.downsample
        residual = _norm(norm, _kept(convolution(residual), visible), visible)
    return block.act(x + residual)


def resized(visible: Tensor, size: int) -> Tensor:
    """`[B, 1, n, n, n]` bool `-> [B, 1, size, size, size]`: repeated, or taken at every (n / size)-th block."""
    blocks = visible.shape[-1]
    if size < blocks:
        # A feature voxel that lies in several blocks is visible where any of them is.
        return functional.max_pool3d(visible.float(), blocks // size) > 0
    for axis in (2, 3, 4):
        visible = visible.repeat_interleave(size // blocks, dim=axis)
    return visible


def _kept(x: Tensor, visible: Tensor) -> Tensor:
    return x * resized(visible, x.shape[-1])


def _norm(norm: NormLayer, x: Tensor, visible: Tensor) -> Tensor:
    """The norm over visible positions, 0 elsewhere. Statistics in float32."""
    here = resized(visible, x.shape[-1])
    if isinstance(norm, nn.GroupNorm):
        normed = group_statistics(x, here, norm.num_groups, norm.eps)
    elif isinstance(norm, nn.InstanceNorm3d):
        normed = group_statistics(x, here, x.shape[1], norm.eps)
    else:
        normed = _batch_norm(norm, x, here)
    shape = (1, -1, 1, 1, 1)
    return ((normed * norm.weight.view(shape) + norm.bias.view(shape)) * here).to(x.dtype)


def group_statistics(x: Tensor, visible: Tensor, groups: int, eps: float) -> Tensor:
    """`[B, C, s, s, s]` with mean 0 and variance 1 over the visible positions of each sample and group of channels."""
    grouped = x.float().unflatten(1, (groups, -1))
    weight = visible.float()[:, None].expand(-1, 1, grouped.shape[2], -1, -1, -1)
    axes = (2, 3, 4, 5)
    count = weight.sum(dim=axes, keepdim=True).clamp_min(1)
    mean = (grouped * weight).sum(dim=axes, keepdim=True) / count
    variance = ((grouped - mean) ** 2 * weight).sum(dim=axes, keepdim=True) / count
    return ((grouped - mean) / (variance + eps).sqrt()).flatten(1, 2)


def _batch_norm(norm: nn.BatchNorm3d | nn.SyncBatchNorm, x: Tensor, visible: Tensor) -> Tensor:
    """Statistics over the visible positions of the batch while training, which also move the running ones."""
    shape, x = (1, -1, 1, 1, 1), x.float()
    running_mean, running_var, tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    # The encoder's norms follow their statistics, with a fixed momentum.
    assert running_mean is not None and running_var is not None and tracked is not None and norm.momentum is not None
    if not norm.training:
        return (x - running_mean.view(shape)) / (running_var.view(shape) + norm.eps).sqrt()
    weight, axes = visible.float(), (0, 2, 3, 4)
    count = weight.sum().clamp_min(1)
    mean = (x * weight).sum(dim=axes) / count
    variance = ((x - mean.view(shape)) ** 2 * weight).sum(dim=axes) / count
    with torch.no_grad():
        running_mean.lerp_(mean, norm.momentum)
        running_var.lerp_(variance * count / (count - 1).clamp_min(1), norm.momentum)
        tracked += 1
    return (x - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()
