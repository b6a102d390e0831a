"""MoCo v3: no queue; a predictor, both directions, and the keys of the batch (Chen et al. 2021, arXiv 2104.02057).

For batches of 128 and more on all devices together; with fewer there are too few negatives and version 2 with its queue
serves.
"""

import torch
from torch import Tensor
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.devices import of_all_devices, own_rows
from neurorad.pretraining.moco import MocoSettings, no_negatives
from neurorad.pretraining.siamese import Siamese
from neurorad.pretraining.step import Batch, StepResult, head


def batch_info_nce(query: Tensor, keys: Tensor, own: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """`[b, k], [B, k], [b], [b, B] -> [b]`: 2 T times the cross-entropy of the own key among the batch's.

    All rows have unit length. `own`: the row of `keys` that is the query's. Pairs marked in `excluded` are no negatives;
    the own must not be.
    """
    logits = (query @ keys.T / temperature).masked_fill(excluded, -torch.inf)
    return 2 * temperature * (torch.logsumexp(logits, dim=1) - logits.gather(1, own[:, None])[:, 0])


class MocoV3(Siamese):
    """Both views are queries, and keys of the momentum network; the keys are those of all devices."""

    def __init__(self, encoder: Encoder, settings: MocoSettings, steps: int, batch_size: int) -> None:
        projector = head([encoder.dimension, settings.hidden, settings.output], batch_size)
        super().__init__(encoder, projector, settings.crop, steps, settings.momentum)
        self.settings = settings
        self.predictor = head([settings.output, settings.hidden, settings.output], batch_size)

    def step(self, batch: Batch) -> StepResult:
        """Both directions, each against the keys of the batch on all devices."""
        with batch.precision():
            features = [self.encoder(view) for view in batch.views]
            queries = [self.predictor(self.projector(feature)) for feature in features]
            keys = self.targets(batch.views)
        first, second = (functional.normalize(query.float(), dim=1) for query in queries)
        key_first, key_second = (of_all_devices(functional.normalize(key.float(), dim=1)) for key in keys)
        codes = batch.patients, batch.groups
        all_codes = of_all_devices(batch.patients), of_all_devices(batch.groups)
        own = own_rows(len(first), first.device)
        excluded = no_negatives(*codes, *all_codes, self.settings.negatives)
        excluded = excluded.scatter(1, own[:, None], False)
        temperature = self.settings.temperature
        loss = batch_info_nce(first, key_second, own, excluded, temperature)
        loss = loss + batch_info_nce(second, key_first, own, excluded, temperature)
        diagnostics: dict[str, float | Tensor] = {
            "momentum": self.momentum(batch.step),
            "excluded_negatives": excluded.float().mean(),
            "without_negatives": (excluded.sum(dim=1) == excluded.shape[1] - 1).float().mean(),
        }
        return StepResult(loss, loss.detach(), features[0].detach().float(), diagnostics=diagnostics)
