"""What the code published with the paper calls MAE: predict the features of the whole from single visible voxels.

Voxels, not blocks, are hidden, and the target is the same encoder's output on the unmasked input, without a momentum
network. Nothing keeps features from collapsing; it is here to reproduce, under `paper_code`, not to be chosen.
"""

import torch
from torch import Tensor, nn

from neurorad.encoder import Encoder
from neurorad.pretraining.draws import moved
from neurorad.pretraining.mae import MaeSettings, block_masks, grow
from neurorad.pretraining.step import Batch, Method, StepResult

OUTPUT, HIDDEN = 400, 256
"""Widths of the published encoder's output layer and of its predictor's hidden layer."""


def feature_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """`[B, k], [B, k] -> [B]`: mean squared difference."""
    return ((predicted - target) ** 2).mean(dim=1)


class FeatureMae(Method):
    """Views: 1, with intensity changes. Exported: the encoder."""

    intensity = True

    def __init__(self, encoder: Encoder, settings: MaeSettings) -> None:
        super().__init__()
        self.settings = settings
        self.crops = [settings.crop]
        self.encoder = encoder
        self.output = nn.Linear(encoder.dimension, OUTPUT)
        self.predictor = nn.Sequential(nn.Linear(OUTPUT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUT))

    @property
    def exported(self) -> Encoder:
        """The encoder."""
        return self.encoder

    def step(self, batch: Batch) -> StepResult:
        """Loss: distance of the masked volume's features from the whole one's."""
        settings, (volumes,) = self.settings, batch.views
        # One mask for all sequences.
        masks = block_masks(batch.seeds, 1, settings.crop.size // settings.block, settings.masked, tube=1.0)
        hidden = grow(moved(masks, volumes.device), settings.block)
        with batch.precision():
            features = self.encoder(volumes.masked_fill(hidden, 0))
            predicted = self.predictor(self.output(features))
            with torch.no_grad():
                target = self.output(self.encoder(volumes))
        loss = feature_loss(predicted.float(), target.float())
        return StepResult(loss, loss.detach(), features.detach().float(), diagnostics={"hidden": hidden.float().mean()})
