"""BYOL: predict one view's momentum projection from the other (Grill et al. 2020, arXiv 2006.07733)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.siamese import Siamese
from neurorad.pretraining.step import Batch, StepResult, head


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


class Byol(Siamese):
    """The online network predicts the momentum network's projection of the other view."""

    def __init__(self, encoder: Encoder, settings: ByolSettings, steps: int, batch_size: int) -> None:
        projector = head([encoder.dimension, settings.hidden, settings.output], batch_size)
        super().__init__(encoder, projector, settings.crop, steps, settings.momentum)
        self.predictor = head([settings.output, settings.hidden, settings.output], batch_size)

    def step(self, batch: Batch) -> StepResult:
        """Both directions: the loss of a sample is in [0, 8]."""
        with batch.precision():
            features = [self.encoder(view) for view in batch.views]
            predictions = [self.predictor(self.projector(feature)) for feature in features]
            targets = self.targets(batch.views)
        first, second = (prediction.float() for prediction in predictions)
        target_first, target_second = (target.float() for target in targets)
        # Both directions are added, as in the paper, so the loss of a sample is in [0, 8].
        loss = byol_loss(first, target_second) + byol_loss(second, target_first)
        diagnostics = {"momentum": self.momentum(batch.step)}
        return StepResult(loss, loss.detach(), features[0].detach().float(), diagnostics=diagnostics)
