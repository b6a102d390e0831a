"""MoCo v2: tell a scan's momentum key from a queue of others (He et al. 2020, Chen et al. 2020, arXiv 2003.04297)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.step import Batch, StepResult, cosine, follow, momentum_copy
from neurorad.pretraining.views import Crop

NOBODY = -1
"""Patient of a queue slot that holds a random initial key."""


@dataclass(frozen=True)
class MocoSettings:
    """`queue`: keys, before the cap at half the training set. `momentum`: at the first and the last step."""

    crop: Crop
    hidden: int
    output: int
    queue: int
    temperature: float
    momentum: tuple[float, float]


def info_nce(query: Tensor, key: Tensor, queue: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """`[B, k], [B, k], [K, k], [B, K] -> [B]`: cross-entropy of the own key against the queue.

    All rows have unit length. Pairs marked in `excluded` (same patient) are no negatives.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    negative = (query @ queue.T).masked_fill(excluded, -torch.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


class Moco(nn.Module):
    """Views: 2 (query, key). Exported: the query encoder."""

    intensity = True

    def __init__(self, encoder: Encoder, settings: MocoSettings, steps: int, scans: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.crops = [settings.crop] * 2
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(encoder.dimension, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.output)
        )
        self.key_encoder = momentum_copy(encoder)
        self.key_projector = momentum_copy(self.projector)
        # A longer queue would hold several stale keys of each scan: false negatives.
        size = max(1, min(settings.queue, scans // 2))
        self.register_buffer("queue", functional.normalize(torch.randn(size, settings.output), dim=1))
        self.register_buffer("queue_patients", torch.full((size,), NOBODY))
        self.register_buffer("oldest", torch.tensor(0))

    @property
    def exported(self) -> Encoder:
        return self.encoder

    def momentum(self, step: int) -> float:
        return cosine(step, self.steps, *self.settings.momentum)

    def step(self, batch: Batch) -> StepResult:
        query_view, key_view = batch.views
        with batch.precision():
            features = self.encoder(query_view)
            query = self.projector(features)
            with torch.no_grad():
                key = self.key_projector(self.key_encoder(key_view))
        query, key = functional.normalize(query.float(), dim=1), functional.normalize(key.float(), dim=1)
        same_patient = batch.patients[:, None] == self.queue_patients[None, :]
        loss = info_nce(query, key, self.queue, same_patient, self.settings.temperature)
        diagnostics = {
            "momentum": self.momentum(batch.step),
            "excluded_negatives": same_patient.float().mean(),
            "queue_filled": (self.queue_patients != NOBODY).float().mean(),
        }
        carried = {"keys": key, "patients": batch.patients}
        return StepResult(loss, loss.detach(), features.detach().float(), carried, diagnostics)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, patients: Tensor) -> None:
        size = len(self.queue)
        keys, patients = keys[-size:], patients[-size:]
        slots = (self.oldest + torch.arange(len(keys), device=keys.device)) % size
        self.queue[slots] = keys
        self.queue_patients[slots] = patients
        self.oldest.copy_((self.oldest + len(keys)) % size)

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        self._enqueue(carried["keys"], carried["patients"])
        follow(self.key_encoder, self.encoder, self.momentum(step))
        follow(self.key_projector, self.projector, self.momentum(step))
