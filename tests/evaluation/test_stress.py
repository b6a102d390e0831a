"""Stress tests: clean scores are the probe's own, a shift that spoils the feature costs what it must, and wrong files are named."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from neurorad.cli import main
from neurorad.evaluation.probe import probe
from neurorad.evaluation.stress import by_shift, stress_rows
from neurorad.files import read_table, write_table
from neurorad.problems import InputError

N, ENCODER = 90, "byol-base-s0"
SHIFTS = {("noise", "1"): "same", ("noise", "3"): "noisy", ("gamma", "1"): "shuffled", ("missing", "t1n"): "west only"}


@pytest.fixture(scope="module")
def case(study, known):
    """Feature 0 tells the marker. Shifts: none at all; noise on it; features of other patients; the same at one site."""
    random = np.random.default_rng(0)
    y = (np.arange(N) % 5 < 2).astype(float)
    x = random.normal(size=(N, 6))
    x[:, 0] += 2.5 * y
    whole = study(mgmt=y, tert=np.where(np.arange(N) < 4, 1.0, 0.0))
    folds = whole.folds(repeats=2)
    rows, predictions, coefficients = probe(whole.embeddings(x), folds, known, 0, 40)
    noisy = x + np.array([2.0, 0, 0, 0, 0, 0]) * random.normal(size=(N, 1))
    mixed = x[random.permutation(N)]
    moved = [x, noisy, mixed, np.where((whole.site == "west")[:, None], mixed, x)]
    stressed = pd.concat(
        [whole.table(each).assign(shift=s, level=level) for (s, level), each in zip(SHIFTS, moved, strict=True)]
    )
    return whole, folds, x, moved, predictions, coefficients, stressed, pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(case, known) -> pd.DataFrame:
    whole, folds, x, _, _, coefficients, stressed, _ = case
    made = stress_rows(whole.embeddings(x), by_shift([stressed], ENCODER), coefficients, folds, known, 0, 60)
    return pd.DataFrame(made)


def one(table: pd.DataFrame, metric: str, site: str = "all", shift: str = "", level: str = "", endpoint: str = "mgmt"):
    mine = table[
        (table[["metric", "site", "shift", "level", "endpoint"]] == [metric, site, shift, level, endpoint]).all(axis=1)
    ]
    assert len(mine) == 1, (metric, site, shift, level)
    return mine.iloc[0]


def test_clean_scores_are_those_of_the_probe(table, case):
    rows = case[-1]
    own = rows[(rows["metric"] == "auc") & (rows["protocol"] == "combined") & (rows["endpoint"] == "mgmt")].iloc[0]
    clean = one(table, "auc_clean")
    assert clean["value"] == pytest.approx(own["value"], abs=1e-9) and clean["n"] == own["n"] == N
    assert clean["ci_low"] == pytest.approx(own["ci_low"])
    same = one(table, "auc_drop", shift="noise", level="1")
    assert same["value"] == same["ci_low"] == same["ci_high"] == 0


def test_the_drop_is_clean_minus_shifted_on_the_same_patients_of_each_site(table, case):
    whole, _, _, moved, predictions, coefficients, _, _ = case
    layers = coefficients[(coefficients["endpoint"] == "mgmt") & (coefficients["fold"] >= 0)]
    mine = predictions[(predictions["endpoint"] == "mgmt") & (predictions["protocol"] == "combined")]
    folds = case[1][(case[1]["endpoint"] == "mgmt") & (case[1]["protocol"] == "combined")]
    y = whole.labels["mgmt"].to_numpy()
    score = np.zeros(N)
    for row in layers.itertuples():
        part = folds[(folds["repeat"] == row.repeat) & (folds["fold"] == row.fold)]
        test = whole.analysis["scan"].isin(part["scan"]).to_numpy()
        weights = np.array([getattr(row, f"e{i}") for i in range(6)])
        score[test] += (moved[1][test] @ weights + row.intercept) / 2
    clean = mine.set_index("scan").loc[whole.analysis["scan"], "score"].to_numpy()
    for site in ("all", "east", "north", "west"):
        here = (whole.site == site) | (site == "all")
        drop = roc_auc_score(y[here], clean[here]) - roc_auc_score(y[here], score[here])
        row = one(table, "auc_drop", site, "noise", "3")
        assert row["value"] == pytest.approx(drop, abs=1e-9) and row["n"] == here.sum()
        assert row["ci_low"] < row["value"] < row["ci_high"]
        assert one(table, "auc_shifted", site, "noise", "3")["value"] == pytest.approx(
            roc_auc_score(y[here], score[here])
        )


def test_a_shift_that_loses_everything_is_found_where_it_is(table):
    lost = one(table, "auc_drop", shift="gamma", level="1")
    assert lost["ci_low"] > 0.1 and one(table, "auc_shifted", shift="gamma", level="1")["value"] < 0.7
    assert one(table, "balanced_accuracy_drop", shift="gamma", level="1")["ci_low"] > 0.05
    assert one(table, "auc_drop", "east", "missing", "t1n")["value"] == 0
    assert one(table, "auc_drop", "west", "missing", "t1n")["value"] > 0.1
    moved = {site: one(table, "embedding_shift", site, "missing", "t1n", "site")["value"] for site in ("east", "west")}
    assert moved["east"] == 0 and 0.5 < moved["west"] < 1.2


def test_too_few_of_a_class_is_a_row_that_says_so(table):
    rows = table[(table["endpoint"] == "tert") & (table["metric"] == "auc_drop")]
    assert rows.empty, "no probe was fitted, so none is stressed"
    mine = table[(table["endpoint"] == "mgmt") & (table["site"] == "west")]
    assert mine["note"].str.contains("warning: only").all()


def test_files_of_other_folds_or_encoders_are_refused(case, known):
    whole, folds, x, _, _, coefficients, stressed, _ = case
    shifted = by_shift([stressed], ENCODER)
    with pytest.raises(InputError, match="no layers of folds for the 7 features"):
        list(stress_rows(whole.embeddings(np.c_[x, x[:, 0]]), {}, coefficients, folds, known))
    with pytest.raises(InputError, match="no layer of fold 4, repeat 1; are they of these --folds"):
        fewer = coefficients[(coefficients["repeat"] != 1) | (coefficients["fold"] != 4)]
        list(stress_rows(whole.embeddings(x), shifted, fewer, folds, known))
    with pytest.raises(InputError, match="1 patients of --folds have no embedding"):
        list(stress_rows(whole.embeddings(x), by_shift([stressed.iloc[1:]], ENCODER), coefficients, folds, known))


def test_the_verb_writes_the_rows_and_refuses_a_table_without_shifts(case, tmp_path, capsys):
    whole, folds, x, _, _, coefficients, stressed, _ = case
    files = {"embeddings": whole.table(x), "stressed": stressed, "coefficients": coefficients, "folds": folds}
    for name, each in files.items():
        write_table(tmp_path / f"{name}.parquet", each)
    (tmp_path / "audit.json").write_text(json.dumps({"stamp": "none"}))
    given = [part for name in files for part in (f"--{name}", str(tmp_path / f"{name}.parquet"))]
    given += ["--encoder", ENCODER, "--leakage", str(tmp_path / "audit.json"), "--bootstrap", "20"]
    main(["stress", *given, "--out", str(tmp_path / "out.parquet")])
    made = read_table(tmp_path / "out.parquet")
    assert {"auc_clean", "auc_drop", "embedding_shift"} <= set(made["metric"]) and {"shift", "level"} <= set(made)
    write_table(tmp_path / "stressed.parquet", whole.table(x))
    with pytest.raises(SystemExit):
        main(["stress", *given, "--out", str(tmp_path / "no.parquet")])
    assert "stressed.parquet: lacks the columns shift, level" in capsys.readouterr().err
    assert not (tmp_path / "no.parquet").exists()
