"""Group-DRO against closed forms, a naive re-derivation and weights recorded from the published implementations."""

import numpy as np
import pytest
import torch

from neurorad.pretraining.dro import DroSettings, GroupDRO, group_sums, robust_loss
from neurorad.problems import InputError


def settings(**changes: object) -> DroSettings:
    values = {
        "eta": 0.01,
        "floor": 0.0,
        "smoothing": 1.0,
        "adjustment": 0.0,
        "warmup": 0.0,
        "absent": "zero",
        "memory": 1e9,
        "allow_natural": False,
    }
    return DroSettings(**{**values, **changes})


def numbers(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_weights(losses: np.ndarray, groups: np.ndarray, eta: float, adjustment: np.ndarray) -> np.ndarray:
    """Algorithm 1 as a loop: q_g exp(eta l_g) / Z, an absent group counting as loss 0; `[T, B] -> [T, G]`."""
    count = len(adjustment)
    q = np.full(count, 1 / count)
    path = []
    for loss, group in zip(losses, groups, strict=True):
        for g in range(count):
            members = loss[group == g]
            q[g] = q[g] * np.exp(eta * ((members.mean() if len(members) else 0.0) + adjustment[g]))
        q = q / q.sum()
        path.append(q.copy())
    return np.array(path)


def test_constant_losses_give_the_softmax_of_their_sum():
    dro = GroupDRO([1, 1, 1, 1], settings(), 0)
    for _ in range(100):
        weights = dro.update(numbers([1, 2, 0.5, 1.5]), torch.ones(4))
    expected = [0.1674051, 0.4550542, 0.1015363, 0.2760043]
    np.testing.assert_allclose(weights, expected, atol=5e-8)
    np.testing.assert_allclose(weights, torch.softmax(numbers([1, 2, 0.5, 1.5]), 0), atol=1e-13)


PUBLISHED = {
    "natural, C 0": {
        1: [0.250255555, 0.250482172, 0.248344108, 0.25091818],
        100: [0.302827597, 0.259397209, 0.142975941, 0.294799328],
        1000: [0.495090693, 0.192406461, 0.00111049612, 0.311392307],
        2500: [0.747700095, 0.0521171764, 1.74694478e-07, 0.200182617],
        5000: [0.951734424, 0.00414349232, 7.65069499e-14, 0.0441221446],
    },
    "balanced, C 2": {
        1: [0.249257863, 0.250047743, 0.250033498, 0.250660926],
        100: [0.207566679, 0.230968729, 0.274568796, 0.286895782],
        1000: [0.0219347626, 0.073707886, 0.336300492, 0.568056941],
        2500: [0.000220777802, 0.00514590507, 0.203766525, 0.790866852],
        5000: [5.68750416e-08, 3.00323663e-05, 0.0495387241, 0.950431168],
    },
}
"""Weights after so many steps of `recorded_stream`, eta 0.01, of `LossComputer` of kohpangwei/group_DRO (e80fe20), run as it is.
The update of WILDS (0b18b1e) and that of DomainBed, run beside it on the same group losses, gave the same to the last bit."""


def recorded_stream(balanced: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and groups `[5000, 8]`, of a generator whose numbers never change."""
    random = np.random.RandomState(0)
    groups = np.tile(np.arange(8) % 4, (5000, 1))
    if not balanced:
        groups = random.choice(4, size=(5000, 8), p=[0.6, 0.2, 0.05, 0.15])
    losses = (0.5 + random.random_sample((5000, 8)) + 0.1 * groups).astype(np.float32)
    return torch.from_numpy(losses), torch.from_numpy(groups)


@pytest.mark.parametrize(("name", "c", "balanced"), [("natural, C 0", 0.0, False), ("balanced, C 2", 2.0, True)])
def test_weights_are_those_that_the_published_codes_were_recorded_with(name, c, balanced):
    """To the rounding of their float32. An absent group has signal 0 there, and the adjustment as all others."""
    dro = GroupDRO([4447, 1475, 351, 1141], settings(adjustment=c), 0)
    for step, (loss, group) in enumerate(zip(*recorded_stream(balanced), strict=True), 1):
        weights = dro.update(*group_sums(loss, group, 4))
        if step in PUBLISHED[name]:
            np.testing.assert_allclose(weights, PUBLISHED[name][step], rtol=0, atol=2e-6, err_msg=f"step {step}")


def test_natural_sampling_with_equal_losses_gives_the_majority_everything():
    """Why `dro` with natural sampling is refused: shares of the paper's diseases, every loss 1, 20,000 steps."""
    random = np.random.default_rng(0)
    shares = np.array([4447, 1475, 351, 1141]) / 7414
    counts = torch.from_numpy(random.multinomial(8, shares, size=20_000).astype(float))
    dro = GroupDRO([4447, 1475, 351, 1141], settings(), 0)
    for row in counts:
        weights = dro.update(row, row)
    assert float(weights[0]) >= 0.997
    kept = GroupDRO([4447, 1475, 351, 1141], settings(absent="ema"), 0)
    for row in counts[:2000]:
        weights = kept.update(row, row)
    assert float(weights.max()) < 0.3


@pytest.mark.parametrize("c", [0.0, 2.0])
def test_a_long_stream_with_absent_groups_follows_the_naive_algorithm(c):
    random = np.random.default_rng(0)
    groups = random.choice(4, size=(5000, 8), p=[0.6, 0.2, 0.05, 0.15])
    losses = random.gamma(4.0, 0.25, size=(5000, 8)) * (1 + 0.1 * groups)
    patients = [4447, 1475, 351, 1141]
    dro = GroupDRO(patients, settings(adjustment=c), 0)
    path = [
        dro.update(*group_sums(torch.from_numpy(loss), torch.from_numpy(group), 4)).numpy()
        for loss, group in zip(losses, groups, strict=True)
    ]
    expected = naive_weights(losses, groups, 0.01, c / np.sqrt(patients))
    np.testing.assert_allclose(path, expected, atol=1e-10)
    # The reason for the balanced sampler: group 3 has the largest loss, but the most frequent group gets the weight.
    assert path[-1][0] > 0.75


def test_large_losses_do_not_overflow():
    dro = GroupDRO([1, 1], settings(eta=1.0), 0)
    for _ in range(3):
        weights = dro.update(numbers([1e4, 2e4]), torch.ones(2))
    np.testing.assert_allclose(weights, [0, 1])


def test_eta_zero_and_balanced_groups_give_the_gradient_of_the_mean():
    theta = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 1, 2, 0, 1, 2])
    dro = GroupDRO([1, 1, 1], settings(eta=0.0), 0)
    weights = dro.update(*group_sums(theta**2, groups, 3))
    (robust,) = torch.autograd.grad(robust_loss(theta**2, groups, weights), theta)
    (mean,) = torch.autograd.grad((theta**2).mean(), theta)
    torch.testing.assert_close(robust, mean, atol=1e-12, rtol=0)


def test_a_huge_eta_gives_the_worst_group_of_the_batch():
    loss, groups = numbers([1, 3, 2, 2.5]), torch.tensor([0, 0, 1, 1])
    dro = GroupDRO([1, 1], settings(eta=1e6), 0)
    weights = dro.update(*group_sums(loss, groups, 2))
    assert float(robust_loss(loss, groups, weights)) == pytest.approx(2.25)


def test_absent_groups():
    """Group 2 was seen with signal 3, then 1, and is absent in the third step; eta 1, smoothing 0.5, no floor."""
    first, second, third = [1.0, 1.0, 3.0], [1.0, 2.0, 1.0], [0.5, 1.5, np.nan]
    averages = [1.0, 1.5, 2.0], [0.75, 1.5, 2.0]
    before = np.array(first) + averages[0]
    power = {
        "zero": before + [0.75, 1.5, 0.0],
        "last": before + [0.75, 1.5, 1.0],
        "ema": before + [0.75, 1.5, 2.0],
    }
    expected = {name: np.exp(value) / np.exp(value).sum() for name, value in power.items()}
    q = np.exp(before) / np.exp(before).sum()
    raised = q[:2] * np.exp([0.75, 1.5])
    expected["skip"] = np.append(raised / raised.sum() * (1 - q[2]), q[2])
    for absent, weights in expected.items():
        dro = GroupDRO([1, 1, 1], settings(eta=1.0, smoothing=0.5, absent=absent), 0)
        dro.update(numbers(first), torch.ones(3))
        dro.update(numbers(second), torch.ones(3))
        found = dro.update(torch.nan_to_num(numbers(third)), torch.tensor([1, 1, 0]))
        np.testing.assert_allclose(found, weights, atol=1e-12, err_msg=absent)


@pytest.mark.parametrize("absent", ["skip", "last", "ema"])
def test_a_group_never_seen_keeps_its_weight(absent):
    dro = GroupDRO([1, 1, 1], settings(eta=1.0, absent=absent), 0)
    weights = dro.update(numbers([1, 2, 0]), torch.tensor([1, 1, 0]))
    assert float(weights[2]) == pytest.approx(1 / 3, abs=1e-12)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)


def test_adjustment_is_c_over_the_root_of_the_patients():
    dro = GroupDRO([4447, 1475, 351, 1141], settings(adjustment=2.0), 0)
    np.testing.assert_allclose(1 + dro.adjustment, [1.0299914, 1.0520756, 1.1067522, 1.0592089], atol=5e-8)


def test_gradient_is_the_weighted_sum_of_the_groups_gradients():
    groups, weights = torch.tensor([0, 1, 1, 2, 0]), numbers([0.2, 0.5, 0.3])
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: robust_loss(torch.exp(x), groups, weights), (theta,))
    (gradient,) = torch.autograd.grad(robust_loss(torch.exp(theta), groups, weights), theta)
    size = numbers([2, 2, 1])
    torch.testing.assert_close(gradient, (weights / size)[groups] * torch.exp(theta.detach()))


def test_floor_and_warmup():
    dro = GroupDRO([1, 1], settings(eta=100.0, floor=0.1), 2)
    for _ in range(2):
        np.testing.assert_allclose(dro.update(numbers([0, 9]), torch.ones(2)), [0.5, 0.5])
    np.testing.assert_allclose(dro.update(numbers([0, 9]), torch.ones(2)), [0.05, 0.95], atol=1e-12)


def test_the_floor_is_put_under_the_weights_and_not_into_their_memory():
    """Constant losses: (1 - floor) softmax(eta T l) + floor / G after T steps, however many they are."""
    losses, floor = numbers([1, 1, 1, 1.1]), 0.02
    dro = GroupDRO([1, 1, 1, 1], settings(floor=floor), 0)
    for _ in range(5000):
        weights = dro.update(losses, torch.ones(4))
    even = (1 - floor) * torch.softmax(0.01 * 5000 * losses, 0) + floor / 4
    np.testing.assert_allclose(weights, even, atol=1e-12)
    assert float(weights[3]) > 0.96


def test_sums_of_micro_batches_add_up_and_one_group_is_allowed():
    loss, groups = torch.arange(6.0), torch.tensor([0, 1, 0, 1, 1, 1])
    whole = group_sums(loss, groups, 3)
    parts = [group_sums(loss[part], groups[part], 3) for part in (slice(0, 2), slice(2, 6))]
    for total, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(total, first + second)
    dro = GroupDRO([1], settings(), 0)
    np.testing.assert_allclose(dro.update(*group_sums(loss, torch.zeros(6, dtype=torch.long), 1)), [1.0])
    # A batch that holds one of two groups is well defined.
    assert float(robust_loss(loss, torch.zeros(6, dtype=torch.long), numbers([0.5, 0.5]))) == pytest.approx(1.25)


@pytest.mark.parametrize("reference", [None, [0.6, 0.5, 0.4]])
@pytest.mark.parametrize("absent", ["zero", "skip", "last", "ema"])
def test_state_continues_bit_for_bit(absent, reference):
    random = torch.Generator().manual_seed(0)
    stream = torch.rand(20, 3, generator=random, dtype=torch.float64)
    present = (torch.rand(20, 3, generator=random) < 0.6).double()
    changed = settings(smoothing=0.1, floor=0.02, absent=absent, memory=9.0)
    whole, part, resumed = (GroupDRO([3, 4, 5], changed, 2, reference) for _ in range(3))
    for row, counts in zip(stream * present, present, strict=True):
        whole.update(row, counts)
    for row, counts in zip((stream * present)[:7], present[:7], strict=True):
        part.update(row, counts)
    resumed.load_state_dict(part.state_dict())
    for row, counts in zip((stream * present)[7:], present[7:], strict=True):
        resumed.update(row, counts)
    assert torch.equal(whole.weights, resumed.weights)
    assert not torch.equal(whole.weights, part.weights)


@pytest.mark.parametrize(
    "wrong", [{"eta": -1.0}, {"floor": 2.0}, {"smoothing": 0.0}, {"absent": "forget"}, {"memory": 0.5}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=r"dro\."):
        settings(**wrong)
