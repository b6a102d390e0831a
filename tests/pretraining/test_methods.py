"""The four losses against formulas written out sample by sample, and what each method does with gradients and state."""

import math

import numpy as np
import pytest
import torch

from neurorad.encoder import Architecture, initialised
from neurorad.pretraining.byol import Byol, ByolSettings, byol_loss
from neurorad.pretraining.dino import Dino, DinoHead, DinoSettings, dino_loss
from neurorad.pretraining.geometry import Crop
from neurorad.pretraining.mae import Mae, MaeSettings, block_masks, block_normalised, grow, mae_loss
from neurorad.pretraining.mae_feature import FeatureMae
from neurorad.pretraining.moco import NOBODY, Moco, MocoSettings, info_nce, no_negatives
from neurorad.pretraining.moco_v3 import MocoV3, batch_info_nce
from neurorad.pretraining.step import Batch
from neurorad.problems import InputError

TINY = Architecture("resnet10", width=4, stem_stride=2, stem_pool=False, norm="batch")
CROP = Crop(16, (0.5, 1.0))
STEPS = 10


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moco_settings(**changes) -> MocoSettings:
    values = {"crop": CROP, "version": 2, "hidden": 16, "output": 8, "queue": 4096, "negatives": "all"}
    return MocoSettings(**{**values, "temperature": 0.2, "momentum": (0.9, 1.0), **changes})


def make(name: str, scans: int = 20):
    encoder = initialised(TINY, 0)
    torch.manual_seed(0)
    match name:
        case "byol":
            return Byol(encoder, ByolSettings(CROP, 16, 8, (0.9, 1.0)), STEPS, 4)
        case "moco":
            return Moco(encoder, moco_settings(), STEPS, scans)
        case "dino":
            return Dino(
                encoder,
                DinoSettings(CROP, Crop(8, (0.2, 0.5)), 2, 16, 8, 12, 0.1, (0.02, 0.04), 0.5, 0.9, 0.1, (0.9, 1.0)),
                STEPS,
            )
        case "moco_v3":
            return MocoV3(encoder, moco_settings(version=3), STEPS, 4)
        case "mae_feature":
            return FeatureMae(encoder, MaeSettings(CROP, "voxel_feature", 1, 0.75, 1.0, 4))
        case _:
            return Mae(encoder, MaeSettings(CROP, "dense", 4, 0.6, 0.5, 4))


def batch_for(method, step: int = 0, size: int = 4) -> Batch:
    views = [draw(100 * step + i, size, 4, crop.size, crop.size, crop.size) for i, crop in enumerate(method.crops)]
    return Batch(views, torch.arange(size), list(range(size)), step, torch.arange(size) % 2)


def test_byol_loss_is_the_squared_distance_of_unit_vectors():
    prediction, target = draw(0, 5, 7), draw(1, 5, 7)
    p, t = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (prediction, target))
    np.testing.assert_allclose(byol_loss(prediction, target), ((p - t) ** 2).sum(1), atol=1e-6)


def test_info_nce_is_cross_entropy_without_the_excluded_keys():
    query, key, queue = (torch.nn.functional.normalize(draw(i, n, 6), dim=1) for i, n in enumerate((3, 3, 5)))
    excluded = torch.zeros(3, 5, dtype=torch.bool)
    excluded[1, 2] = excluded[2, :] = True
    found = info_nce(query, key, queue, excluded, 0.2)
    for i in range(3):
        own = math.exp(float(query[i] @ key[i]) / 0.2)
        others = sum(math.exp(float(query[i] @ queue[k]) / 0.2) for k in range(5) if not excluded[i, k])
        assert float(found[i]) == pytest.approx(-math.log(own / (own + others)), abs=1e-6)
    assert float(found[2]) == pytest.approx(0, abs=1e-6)


def test_dino_loss_is_the_mean_cross_entropy_over_pairs_of_different_crops():
    students = [torch.log_softmax(draw(i, 3, 6), dim=1) for i in range(4)]
    teachers = [torch.softmax(3 * draw(10 + i, 3, 6), dim=1) for i in range(2)]
    loss, divergence = dino_loss(students, teachers)
    for sample in range(3):
        crossing, kl = [], []
        for t in range(2):
            for s in range(4):
                if s != t:
                    p, log_q = teachers[t][sample].double(), students[s][sample].double()
                    crossing.append(-float((p * log_q).sum()))
                    kl.append(float((p * (p.log() - log_q)).sum()))
        assert len(crossing) == 6
        assert float(loss[sample]) == pytest.approx(np.mean(crossing), abs=1e-6)
        assert float(divergence[sample]) == pytest.approx(np.mean(kl), abs=1e-6)


def test_dino_of_even_distributions_is_the_log_of_the_prototypes():
    even = torch.full((2, 9), 1 / 9)
    loss, divergence = dino_loss([even.log()] * 3, [even] * 2)
    torch.testing.assert_close(loss, torch.full((2,), math.log(9)))
    torch.testing.assert_close(divergence, torch.zeros(2), atol=1e-6, rtol=0)


def test_dino_head_scores_are_cosines_and_frozen_prototypes_learn_nothing():
    head = DinoHead(6, 8, 4, 10)
    scores = head(draw(0, 5, 6))
    assert scores.abs().max() <= 1 + 1e-6
    head(draw(0, 5, 6), frozen=True).sum().backward()
    assert head.prototypes.grad is None
    assert head.layers[0].weight.grad is not None


def test_mae_loss_by_loops_over_hidden_brain_voxels():
    volumes = draw(0, 2, 2, 4, 4, 4)
    volumes[:, :, 0] = 0
    volumes[1, 1] = 0
    painted = draw(1, 2, 2, 4, 4, 4)
    hidden = grow(torch.rand(2, 2, 2, 2, 2, generator=torch.Generator().manual_seed(3)) < 0.6, 2)
    found = mae_loss(painted, volumes, hidden, 2)
    for sample in range(2):
        squares = []
        for channel in range(2):
            if not (volumes[sample, channel] != 0).any():
                continue
            for corner in np.ndindex(2, 2, 2):
                block = tuple(slice(2 * c, 2 * c + 2) for c in corner)
                brain = (volumes[sample] != 0).any(dim=0)[block]
                values = volumes[sample, channel][block][brain]
                if not len(values):
                    continue
                target = (values - values.mean()) / (values.var(correction=1) + 1e-6).sqrt()
                wanted = hidden[sample, channel][block][brain]
                squares += ((painted[sample, channel][block][brain] - target)[wanted] ** 2).tolist()
        assert float(found[sample]) == pytest.approx(np.mean(squares), abs=1e-5)


def test_mae_loss_ignores_visible_and_background_voxels_and_brightness():
    volumes = draw(0, 1, 4, 8, 8, 8)
    volumes[..., :2] = 0
    hidden = grow(torch.rand(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5, 4)
    painted = draw(1, 1, 4, 8, 8, 8)
    loss = mae_loss(painted, volumes, hidden, 4)
    other = torch.where(hidden & (volumes != 0), painted, 1e3)
    torch.testing.assert_close(mae_loss(other, volumes, hidden, 4), loss)
    torch.testing.assert_close(mae_loss(painted, torch.where(volumes != 0, 5 * volumes + 2, 0), hidden, 4), loss)
    assert float(mae_loss(painted, torch.zeros_like(volumes), hidden, 4)) == 0


def test_blocks_are_normalised_to_mean_zero_and_variance_one():
    volumes = 3 + 2 * draw(0, 1, 1, 8, 8, 8)
    blocks = block_normalised(volumes, torch.ones_like(volumes, dtype=torch.bool), 4)[0, 0, :4, 4:, :4]
    assert float(blocks.mean()) == pytest.approx(0, abs=1e-5)
    assert float(blocks.var(correction=1)) == pytest.approx(1, abs=1e-4)


def test_masks_hide_the_asked_share_and_follow_their_own_seed():
    masks = block_masks([1, 2, 3], 4, 4, 0.6, tube=1.0)
    assert (masks.flatten(2).sum(dim=2) == round(0.6 * 64)).all()
    assert (masks == masks[:, :1]).all()
    assert torch.equal(block_masks([2], 4, 4, 0.6, tube=1.0)[0], masks[1])
    assert not torch.equal(masks[0], masks[1])
    mixed = block_masks([1, 2, 3], 4, 4, 0.6, tube=0.0).flatten(2).sum(dim=2)
    assert (mixed.sort(dim=1).values == torch.tensor([38, 38, 38, 64])).all()


@pytest.mark.parametrize("name", ["byol", "dino", "mae", "mae_feature", "moco", "moco_v3"])
def test_a_step_returns_one_loss_a_sample_and_teaches_the_trained_network(name):
    method = make(name).train()
    result = method.step(batch_for(method, step=5))
    assert result.loss.shape == result.signal.shape == (4,)
    assert result.loss.dtype == torch.float32
    assert torch.isfinite(result.loss).all()
    assert not result.signal.requires_grad
    assert result.features.shape == (4, method.encoder.dimension)
    result.loss.mean().backward()
    missing = [key for key, value in method.named_parameters() if value.requires_grad and value.grad is None]
    assert missing == []
    before = method.exported.network.conv1.weight.detach().clone()
    with torch.no_grad():
        method.encoder.network.conv1.weight += 1
    method.after_step(5, result.carried)
    moved = float((method.exported.network.conv1.weight - before).detach().mean())
    # DINO exports the teacher, which follows; the others export the network that learns.
    assert moved == pytest.approx(1 - method.momentum(5) if name == "dino" else 1, abs=1e-4)


def test_dino_freezes_prototypes_first_and_warms_the_teacher_up():
    method = make("dino")
    result = method.step(batch_for(method, 0))
    result.loss.mean().backward()
    assert method.head.prototypes.grad is None
    method.after_step(0, result.carried)
    assert [method.teacher_temperature(step) for step in (0, 5, 9)] == pytest.approx([0.02, 0.04, 0.04])
    assert method.centre.abs().sum() > 0


def test_the_centre_of_dino_is_the_mean_of_the_first_steps_and_a_moving_average_after():
    method = make("dino")
    seen, expected = [], None
    for step in range(14):
        seen.append(method.step(batch_for(method, step)).carried["teacher_scores"].mean(dim=0))
        expected = torch.stack(seen).mean(dim=0) if step < 10 else 0.9 * expected + 0.1 * seen[-1]
        method.after_step(step, {"teacher_scores": seen[-1][None]})
        torch.testing.assert_close(method.centre, expected)


def test_the_teacher_of_dino_is_not_one_prototype_for_all_once_it_has_seen_a_batch():
    """Scores of a network that has learned nothing are nearly equal for all scans: uncentred, all have the same best prototype."""
    method = make("dino")

    def best(step: int) -> int:
        batch = batch_for(method, step, 16)
        scores = method.teacher_head(method.teacher_encoder(batch.views[0])) - method.centre
        return len(scores.argmax(dim=1).unique())

    before = best(50)
    method.after_step(0, method.step(batch_for(method, 0, 16)).carried)
    assert before <= 2 < best(50)


def test_moco_queue_is_half_the_data_at_most_and_turns_round():
    method = make("moco", scans=13)
    assert len(method.queue) == 6
    assert (method.queue_patients == NOBODY).all()
    method.after_step(0, method.step(batch_for(method, 0)).carried)
    assert method.queue_patients.tolist() == [0, 1, 2, 3, NOBODY, NOBODY]
    method.after_step(1, method.step(batch_for(method, 1)).carried)
    assert method.queue_patients.tolist() == [2, 3, 2, 3, 0, 1]
    tiny = make("moco", scans=4)
    tiny.after_step(0, tiny.step(batch_for(tiny)).carried)
    assert tiny.queue_patients.tolist() == [2, 3]


def test_moco_excludes_keys_of_the_same_patient():
    method = make("moco")
    method.after_step(0, method.step(batch_for(method, 0)).carried)
    excluded = method.step(batch_for(method, 1)).diagnostics["excluded_negatives"]
    assert float(excluded) == pytest.approx(4 / (4 * 10))


def test_moco_takes_negatives_of_the_own_group_if_asked():
    """Random initial keys stay everyone's negatives."""
    patients, groups = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
    keys = torch.tensor([0, 5, 6, NOBODY]), torch.tensor([0, 0, 1, NOBODY])
    assert no_negatives(patients, groups, *keys, "all").tolist() == [[True, False, False, False]] + [[False] * 4] * 2
    assert no_negatives(patients, groups, *keys, "group").tolist() == [
        [True, False, True, False],
        [True, True, False, False],
        [True, True, False, False],
    ]


def test_a_group_with_one_patient_has_no_negatives_in_its_group_and_trains_on():
    """Its keys are all of the same patient: loss 0 and no gradient, said in the history, never NaN."""
    encoder = initialised(TINY, 0)
    method = Moco(encoder, moco_settings(negatives="group", queue=4), STEPS, 40).train()
    for step in range(3):
        views = [draw(10 * step + i, 4, 4, 16, 16, 16) for i in range(2)]
        batch = Batch(views, torch.tensor([7, 7, 1 + step, 20 + step]), [1, 2, 3, 4], step, torch.tensor([0, 0, 1, 1]))
        result = method.step(batch)
        result.loss.mean().backward()
        method.after_step(step, result.carried)
    assert result.loss[:2].tolist() == [0, 0]
    assert (result.loss[2:] > 0).all()
    assert float(result.diagnostics["without_negatives"]) == 0.5
    assert float(result.diagnostics["own_group_negatives"]) == 1.0
    assert all(torch.isfinite(value.grad).all() for value in method.parameters() if value.grad is not None)


def test_moco_v3_by_loops_over_the_batch_in_both_directions():
    query, keys = (torch.nn.functional.normalize(draw(i, 4, 6), dim=1) for i in range(2))
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 3] = excluded[3, 0] = True
    found = batch_info_nce(query, keys, torch.arange(len(query)), excluded, 0.5)
    for i in range(4):
        scores = [math.exp(float(query[i] @ keys[k]) / 0.5) for k in range(4) if not excluded[i, k]]
        own = math.exp(float(query[i] @ keys[i]) / 0.5)
        assert float(found[i]) == pytest.approx(-2 * 0.5 * math.log(own / sum(scores)), abs=1e-6)


def test_moco_v3_masks_other_scans_of_the_same_patient_and_never_the_positive():
    method = make("moco_v3").train()
    batch = batch_for(method)
    twins = Batch(batch.views, torch.tensor([0, 0, 1, 2]), batch.seeds, 0, batch.groups)
    assert float(method.step(batch).diagnostics["excluded_negatives"]) == 0
    assert float(method.step(twins).diagnostics["excluded_negatives"]) == pytest.approx(2 / 16)
    alone = Batch([view[:1] for view in batch.views], torch.tensor([0]), [1], 0, torch.tensor([0]))
    result = method.eval().step(alone)
    assert result.loss.tolist() == [0]
    assert float(result.diagnostics["without_negatives"]) == 1


def test_momentum_networks_follow_buffers_too():
    """The batch norm of the key network ends with the statistics of the network that learns."""
    method = make("moco_v3").train()
    result = method.step(batch_for(method))
    method.after_step(0, result.carried)
    online, moving = method.encoder.network.bn1, method.target_encoder.network.bn1
    torch.testing.assert_close(moving.running_mean, online.running_mean)
    assert moving.num_batches_tracked == online.num_batches_tracked == 2


def test_queue_of_a_study_smaller_than_itself():
    assert len(make("moco", scans=1).queue) == 1
    with pytest.raises(InputError, match="queue 0 must be at least 1"):
        moco_settings(queue=0)


def test_feature_mae_hides_voxels_and_predicts_the_whole():
    method = make("mae_feature").train()
    result = method.step(batch_for(method))
    assert float(result.diagnostics["hidden"]) == pytest.approx(0.75, abs=1e-3)
    result.loss.mean().backward()
    assert method.predictor[0].weight.grad.abs().sum() > 0


def test_crop_must_fit_blocks_and_stride():
    with pytest.raises(InputError, match=r"mae\.block"):
        MaeSettings(CROP, "dense", 5, 0.6, 0.5, 4)
    with pytest.raises(InputError, match="stride 16"):
        Mae(initialised(TINY, 0), MaeSettings(Crop(24, (0.5, 1.0)), "dense", 4, 0.6, 0.5, 4))
