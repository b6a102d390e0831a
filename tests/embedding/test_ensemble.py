"""The ensemble holds every member's numbers for the same scan, scaled to length 1."""

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.embedding.scans import ensemble
from neurorad.files import read_table, write_table
from neurorad.problems import InputError


def member(seed: int, d: int, n: int = 5) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(n, d)) * 10**seed
    who = pd.DataFrame({"cohort": "a", "scan": [f"s{i}" for i in range(n)]})
    who = who.assign(patient=who["scan"], session="1")
    return who.assign(**{f"e{i}": values[:, i] for i in range(d)})


def test_rows_are_matched_by_scan_and_have_length_one(tmp_path):
    first, second = member(0, 12), member(1, 3)
    for name, table in (("a", first), ("b", second.iloc[::-1])):
        write_table(tmp_path / f"{name}.parquet", table)
    main(
        [
            "ensemble",
            "--embeddings",
            *(str(tmp_path / f"{n}.parquet") for n in "ab"),
            "--out",
            str(tmp_path / "c.parquet"),
        ]
    )
    joined = read_table(tmp_path / "c.parquet")
    values = joined[[f"e{i}" for i in range(15)]].to_numpy(float)
    expected = np.column_stack([first[[f"e{i}" for i in range(12)]], second[[f"e{i}" for i in range(3)]]]).astype(float)
    np.testing.assert_allclose(values, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    assert joined["scan"].tolist() == first["scan"].tolist() and len(joined.columns) == 4 + 15


def test_a_row_of_zeros_stays_zero():
    zero = member(0, 2).assign(e0=0.0, e1=0.0)
    assert (ensemble([zero, zero])[[f"e{i}" for i in range(4)]] == 0).all(axis=None)


def test_members_of_other_scans_are_refused():
    with pytest.raises(InputError, match="did not embed the same scans"):
        ensemble([member(0, 2), member(0, 2).assign(scan="x")])
    with pytest.raises(InputError, match="did not embed the same scans"):
        ensemble([member(0, 2), member(0, 2).iloc[:4]])
    with pytest.raises(InputError, match="two encoders or more"):
        ensemble([member(0, 2)])
