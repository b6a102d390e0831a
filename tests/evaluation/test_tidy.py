"""Tidy rows: names taken apart, counts that nobody gave stay missing, too little data said in words."""

import numpy as np
import pandas as pd

from neurorad.evaluation.tidy import COLUMNS, join_notes, shortage, tidy, warning


def test_rows_carry_the_stamp_and_missing_counts_stay_missing():
    where = {"site": "a", "endpoint": "mgmt", "protocol": "combined"}
    table = tidy(
        [
            {**where, "metric": "auc", "value": 0.5, "n": 30, "n_positive": 7, "p": 0.2},
            {**where, "metric": "mae", "value": np.nan, "note": "why"},
        ],
        "LEAKAGE NOT EXCLUDED",
        "byol-dro-s2",
    )
    assert tuple(table) == (*COLUMNS, "p")
    assert table["leakage"].tolist() == ["LEAKAGE NOT EXCLUDED"] * 2
    assert table[["method", "objective", "seed"]].values.tolist() == [["byol", "dro", 2]] * 2
    assert table["n"].tolist() == [30, pd.NA] and table["n_events"].isna().all()
    assert table["n"].dtype == "Int64" and table["ci_low"].dtype == float
    assert table["note"].tolist() == ["", "why"]


def test_no_rows_give_an_empty_table_with_every_column():
    table = tidy([], "clean", "byol-dro-s0")
    assert table.empty and tuple(table) == COLUMNS


def test_fewer_than_five_of_either_class_is_a_shortage():
    assert shortage(5, 10) == ""
    assert shortage(4, 50) == "not estimable: 4 positives of 50 (needs 5)"
    assert shortage(46, 50, " in training") == "not estimable: 4 negatives of 50 in training (needs 5)"


def test_fewer_than_twenty_of_either_class_is_a_warning():
    assert warning(20, 40) == ""
    assert warning(19, 40) == "warning: only 19 positives"
    assert warning(21, 40) == "warning: only 19 negatives"
    assert warning(5, 12) == "warning: only 5 positives and 7 negatives"


def test_empty_notes_leave_no_separators():
    assert join_notes("", "a", "", "b") == "a; b"
    assert join_notes("", "") == ""
