"""Masked autoencoding with a dense ResNet: hide blocks, paint them (He et al. 2022, arXiv 2111.06377)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder, group_norm
from neurorad.pretraining.step import Batch, StepResult
from neurorad.pretraining.views import Crop
from neurorad.problems import InputError
from neurorad.seeds import seed_of


@dataclass(frozen=True)
class MaeSettings:
    """`block`: voxels along an edge of a hidden block. `masked`: fraction of blocks hidden.

    `tube`: probability that all sequences hide the same blocks. `decoder_width`: channels at full resolution.
    """

    crop: Crop
    block: int
    masked: float
    tube: float
    decoder_width: int

    def __post_init__(self) -> None:
        if self.crop.size % self.block:
            raise InputError(f"preset: mae.crop.size {self.crop.size} is no multiple of mae.block {self.block}")
        if not 0 < self.masked < 1:
            raise InputError(f"preset: mae.masked is {self.masked}, not between 0 and 1")


def block_masks(seeds: Sequence[int], channels: int, blocks: int, masked: float, tube: float) -> Tensor:
    """`[B, C, n, n, n]` bool, True = hidden; one sample's mask depends on its own seed alone.

    With probability `tube` all sequences hide the same blocks. Otherwise each sequence hides its own, and one whole
    sequence is hidden, so that sequences must be predicted from each other.
    """
    count = round(masked * blocks**3)
    masks = torch.zeros(len(seeds), channels, blocks**3, dtype=torch.bool)
    for mask, seed in zip(masks, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed_of(seed, "mask"))
        if torch.rand((), generator=generator) < tube:
            mask[:, torch.randperm(blocks**3, generator=generator)[:count]] = True
        else:
            for sequence in mask:
                sequence[torch.randperm(blocks**3, generator=generator)[:count]] = True
            mask[torch.randint(channels, (), generator=generator)] = True
    return masks.view(len(seeds), channels, blocks, blocks, blocks)


def grow(blocks: Tensor, size: int) -> Tensor:
    """`[B, C, n, n, n] -> [B, C, n*size, n*size, n*size]`: every element becomes a block."""
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(size, dim=axis)
    return blocks


def block_normalised(volumes: Tensor, scored: Tensor, block: int) -> Tensor:
    """Zero mean and unit variance over the `scored` voxels of each block and sequence, 0 elsewhere.

    So a group with brighter, sharper or larger brains has no larger loss because of it.
    """
    weight = scored.float()
    share = functional.avg_pool3d(weight, block).clamp_min(block**-3)
    mean = functional.avg_pool3d(volumes * weight, block) / share
    centred = (volumes - grow(mean, block)) * weight
    variance = functional.avg_pool3d(centred**2, block) / share
    return centred / grow((variance + 1e-6).sqrt(), block)


def mae_loss(painted: Tensor, volumes: Tensor, hidden: Tensor, block: int) -> Tensor:
    """`[B, C, s, s, s]` three times `-> [B]`: mean squared error over the voxels that are hidden and in the brain.

    The brain is where any sequence is not 0; a sequence that is absent from a scan is not scored.
    A sample without such voxels has loss 0.
    """
    brain = (volumes != 0).any(dim=1, keepdim=True)
    present = (volumes != 0).any(dim=(2, 3, 4), keepdim=True)
    target = block_normalised(volumes, brain & present, block)
    scored = (hidden & brain & present).float()
    squares = ((painted - target) ** 2 * scored).sum(dim=(1, 2, 3, 4))
    return squares / scored.sum(dim=(1, 2, 3, 4)).clamp_min(1)


class Decoder(nn.Module):
    """The last feature map to all voxels, doubling the size at each stage; no skips, so features must hold it all."""

    def __init__(self, inputs: int, stages: int, width: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in reversed(range(stages)):
            outputs = width * min(2**stage, 8)
            # Not interpolation: its backward is not deterministic on CUDA.
            layers += [nn.ConvTranspose3d(inputs, outputs, 2, stride=2), group_norm(outputs), nn.GELU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv3d(inputs, channels, 3, padding=1))

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.layers(feature_map)


class Mae(nn.Module):
    """Views: 1, without intensity changes. Exported: the encoder."""

    intensity = False

    def __init__(self, encoder: Encoder, settings: MaeSettings) -> None:
        super().__init__()
        stride = encoder.architecture.stride
        if settings.crop.size % stride:
            raise InputError(
                f"preset: mae.crop.size {settings.crop.size} is no multiple of the encoder's stride {stride}"
            )
        self.settings = settings
        self.crops = [settings.crop]
        self.encoder = encoder
        self.decoder = Decoder(encoder.dimension, stride.bit_length() - 1, settings.decoder_width, channels=4)

    @property
    def exported(self) -> Encoder:
        return self.encoder

    def step(self, batch: Batch) -> StepResult:
        settings, (volumes,) = self.settings, batch.views
        blocks = settings.crop.size // settings.block
        masks = block_masks(batch.seeds, volumes.shape[1], blocks, settings.masked, settings.tube)
        hidden = grow(masks.to(volumes.device), settings.block)
        with batch.precision():
            feature_map = self.encoder.feature_map(volumes.masked_fill(hidden, 0))
            painted = self.decoder(feature_map)
        loss = mae_loss(painted.float(), volumes, hidden, settings.block)
        features = feature_map.detach().float().mean(dim=(2, 3, 4))
        return StepResult(loss, loss.detach(), features, diagnostics={"hidden": hidden.float().mean()})

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        """Nothing follows: there is no momentum network."""
