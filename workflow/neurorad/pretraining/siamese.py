"""What BYOL and both versions of MoCo share: two views, and momentum copies that follow the encoder and its projector."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from neurorad.encoder import Encoder
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.step import Method, cosine, follow, momentum_copy


class Siamese(Method):
    """Views: 2. Exported: the encoder that learns."""

    intensity = True

    def __init__(
        self, encoder: Encoder, projector: nn.Module, crop: Crop, steps: int, momentum: tuple[float, float]
    ) -> None:
        """`momentum`: at the first and the last of `steps`."""
        super().__init__()
        self.steps, self.momenta = steps, momentum
        self.crops = [crop] * 2
        self.encoder, self.projector = encoder, projector
        self.target_encoder, self.target_projector = momentum_copy(encoder), momentum_copy(projector)

    @property
    def exported(self) -> Encoder:
        """The encoder that learns, not its momentum copy."""
        return self.encoder

    def momentum(self, step: int) -> float:
        """Of the copies' weights, along half a cosine."""
        return cosine(step, self.steps, *self.momenta)

    @torch.no_grad()
    def targets(self, views: Sequence[Tensor]) -> list[Tensor]:
        """`[B, k]` of each view."""
        return [self.target_projector(self.target_encoder(view)) for view in views]

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        """The momentum copies follow."""
        follow(self.target_encoder, self.encoder, self.momentum(step))
        follow(self.target_projector, self.projector, self.momentum(step))
