"""MoCo v2: tell a scan's momentum key from a queue of others (He et al. 2020, Chen et al. 2020, arXiv 2003.04297)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.siamese import Siamese
from neurorad.pretraining.step import Batch, StepResult
from neurorad.problems import InputError

NOBODY = -1
"""Patient and group of a queue slot that holds a random initial key."""

VERSIONS, NEGATIVES = (2, 3), ("all", "group")


@dataclass(frozen=True)
class MocoSettings:
    """`version`: 2 (queue) or 3 (`moco_v3.py`: predictor, negatives from the batch). `queue`: keys of version 2, before
    the cap at half the training set. `negatives`: `all`, or `group`, of the own group only, as negatives from another
    site teach the site. `momentum`: at the first and the last step."""

    crop: Crop
    version: int
    hidden: int
    output: int
    queue: int
    negatives: str
    temperature: float
    momentum: tuple[float, float]

    def __post_init__(self) -> None:
        if self.version not in VERSIONS or self.negatives not in NEGATIVES:
            raise InputError(
                f"moco.version is {self.version!r}, not one of 2, 3, or moco.negatives is {self.negatives!r}, "
                "not one of all, group"
            )
        if self.queue < 1 or self.temperature <= 0:
            raise InputError(
                f"moco.queue {self.queue} must be at least 1 and moco.temperature {self.temperature} positive"
            )


def no_negatives(patients: Tensor, groups: Tensor, key_patients: Tensor, key_groups: Tensor, negatives: str) -> Tensor:
    """`[B, K]` bool, from `[B]` and `[K]` codes: keys of the same patient, and with `group` those of other groups."""
    excluded = patients[:, None] == key_patients[None, :]
    if negatives == "group":
        # Random initial keys belong to nobody and are everyone's negatives until the queue is full.
        excluded = excluded | ((groups[:, None] != key_groups[None, :]) & (key_groups != NOBODY)[None, :])
    return excluded


def info_nce(query: Tensor, key: Tensor, queue: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """`[B, k], [B, k], [K, k], [B, K] -> [B]`: cross-entropy of the own key against the queue (equation 1 of MoCo).

    All rows have unit length. Pairs marked in `excluded` are no negatives; a sample without any has loss 0.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    negative = (query @ queue.T).masked_fill(excluded, -torch.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


class Moco(Siamese):
    """The first view is the query, the second the key of the momentum network."""

    def __init__(self, encoder: Encoder, settings: MocoSettings, steps: int, scans: int) -> None:
        projector = nn.Sequential(
            nn.Linear(encoder.dimension, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.output)
        )
        super().__init__(encoder, projector, settings.crop, steps, settings.momentum)
        self.settings = settings
        # A longer queue would hold several stale keys of each scan: false negatives.
        size = max(1, min(settings.queue, scans // 2))
        self.queue: Tensor
        self.queue_patients: Tensor
        self.queue_groups: Tensor
        self.oldest: Tensor
        self.register_buffer("queue", functional.normalize(torch.randn(size, settings.output), dim=1))
        self.register_buffer("queue_patients", torch.full((size,), NOBODY))
        self.register_buffer("queue_groups", torch.full((size,), NOBODY))
        self.register_buffer("oldest", torch.tensor(0))

    def step(self, batch: Batch) -> StepResult:
        """Loss: the own key against the queue's."""
        query_view, key_view = batch.views
        with batch.precision():
            features = self.encoder(query_view)
            query = self.projector(features)
            (key,) = self.targets([key_view])
        query, key = functional.normalize(query.float(), dim=1), functional.normalize(key.float(), dim=1)
        keys = self.queue_patients, self.queue_groups
        excluded = no_negatives(batch.patients, batch.groups, *keys, self.settings.negatives)
        own_group = (batch.groups[:, None] == self.queue_groups[None, :]) & ~excluded
        loss = info_nce(query, key, self.queue, excluded, self.settings.temperature)
        diagnostics: dict[str, float | Tensor] = {
            "momentum": self.momentum(batch.step),
            "excluded_negatives": excluded.float().mean(),
            "own_group_negatives": own_group.sum() / (~excluded).sum().clamp_min(1),
            "without_negatives": excluded.all(dim=1).float().mean(),
            "queue_filled": (self.queue_patients != NOBODY).float().mean(),
        }
        carried = {"keys": key, "patients": batch.patients, "groups": batch.groups}
        return StepResult(loss, loss.detach(), features.detach().float(), carried, diagnostics)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, patients: Tensor, groups: Tensor) -> None:
        size = len(self.queue)
        keys, patients, groups = keys[-size:], patients[-size:], groups[-size:]
        slots = (self.oldest + torch.arange(len(keys), device=keys.device)) % size
        self.queue[slots] = keys
        self.queue_patients[slots] = patients
        self.queue_groups[slots] = groups
        self.oldest.copy_((self.oldest + len(keys)) % size)

    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        """The keys enter the queue; the momentum network follows."""
        self._enqueue(carried["keys"], carried["patients"], carried["groups"])
        super().after_step(step, carried)
