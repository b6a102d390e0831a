"""The sampler's shares, patients and its dependence on seed and step alone."""

from collections import Counter

import pytest
from scipy.stats import chisquare

from neurorad.pretraining.sampler import BalancedSampler, make_sampler
from neurorad.problems import InputError

GROUPS = [0] * 40 + [1] * 12 + [2] * 6
PATIENTS = [f"a{i}" for i in range(40)] + [f"b{i // 2}" for i in range(12)] + [f"c{i}" for i in range(6)]


def test_every_batch_holds_every_group_equally_and_no_patient_twice():
    sampler = BalancedSampler(GROUPS, PATIENTS, 9, seed=0)
    for step in range(200):
        batch = sampler.batch(step)
        assert Counter(GROUPS[scan] for scan in batch) == {0: 3, 1: 3, 2: 3}
        assert len({PATIENTS[scan] for scan in batch}) == 9


def test_shares_of_groups_patients_and_scans():
    sampler = BalancedSampler(GROUPS, PATIENTS, 7, seed=1)
    draws = [scan for step in range(600) for scan in sampler.batch(step)]
    groups = Counter(GROUPS[scan] for scan in draws)
    assert max(groups.values()) - min(groups.values()) <= 1
    for group in range(3):
        counts = Counter(PATIENTS[scan] for scan in draws if GROUPS[scan] == group)
        assert chisquare(list(counts.values())).pvalue > 0.5
    scans = Counter(scan for scan in draws if GROUPS[scan] == 1)
    assert len(scans) == 12
    assert max(scans.values()) - min(scans.values()) <= 10


def test_a_batch_depends_on_seed_and_step_alone():
    late = BalancedSampler(GROUPS, PATIENTS, 9, seed=0).batch(123)
    sampler = BalancedSampler(GROUPS, PATIENTS, 9, seed=0)
    for step in range(123):
        sampler.batch(step)
    assert sampler.batch(123) == late
    assert BalancedSampler(GROUPS, PATIENTS, 9, seed=1).batch(123) != late


def test_fewer_places_than_groups_still_visits_all_groups():
    sampler = BalancedSampler(list(range(5)), list("abcde"), 2, seed=0)
    assert Counter(scan for step in range(10) for scan in sampler.batch(step)) == dict.fromkeys(range(5), 4)


def test_a_group_with_one_patient_repeats_the_patient_with_other_scans():
    sampler = BalancedSampler([0, 0, 0, 1, 1, 1], ["a", "b", "c", "z", "z", "z"], 6, seed=0)
    for step in range(20):
        batch = sampler.batch(step)
        assert sorted(batch) == [0, 1, 2, 3, 4, 5]


def test_one_group():
    assert sorted(BalancedSampler([0, 0, 0], ["a", "b", "c"], 3, seed=0).batch(5)) == [0, 1, 2]


def test_natural_sampling_visits_every_scan_once_a_pass():
    sampler = make_sampler("natural", "base", GROUPS, PATIENTS, 29, seed=0)
    assert sorted(sampler.batch(4) + sampler.batch(5)) == list(range(58))


def sampler_of(sampling: str, objective: str, **options: bool) -> str:
    return type(make_sampler(sampling, objective, GROUPS, PATIENTS, 9, seed=0, **options)).__name__


def test_which_objectives_share_a_sampler():
    natural, balanced = "NaturalSampler", "BalancedSampler"
    assert {sampler_of("balanced", name) for name in ("base", "dro", "excess", "worst")} == {balanced}
    by_objective = [sampler_of("by_objective", name) for name in ("base", "balanced", "dro", "excess", "worst")]
    assert by_objective == [natural] + [balanced] * 4
    assert [sampler_of("natural", name) for name in ("base", "worst", "balanced")] == [natural, natural, balanced]
    assert sampler_of("natural", "dro", allow_natural=True) == natural


def test_group_dro_with_natural_sampling_is_refused_with_the_reason():
    for objective in ("dro", "excess"):
        with pytest.raises(
            InputError, match=f"objective is {objective}: weights would follow how often a group appears"
        ):
            sampler_of("natural", objective)


def test_a_second_run_of_the_same_thing_is_refused():
    with pytest.raises(InputError, match="balanced would be base once more.*by_objective"):
        sampler_of("balanced", "balanced")
