"""DINO: a student on small crops matches a momentum teacher on large ones (Caron et al. 2021, arXiv 2104.14294)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.step import Batch, Method, StepResult, cosine, follow, momentum_copy


@dataclass(frozen=True)
class DinoSettings:
    """Temperatures of softmax; `teacher_temperature`: at step 0 and after `teacher_warmup` of all steps.

    `frozen_prototypes`: fraction of all steps in which the last layer does not learn.
    """

    global_crop: Crop
    local_crop: Crop
    local_crops: int
    hidden: int
    bottleneck: int
    prototypes: int
    student_temperature: float
    teacher_temperature: tuple[float, float]
    teacher_warmup: float
    centre_momentum: float
    frozen_prototypes: float
    momentum: tuple[float, float]


class DinoHead(nn.Module):
    """MLP, L2-normalised bottleneck, then cosine scores with unit-length prototypes (weight norm with gain 1)."""

    def __init__(self, inputs: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck) / bottleneck**0.5)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """`[B, d] -> [B, K]`, in [-1, 1]. With `frozen` the prototypes receive no gradient."""
        prototypes = self.prototypes.detach() if frozen else self.prototypes
        return functional.normalize(self.layers(features), dim=1) @ functional.normalize(prototypes, dim=1).T


def dino_loss(students: list[Tensor], teachers: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student crops, probabilities of teacher crops, `[B, K]` each -> (cross-entropy, KL), `[B]`.

    The first crops of both are the same global crops, and a crop is not matched with itself. The mean is over pairs.
    KL = cross-entropy - H(teacher): the part of the loss that the student can reduce.
    """
    crossing, divergence = [], []
    for t, teacher in enumerate(teachers):
        entropy = -(teacher * torch.log(teacher.clamp_min(1e-30))).sum(dim=1)
        for s, student in enumerate(students):
            if s != t:
                crossing.append(-(teacher * student).sum(dim=1))
                divergence.append(crossing[-1] - entropy)
    return torch.stack(crossing).mean(dim=0), torch.stack(divergence).mean(dim=0)


class Dino(Method):
    """Views: 2 global and some local crops. Exported: the teacher encoder."""

    intensity = True

    def __init__(self, encoder: Encoder, settings: DinoSettings, steps: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.crops = [settings.global_crop] * 2 + [settings.local_crop] * settings.local_crops
        self.encoder = encoder
        self.head = DinoHead(encoder.dimension, settings.hidden, settings.bottleneck, settings.prototypes)
        self.teacher_encoder = momentum_copy(encoder)
        self.teacher_head = momentum_copy(self.head)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(settings.prototypes))

    @property
    def exported(self) -> Encoder:
        """The teacher."""
        return self.teacher_encoder

    def momentum(self, step: int) -> float:
        """Of the teacher's weights, along half a cosine."""
        return cosine(step, self.steps, *self.settings.momentum)

    def teacher_temperature(self, step: int) -> float:
        """Linear from the first to the second value."""
        start, end = self.settings.teacher_temperature
        progress = min(1.0, step / max(1.0, self.settings.teacher_warmup * self.steps))
        return start + (end - start) * progress

    def step(self, batch: Batch) -> StepResult:
        """Loss: cross-entropy of crops with the teacher's; signal: its part that the student can reduce."""
        frozen = batch.step < self.settings.frozen_prototypes * self.steps
        with batch.precision():
            scores = [self.head(self.encoder(view), frozen) for view in batch.views]
            with torch.no_grad():
                features = [self.teacher_encoder(view) for view in batch.views[:2]]
                teacher_scores = torch.stack([self.teacher_head(feature) for feature in features]).float()
        students = [functional.log_softmax(s.float() / self.settings.student_temperature, dim=1) for s in scores]
        temperature = self.teacher_temperature(batch.step)
        teachers = functional.softmax((teacher_scores - self.centre) / temperature, dim=2)
        loss, divergence = dino_loss(students, list(teachers))
        diagnostics: dict[str, float | Tensor] = {
            "momentum": self.momentum(batch.step),
            "teacher_temperature": temperature,
            "divergence": divergence.detach().mean(),
            "teacher_entropy": (loss - divergence).detach().mean(),
            "uniform_entropy": math.log(self.settings.prototypes),
        }
        carried = {"teacher_scores": teacher_scores.mean(dim=0)}
        return StepResult(loss, divergence.detach(), features[0].float(), carried, diagnostics)

    @torch.no_grad()
    def after_step(self, step: int, carried: Mapping[str, Tensor]) -> None:
        """Centre and teacher follow."""
        # The plain mean of the first steps, then the paper's moving average. From zero it would take about 20 steps to reach
        # the scores that all scans share; until then the teacher is one prototype for all, which the student learns by heart.
        share = max(1 - self.settings.centre_momentum, 1 / (step + 1))
        self.centre.lerp_(carried["teacher_scores"].mean(dim=0), share)
        follow(self.teacher_encoder, self.encoder, self.momentum(step))
        follow(self.teacher_head, self.head, self.momentum(step))
