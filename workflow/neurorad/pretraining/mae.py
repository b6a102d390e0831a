"""Masked autoencoding with a ResNet, dense or sparse: hide blocks, paint them (He et al. 2022, arXiv 2111.06377)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurorad.encoder import Architecture, Encoder, group_norm
from neurorad.pretraining.draws import moved
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.sparse import resized, sparse_feature_map
from neurorad.pretraining.step import Batch, Method, StepResult
from neurorad.problems import InputError
from neurorad.seeds import seed_of

MASKING = ("dense", "sparse", "voxel_feature")


@dataclass(frozen=True)
class MaeSettings:
    """`masking`: `dense` (hidden blocks are 0), `sparse` (the encoder computes on visible blocks only, `sparse.py`) or
    `voxel_feature` (the published code's, `mae_feature.py`). `block`: voxels along an edge of a hidden block. `masked`:
    fraction of blocks hidden. `tube`: probability that all sequences hide the same blocks. `decoder_width`: channels at
    full resolution."""

    crop: Crop
    masking: str
    block: int
    masked: float
    tube: float
    decoder_width: int

    def __post_init__(self) -> None:
        if self.masking not in MASKING:
            raise InputError(f"mae.masking is {self.masking!r}, not one of {', '.join(MASKING)}")
        if self.crop.size % self.block:
            raise InputError(f"mae.crop.size {self.crop.size} is no multiple of mae.block {self.block}")
        if not 0 < self.masked < 1:
            raise InputError(f"mae.masked is {self.masked}, not between 0 and 1")
        count = (self.crop.size // self.block) ** 3
        if not 0 < round(self.masked * count) < count:
            raise InputError(f"mae.masked {self.masked} of {count} blocks hides none or all; make mae.block smaller")
        if self.masking == "sparse" and self.tube < 1:
            raise InputError("mae.masking sparse needs mae.tube 1: a position is visible in all sequences or none")


def check_with_encoder(settings: MaeSettings, architecture: Architecture) -> None:
    """Raises InputError for a crop or blocks that do not fit the encoder's stride, or a norm that `sparse` does not have."""
    stride = architecture.stride
    if settings.masking != "voxel_feature" and settings.crop.size % stride:
        raise InputError(f"mae.crop.size {settings.crop.size} is no multiple of the encoder's stride {stride}")
    if settings.masking == "sparse" and settings.block % stride:
        raise InputError(
            f"mae.block {settings.block} is no multiple of the encoder's stride {stride}, as mae.masking sparse needs; a voxel "
            "of the last feature map must lie in one block"
        )
    if settings.masking == "sparse" and architecture.norm == "sync":
        raise InputError("mae.masking sparse has no batch norm over several GPUs; set encoder.norm to group")


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
    """Zero mean and unit variance (n - 1, as the authors') over the `scored` voxels of each block and sequence.

    So a group with brighter, sharper or larger brains has no larger loss because of it.
    """
    within, count = (3, 5, 7), volumes.shape[-1] // block
    # `[B, C, n, block, n, block, n, block]`
    voxels, weight = (
        x.expand_as(volumes).reshape(*volumes.shape[:2], *(count, block) * 3) for x in (volumes, scored.float())
    )
    number = weight.sum(dim=within, keepdim=True)
    centred = (voxels - (voxels * weight).sum(dim=within, keepdim=True) / number.clamp_min(1)) * weight
    variance = centred.square().sum(dim=within, keepdim=True) / (number - 1).clamp_min(1)
    return (centred / (variance + 1e-6).sqrt()).view_as(volumes)


def mae_loss(painted: Tensor, volumes: Tensor, hidden: Tensor, block: int) -> Tensor:
    """`[B, C, s, s, s]` three times `-> [B]`: mean squared error over the voxels that are hidden and in the brain.

    The brain is where any sequence is not 0; a sequence that is absent from a scan is not scored.
    A sample without such voxels has loss 0.
    """
    # In numbers, not in truth values, whose reductions are slow on a CPU.
    strength = volumes.abs()
    known = strength.amax(dim=1, keepdim=True).sign() * strength.amax(dim=(2, 3, 4), keepdim=True).sign()
    target = block_normalised(volumes, known, block)
    scored = known * hidden
    squares = ((painted - target).square() * scored).sum(dim=(1, 2, 3, 4))
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
        """`[B, d, s', s', s'] -> [B, channels, s, s, s]`."""
        return self.layers(feature_map)


class Mae(Method):
    """Views: 1, without intensity changes. Exported: the encoder."""

    intensity = False

    def __init__(self, encoder: Encoder, settings: MaeSettings) -> None:
        super().__init__()
        check_with_encoder(settings, encoder.architecture)
        stride = encoder.architecture.stride
        self.settings = settings
        self.crops = [settings.crop]
        self.encoder = encoder
        self.decoder = Decoder(encoder.dimension, stride.bit_length() - 1, settings.decoder_width, channels=4)
        if settings.masking == "sparse":
            self.hidden_token = nn.Parameter(torch.zeros(encoder.dimension))

    @property
    def exported(self) -> Encoder:
        """The encoder, without the decoder."""
        return self.encoder

    def step(self, batch: Batch) -> StepResult:
        """Loss: squared error of hidden voxels, each block normalised."""
        settings, (volumes,) = self.settings, batch.views
        blocks = settings.crop.size // settings.block
        masks = block_masks(batch.seeds, volumes.shape[1], blocks, settings.masked, settings.tube)
        masks = moved(masks, volumes.device)
        hidden = grow(masks, settings.block)
        with batch.precision():
            if settings.masking == "sparse":
                feature_map, features = self._sparse(volumes, ~masks[:, :1])
            else:
                feature_map = self.encoder.feature_map(volumes * ~hidden)
                features = feature_map.mean(dim=(2, 3, 4))
            painted = self.decoder(feature_map)
        loss = mae_loss(painted.float(), volumes, hidden, settings.block)
        diagnostics = {"hidden": hidden.float().mean()}
        return StepResult(loss, loss.detach(), features.detach().float(), diagnostics=diagnostics)

    def _sparse(self, volumes: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map with the learned token where hidden, and the mean over the visible part, which pretends nothing."""
        feature_map = sparse_feature_map(self.encoder, volumes, visible)
        here = resized(visible, feature_map.shape[-1])
        features = feature_map.sum(dim=(2, 3, 4)) / here.sum(dim=(2, 3, 4))
        token = self.hidden_token.view(1, -1, 1, 1, 1).to(feature_map.dtype)
        return torch.where(here, feature_map, token), features
