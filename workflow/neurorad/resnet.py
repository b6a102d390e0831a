"""The 3D residual networks of He et al. 2016 (CVPR; table 1), without a classifier.

Layer names and initial weights are those of MONAI's `ResNet` (tests/test_resnet.py holds them equal to the bit), so its
checkpoints load. It is not imported from there because `import monai` loads all of MONAI and, through it, PyTorch's
compiler: two seconds of CPU at the start of each of a study's many jobs that need nothing else of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

NormLayer = nn.GroupNorm | nn.InstanceNorm3d | nn.BatchNorm3d | nn.SyncBatchNorm
Norm = Callable[[int], NormLayer]
"""Channels -> normalisation layer."""


class BasicBlock(nn.Module):
    """`[B, c, D, H, W] -> [B, width, D', H', W']`: two 3x3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, shortcut: nn.Sequential | None, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`[B, c, D, H, W] -> [B, width, D', H', W']`."""
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.act(out)


class Bottleneck(nn.Module):
    """`[B, c, D, H, W] -> [B, 4 width, D', H', W']`: convolutions of 1, 3 and 1 voxels beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, shortcut: nn.Sequential | None, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv3d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm(width * self.expansion)
        self.act = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`[B, c, D, H, W] -> [B, 4 width, D', H', W']`."""
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.act(out)


class Stem(nn.Conv3d):
    """A convolution of few channels, trained on a CPU with them last in memory.

    oneDNN's gradient of a stem of 4 channels takes a tenth of the time so: forward and backward of the demo's network 0.6 of it, of a
    ResNet50 at 64^3 0.8 to 0.9. Forward alone, and the other layers, are no faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, D, H, W] -> [B, width, D', H', W']`."""
        if x.is_cuda or not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        return super().forward(x.contiguous(memory_format=torch.channels_last_3d)).contiguous()


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """`[B, inputs, D, H, W] -> [B, dimension, D', H', W']`, the last feature map; D' is about D / (stem_stride 2^3) and
    half of that with `stem_pool`.

    Args:
        block: a key of `BLOCKS`. depths: blocks of the four stages. width: channels of the first stage; the others have
            2, 4 and 8 times as many.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: str,
        depths: tuple[int, ...],
        width: int,
        inputs: int,
        stem_stride: int,
        stem_pool: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        kind = BLOCKS[block]
        self.conv1 = Stem(inputs, width, 7, stem_stride, padding=3, bias=False)
        self.bn1 = norm(width)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1) if stem_pool else nn.Identity()
        channels = width
        for stage, depth in enumerate(depths):
            layer = _stage(kind, depth, channels, width * 2**stage, 1 if stage == 0 else 2, norm)
            self.add_module(f"layer{stage + 1}", layer)
            channels = width * 2**stage * kind.expansion
        self.dimension = channels
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, D, H, W] -> [B, dimension, D', H', W']`."""
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(
    kind: type[BasicBlock] | type[Bottleneck], depth: int, channels: int, width: int, stride: int, norm: Norm
) -> nn.Sequential:
    wide = width * kind.expansion
    shortcut = None
    if stride != 1 or channels != wide:
        # Convolution and norm: He et al.'s option B.
        shortcut = nn.Sequential(nn.Conv3d(channels, wide, 1, stride, bias=False), norm(wide))
    first = kind(channels, width, stride, shortcut, norm)
    return nn.Sequential(first, *(kind(wide, width, 1, None, norm) for _ in range(depth - 1)))
