"""MoCo v3: no queue; a predictor, both directions, and the keys of the batch (Chen et al. 2021, arXiv 2104.02057).

For batches of 128 and more on a device; with fewer there are too few negatives and version 2 with its queue serves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.moco import MocoSettings, no_negatives
from neurorad.pretraining.step import Batch, StepResult, cosine, follow, head, momentum_copy


def batch_info_nce(query: Tensor, keys: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """`[B, k], [B, k], [B, B] -> [B]`: 2 T times the cross-entropy of the own key (row i of `keys`) among the batch's.

    All rows have unit length. Pairs marked in `excluded` are no negatives; the diagonal, the positives, must not be.
    """
    logits = (query @ keys.T / temperature).masked_fill(excluded, -torch.inf)
    return 2 * temperature * (torch.logsumexp(logits, dim=1) - logits.diagonal())


class MocoV3(nn.Module):
    """Views: 2. Exported: the query encoder."""

    intensity = True

    def __init__(self, encoder: Encoder, settings: MocoSettings, steps: int, batch_size: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.crops = [settings.crop] * 2
        self.encoder = encoder
        self.projector = head([encoder.dimension, settings.hidden, settings.output], batch_size)
        self.predictor = head([settings.output, settings.hidden, settings.output], batch_size)
        self.key_encoder = momentum_copy(encoder)
        self.key_projector = momentum_copy(self.projector)

    @property
    def exported(self) -> Encoder:
        return self.encoder

    def momentum(self, step: int) -> float:
        return cosine(step, self.steps, *self.settings.momentum)

    def step(self, batch: Batch) -> StepResult:
        with batch.precision():
            features = [self.encoder(view) for view in batch.views]
            queries = [self.predictor(self.projector(feature)) for feature in features]
            with torch.no_grad():
                keys = [self.key_projector(self.key_encoder(view)) for view in batch.views]
        first, second = (functional.normalize(query.float(), dim=1) for query in queries)
        key_first, key_second = (functional.normalize(key.float(), dim=1) for key in keys)
        codes = batch.patients, batch.groups
        excluded = no_negatives(*codes, *codes, self.settings.negatives).fill_diagonal_(False)
        temperature = self.settings.temperature
        loss = batch_info_nce(first, key_second, excluded, temperature)
        loss = loss + batch_info_nce(second, key_first, excluded, temperature)
        diagnostics = {
            "momentum": self.momentum(batch.step),
            "excluded_negatives": excluded.float().mean(),
            "without_negatives": (excluded.sum(dim=1) == len(excluded) - 1).float().mean(),
        }
        return StepResult(loss, loss.detach(), features[0].detach().float(), diagnostics=diagnostics)

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        follow(self.key_encoder, self.encoder, self.momentum(step))
        follow(self.key_projector, self.projector, self.momentum(step))
