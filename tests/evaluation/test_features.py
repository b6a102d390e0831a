"""Embeddings are matched to patients by name, and what cannot be trusted is refused by name."""

import numpy as np
import pytest

from neurorad.evaluation.features import Embeddings, feature_columns
from neurorad.problems import InputError


@pytest.fixture(scope="module")
def small(study):
    return study({"a": 12, "b": 10}, mgmt=np.arange(22) % 2)


def features(n: int = 22, d: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d))


def test_features_are_ordered_by_number_and_other_columns_ignored(small):
    table = small.table(features())[["e10", "e2", "encoder", "scan", "e1", "e11", *(f"e{i}" for i in (0, 9, 3))]]
    assert feature_columns(table) == ["e0", "e1", "e2", "e3", "e9", "e10", "e11"]


def test_rows_follow_the_patients_whatever_the_order_of_files_and_rows(small):
    x = features()
    table = small.table(x)
    a, b = (part.sample(frac=1, random_state=3) for _, part in table.groupby("cohort"))
    cell, found, note = Embeddings([b, a], "byol-base-s0").cover(small.cell("mgmt", "combined", repeats=2))
    assert note == "" and len(cell.patients) == 22
    np.testing.assert_array_equal(found, x)


def test_files_of_different_width_are_refused(small):
    narrow = small.table(features(d=3)).query("cohort == 'a'")
    wide = small.table(features(d=4)).query("cohort == 'b'")
    with pytest.raises(InputError, match="the files have 3, 4 features"):
        Embeddings([narrow, wide], "byol-base-s0")


def test_a_file_without_features_is_refused(small):
    with pytest.raises(InputError, match="the files have 0 features"):
        Embeddings([small.analysis], "byol-base-s0")


def test_a_scan_given_twice_is_refused_by_name(small):
    table = small.table(features())
    with pytest.raises(InputError, match="scan a-p000 of a is there twice"):
        Embeddings([table, table.iloc[:1]], "byol-base-s0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(small, value):
    x = features()
    x[13, 5] = value
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 scans \(b-p001 of b\)"):
        small.embeddings(x)


def test_a_patient_without_embedding_is_refused_by_name(small):
    table = small.table(features()).drop(index=4)
    with pytest.raises(InputError, match=r"1 patients of --folds have no embedding by moco-dro-s0 \(a-p004"):
        Embeddings([table], "moco-dro-s0").cover(small.cell("mgmt", "combined"))


def test_an_embedding_of_another_scan_of_the_patient_does_not_count(small):
    table = small.table(features())
    table.loc[4, "scan"] = "a-p004-follow-up"
    with pytest.raises(InputError, match="a-p004"):
        Embeddings([table], "moco-dro-s0").cover(small.cell("mgmt", "combined"))


def test_the_clinical_baseline_leaves_out_whom_it_does_not_know_and_says_so(small):
    x = features(d=2)
    clinical = Embeddings([small.table(x, "clinical").drop(index=[4, 15])], "clinical")
    cell, found, note = clinical.cover(small.cell("mgmt", "combined", repeats=2))
    assert note == "2 patients without clinical data left out"
    assert len(cell.patients) == 20 and cell.assignments().shape == (2, 20)
    np.testing.assert_array_equal(found, np.delete(x, [4, 15], axis=0))
