"""Exams that two pretraining cohorts hold are found, and a study's manifest stays as it is."""

import numpy as np
import pandas as pd
import pytest

from neurorad.cohorts import doubles
from neurorad.cohorts.crosswalks import Crosswalk
from neurorad.cohorts.doubles import double_scans
from neurorad.cohorts.identity import ALIKE
from neurorad.likeness import residuals

from .test_identity import again, brain, run, scans

PEOPLE = [
    *(("gli", f"BraTS-GLI-0000{i}", f"g{i}", f"a{i}") for i in range(5)),
    *(("mu", f"M{i}", f"m{i}", f"b{i}") for i in range(5)),
]
PLANTED = {("g1", "m3"), ("g4", "m0")}


@pytest.fixture
def study():
    """Two of five exams of MU are in GLI as well, under other ids; one of GLI's has a near copy within GLI."""
    table = scans(*PEOPLE, ("gli", "BraTS-GLI-00009", "g9", "a9"))
    pictures = [brain(i) for i in range(10)]
    pictures[5 + 3], pictures[5 + 0] = again(pictures[1], 1), again(pictures[4], 2)
    return table.assign(person=table["cohort"] + table["patient"]), np.stack([*pictures, again(pictures[2], 3)])


@pytest.mark.parametrize("block", [3, 512])
def test_planted_pairs_are_found_whatever_the_blocks_and_those_of_one_cohort_are_not(study, monkeypatch, block):
    table, pictures = study
    monkeypatch.setattr(doubles, "BLOCK", block)
    found = double_scans(table, pictures, ALIKE)
    assert set(zip(found["scan"], found["other_scan"], strict=True)) == PLANTED
    assert set(found["cohort"]) == {"gli"} and set(found["other_cohort"]) == {"mu"}
    own = residuals(pictures, pictures.mean(axis=0, dtype=np.float32))
    place = {scan: i for i, scan in enumerate(table["scan"])}
    for row in found.itertuples():
        assert row.likeness == pytest.approx(own[place[row.scan]] @ own[place[row.other_scan]], abs=2e-3)
    assert not found["same_voxels"].any() and not found["same_patient"].any()


def test_the_order_of_the_scans_changes_nothing(study):
    table, pictures = study
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = double_scans(table.iloc[order].reset_index(drop=True), pictures[order], ALIKE)
    pd.testing.assert_frame_equal(shuffled, double_scans(table, pictures, ALIKE), atol=1e-3)


def test_equal_voxels_need_no_pictures_and_a_linked_pair_says_so():
    table = scans(("gli", "A", "g", "x"), ("mu", "B", "m", "x"), ("mu", "B", "m-later", "x"), ("mu", "C", "n", "y"))
    found = double_scans(table.assign(person=["p", "p", "p", "q"]), None, ALIKE)
    assert found[["scan", "other_scan"]].to_numpy().tolist() == [["g", "m"], ["g", "m-later"]]
    assert found["same_voxels"].all() and found["same_patient"].all()
    assert found["likeness"].isna().all()


def test_the_audit_lists_them_counts_them_and_leaves_the_manifest(study):
    table, pictures = study
    table = pd.concat([table.drop(columns="person"), scans(("ucsf", "U1", "u", "z"))], ignore_index=True)
    pictures = np.concatenate([pictures, [brain(77)]])
    links = [Crosswalk((("brats-gli/00001", "mu/M3"),), ("brats-gli-pre", "ucsf-pdgm"))]
    manifest, removed, _, report = run(table, crosswalks=links, thumbnails=pictures)
    assert len(manifest) == 11 and removed.empty
    assert report["scans"]["counted_twice"] == 2
    told = {tuple(entry["scans"]): entry for entry in report["double_scans"]}
    assert set(told) == {("gli g1", "mu m3"), ("gli g4", "mu m0")}
    assert told["gli g1", "mu m3"]["ids"] == "one patient"
    assert told["gli g4", "mu m0"]["ids"] == "not linked"
    assert told["gli g4", "mu m0"]["why"].startswith("looks the same (correlation 0.")
    # What is left out because of a test patient is counted nowhere.
    again_removed = [Crosswalk((("brats-gli/00004", "ucsf/U1"),), ("brats-gli-pre", "ucsf-pdgm"))]
    report = run(table, crosswalks=again_removed, thumbnails=pictures)[3]
    assert [entry["scans"] for entry in report["double_scans"]] == [["gli g1", "mu m3"]]


def test_a_study_with_nothing_to_pretrain_on_has_no_pair():
    assert double_scans(scans().assign(person=""), np.zeros((0, 4, 2, 2, 2)), ALIKE).empty
