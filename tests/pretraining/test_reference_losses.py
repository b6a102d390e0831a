"""The mean of our losses of the samples is the authors' loss of the batch, on fixed tensors, to 1e-6.

The authors' formulas are written out here as their papers' code has them, independently of ours; lightly (MIT), where it
is installed (`pip install neurorad[reference]`), is a second opinion.
"""

import math

import pytest
import torch
from torch.nn import functional

from neurorad.pretraining.byol import byol_loss
from neurorad.pretraining.dino import dino_loss
from neurorad.pretraining.mae import grow, mae_loss
from neurorad.pretraining.mae_feature import feature_loss
from neurorad.pretraining.moco import info_nce
from neurorad.pretraining.moco_v3 import batch_info_nce

SAME = {"abs": 1e-6, "rel": 1e-6}


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(seed: int, *shape: int) -> torch.Tensor:
    return functional.normalize(draw(seed, *shape), dim=1)


def byol_inputs() -> list[torch.Tensor]:
    """Predictions of both views, projections of both targets."""
    return [draw(seed, 6, 16) for seed in range(4)]


def ours_byol() -> float:
    first, second, target_first, target_second = byol_inputs()
    return float((byol_loss(first, target_second) + byol_loss(second, target_first)).mean())


def test_byol():
    """`regression_loss` of deepmind-research/byol: the sum of squares of the difference of unit vectors, both ways."""
    first, second, target_first, target_second = (x / x.square().sum(dim=1, keepdim=True).sqrt() for x in byol_inputs())
    theirs = (first - target_second).square().sum(dim=1) + (second - target_first).square().sum(dim=1)
    assert ours_byol() == pytest.approx(float(theirs.mean()), **SAME)


def dino_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of 2 + 3 student crops and 2 teacher crops `[crops, B, K]`, and the centre `[K]`."""
    return draw(0, 5, 4, 12), draw(1, 2, 4, 12), 0.3 * draw(2, 12)


def ours_dino() -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher, centre = dino_inputs()
    students = list(functional.log_softmax(student / 0.1, dim=2))
    return dino_loss(students, list(functional.softmax((teacher - centre) / 0.04, dim=2)))


def test_dino():
    """`DINOLoss` of facebookresearch/dino: all pairs of a teacher and another student crop."""
    student, teacher, centre = dino_inputs()
    total, terms = 0.0, 0
    for i, q in enumerate(functional.softmax((teacher - centre) / 0.04, dim=-1)):
        for v in range(len(student)):
            if v == i:
                continue
            total += torch.sum(-q * functional.log_softmax(student[v] / 0.1, dim=-1), dim=-1).mean()
            terms += 1
    loss, divergence = ours_dino()
    assert float(loss.mean()) == pytest.approx(float(total / terms), **SAME)
    kl = functional.kl_div(
        functional.log_softmax(student[1] / 0.1, dim=1),
        functional.softmax((teacher[0] - centre) / 0.04, dim=1),
        reduction="none",
    ).sum(dim=1)
    pair = dino_loss(
        [functional.log_softmax(student[v] / 0.1, dim=1) for v in (0, 1)],
        [functional.softmax((teacher[0] - centre) / 0.04, dim=1)],
    )[1]
    torch.testing.assert_close(pair, kl, atol=1e-5, rtol=1e-5)
    assert (divergence >= -1e-6).all()


def test_moco_v2():
    """The forward pass of facebookresearch/moco: cross-entropy of [l_pos, l_neg] / T with the label 0."""
    query, key, queue = unit(0, 5, 8), unit(1, 5, 8), unit(2, 11, 8)
    positive = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
    logits = torch.cat([positive, torch.einsum("nc,ck->nk", query, queue.T)], dim=1) / 0.2
    theirs = functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    ours = info_nce(query, key, queue, torch.zeros(5, 11, dtype=torch.bool), 0.2)
    assert float(ours.mean()) == pytest.approx(float(theirs), **SAME)


def test_moco_v3():
    """`contrastive_loss` of facebookresearch/moco-v3: cross-entropy of q k^T / T with the diagonal, times 2 T."""
    query, keys = unit(0, 6, 8), unit(1, 6, 8)
    theirs = functional.cross_entropy(torch.einsum("nc,mc->nm", query, keys) / 0.3, torch.arange(6)) * (2 * 0.3)
    ours = batch_info_nce(query, keys, torch.arange(6), torch.zeros(6, 6, dtype=torch.bool), 0.3)
    assert float(ours.mean()) == pytest.approx(float(theirs), **SAME)


def patches(volumes: torch.Tensor, block: int) -> torch.Tensor:
    """`[B, 1, s, s, s] -> [B, L, block^3]`."""
    return (
        volumes.unfold(2, block, block)
        .unfold(3, block, block)
        .unfold(4, block, block)
        .reshape(len(volumes), -1, block**3)
    )


def mae_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Painted, volumes `[3, 1, 8, 8, 8]` (brain everywhere), and hidden blocks `[3, 1, 2, 2, 2]`, 5 in each sample."""
    order = torch.rand(3, 8, generator=torch.Generator().manual_seed(7)).argsort(dim=1)
    return draw(0, 3, 1, 8, 8, 8), 2 + draw(1, 3, 1, 8, 8, 8), (order < 5).view(3, 1, 2, 2, 2)


def ours_mae() -> float:
    painted, volumes, hidden = mae_inputs()
    return float(mae_loss(painted, volumes, grow(hidden, 4), 4).mean())


def test_mae():
    """`forward_loss` of facebookresearch/mae with norm_pix_loss: the mean over hidden patches of the batch."""
    painted, volumes, hidden = mae_inputs()
    target = patches(volumes, 4)
    target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1.0e-6) ** 0.5
    loss = ((patches(painted, 4) - target) ** 2).mean(dim=-1)
    mask = hidden.flatten(1).float()
    assert ours_mae() == pytest.approx(float((loss * mask).sum() / mask.sum()), **SAME)


def test_feature_mae():
    predicted, target = draw(0, 4, 10), draw(1, 4, 10)
    theirs = functional.mse_loss(predicted, target)
    assert float(feature_loss(predicted, target).mean()) == pytest.approx(float(theirs), **SAME)


def test_even_scores_are_the_log_of_the_number_of_choices():
    """No negatives told apart: MoCo's loss is ln(1 + K), v3's 2 T ln B."""
    same, queue = unit(0, 1, 8).expand(4, 8), unit(0, 1, 8).expand(9, 8)
    loss = info_nce(same, same, queue, torch.zeros(4, 9, dtype=torch.bool), 0.2)
    torch.testing.assert_close(loss, torch.full((4,), math.log(10)))
    loss = batch_info_nce(same, same, torch.arange(4), torch.zeros(4, 4, dtype=torch.bool), 0.5)
    torch.testing.assert_close(loss, torch.full((4,), math.log(4)))


@pytest.fixture(scope="module")
def lightly():
    return pytest.importorskip("lightly.loss", reason="optional: pip install neurorad[reference]")


def test_byol_as_lightly(lightly):
    """lightly's loss is minus the cosine of one direction."""
    first, second, target_first, target_second = byol_inputs()
    cosine = lightly.NegativeCosineSimilarity()
    theirs = 4 + 2 * (cosine(first, target_second) + cosine(second, target_first))
    assert ours_byol() == pytest.approx(float(theirs), **SAME)


def test_dino_as_lightly(lightly):
    student, teacher, centre = dino_inputs()
    criterion = lightly.DINOLoss(output_dim=12, warmup_teacher_temp=0.04, teacher_temp=0.04, student_temp=0.1)
    criterion.center = centre.view(1, 1, -1)
    theirs = criterion(list(teacher), list(student), epoch=0)
    assert float(ours_dino()[0].mean()) == pytest.approx(float(theirs), **SAME)


def test_moco_v2_as_lightly(lightly):
    query, key, queue = unit(0, 5, 8), unit(1, 5, 8), unit(2, 11, 8)
    criterion = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(11, 8))
    criterion.memory_bank.bank = queue
    ours = info_nce(query, key, queue, torch.zeros(5, 11, dtype=torch.bool), 0.2)
    assert float(ours.mean()) == pytest.approx(float(criterion(query, key)), **SAME)


def test_mae_as_lightly(lightly):
    from lightly.models.utils import normalize_mean_var

    painted, volumes, hidden = mae_inputs()
    mask = hidden.flatten(1)
    theirs = functional.mse_loss(patches(painted, 4)[mask], normalize_mean_var(patches(volumes, 4))[mask])
    assert ours_mae() == pytest.approx(float(theirs), **SAME)
