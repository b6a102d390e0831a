"""BYOL: predict one view's momentum projection from the other (Grill et al. 2020, arXiv 2006.07733)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.step import Batch, StepResult, cosine, follow, head, momentum_copy
from neurorad.pretraining.views import Crop


@dataclass(frozen=True)
class ByolSettings:
    """`hidden`, `output`: widths of projector and predictor. `momentum`: at the first and the last step."""

    crop: Crop
    hidden: int
    output: int
    momentum: tuple[float, float]


def byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """`[B, k], [B, k] -> [B]`: 2 - 2 cos, in [0, 4] (equation 2 of the paper)."""
    return 2 - 2 * functional.cosine_similarity(prediction, target, dim=1)


class Byol(nn.Module):
    """Views: 2. Exported: the online encoder."""

    intensity = True

    def __init__(self, encoder: Encoder, settings: ByolSettings, steps: int, batch_size: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.crops = [settings.crop] * 2
        self.encoder = encoder
        self.projector = head([encoder.dimension, settings.hidden, settings.output], batch_size)
        self.predictor = head([settings.output, settings.hidden, settings.output], batch_size)
        self.target_encoder = momentum_copy(encoder)
        self.target_projector = momentum_copy(self.projector)

    @property
    def exported(self) -> Encoder:
        return self.encoder

    def momentum(self, step: int) -> float:
        return cosine(step, self.steps, *self.settings.momentum)

    def step(self, batch: Batch) -> StepResult:
        with batch.precision():
            features = [self.encoder(view) for view in batch.views]
            predictions = [self.predictor(self.projector(feature)) for feature in features]
            with torch.no_grad():
                targets = [self.target_projector(self.target_encoder(view)) for view in batch.views]
        first, second = (prediction.float() for prediction in predictions)
        target_first, target_second = (target.float() for target in targets)
        # Both directions are added, as in the paper, so the loss of a sample is in [0, 8].
        loss = byol_loss(first, target_second) + byol_loss(second, target_first)
        diagnostics = {"momentum": self.momentum(batch.step)}
        return StepResult(loss, loss.detach(), features[0].detach().float(), diagnostics=diagnostics)

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        follow(self.target_encoder, self.encoder, self.momentum(step))
        follow(self.target_projector, self.projector, self.momentum(step))
