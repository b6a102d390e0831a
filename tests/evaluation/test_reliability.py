"""Rows of reliability re-counted from the predictions they were made of."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from neurorad.cli import main
from neurorad.evaluation.reliability import SMALLEST, reliability, strata_of
from neurorad.files import read_table, write_json, write_table

N = 120


@pytest.fixture(scope="module")
def patients() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"cohort": np.repeat(["a", "b"], N // 2), "patient": [f"p{i:03d}" for i in range(N)]})
    table["sex"] = np.where(random.random(N) < 0.4, "F", "M")
    table["age"] = np.linspace(30, 80, N)
    table["grade"] = np.where(np.arange(N) < 6, 2.0, 4.0)
    table["vendor"] = np.where(np.arange(N) % 3 == 0, "GE", "Siemens")
    table.loc[5, ["sex", "age"]] = None, np.nan
    return table


@pytest.fixture(scope="module")
def predictions(patients) -> pd.DataFrame:
    random = np.random.default_rng(1)
    truth = (random.random(N) < 0.4).astype(float)
    score = truth + random.normal(0, 1, N)
    table = patients[["cohort", "patient"]].assign(label=truth, score=score, margin=score - 0.5)
    where = {"encoder": "byol-dro-s0", "endpoint": "mgmt", "protocol": "combined", "site": "all"}
    p = {"probability": expit(score - 1), "p_negative": random.random(N), "p_positive": random.random(N)}
    return table.assign(**where, **p)


@pytest.fixture(scope="module")
def rows(predictions, patients) -> pd.DataFrame:
    return pd.DataFrame(reliability([predictions], patients, 0, 100))


def one(rows: pd.DataFrame, metric: str, **where: object) -> pd.Series:
    mine = rows[rows["metric"] == metric]
    for column, value in where.items():
        mine = mine[mine[column] == value]
    assert len(mine) == 1
    return mine.iloc[0]


def test_coverage_is_counted_by_class_and_by_site(rows, predictions):
    for label, name in ((1, "positive"), (0, "negative")):
        p = predictions["p_positive" if label else "p_negative"]
        mine = predictions["label"] == label
        row = one(rows, "coverage", at=0.9, stratum=name)
        assert row["value"] == pytest.approx((p[mine] > 0.1).mean()) and row["n"] == mine.sum()
        for site in "ab":
            here = mine & (predictions["cohort"] == site)
            row = one(rows, "coverage", at=0.8, stratum=f"{site}, {name}")
            assert row["value"] == pytest.approx((p[here] > 0.2).mean())
            assert row["ci_low"] < row["value"] < row["ci_high"]
    size = (predictions[["p_negative", "p_positive"]] > 0.1).sum(axis=1)
    assert one(rows, "set_size", at=0.9)["value"] == pytest.approx(size.mean())
    assert one(rows, "certain_share", at=0.9)["value"] == pytest.approx((size == 1).mean())


def test_subgroups_hold_their_own_patients_and_small_ones_are_suppressed(rows, predictions, patients):
    for sex in "FM":
        mine = (patients["sex"] == sex).to_numpy()
        row = one(rows, "auc", variable="sex", stratum=sex)
        assert row["value"] == pytest.approx(roc_auc_score(predictions["label"][mine], predictions["score"][mine]))
        assert row["n"] == mine.sum()
        gap = one(rows, "calibration_gap", variable="sex", stratum=sex)
        expected = (predictions["probability"] - predictions["label"])[mine].mean()
        assert gap["value"] == pytest.approx(expected) and gap["ci_low"] < expected < gap["ci_high"]
    low = rows[(rows["variable"] == "WHO grade") & (rows["stratum"] == "below 4")]
    assert len(low) == 4 and low["value"].isna().all() and low["n"].isna().all() and low["n_positive"].isna().all()
    assert (low["note"] == f"suppressed: fewer than {SMALLEST} patients").all()
    called = predictions["margin"] >= 0
    carriers = predictions["label"] == 1
    shares = [called[carriers & (predictions["cohort"] == site)].mean() for site in "ab"]
    assert one(rows, "sensitivity_gap", variable="site")["value"] == pytest.approx(abs(shares[0] - shares[1]))
    assert set(rows["variable"]) == {"", "conformal set", "class", "site and class", "sex", "age band"} | {
        "WHO grade",
        "vendor",
        "site",
    }


def test_no_suppressed_count_is_told(rows):
    told = rows[rows["variable"].isin(["sex", "age band", "WHO grade", "vendor", "site", "class", "site and class"])]
    assert (told["n"].dropna() >= SMALLEST).all()


def test_what_is_left_out_first_is_what_the_probe_is_least_sure_of(rows, predictions):
    for share in (1.0, 0.7, 0.5):
        kept = predictions["margin"].abs().nlargest(round(share * N)).index
        row = one(rows, "balanced_accuracy_retained", at=share)
        part = predictions.loc[kept]
        assert row["value"] == pytest.approx(balanced_accuracy_score(part["label"], part["margin"] >= 0))
        assert row["n"] == len(kept)
    assert (
        one(rows, "balanced_accuracy_retained", at=0.5)["value"]
        > one(rows, "balanced_accuracy_retained", at=1.0)["value"]
    )


def test_decision_and_calibration_curves_have_a_row_a_threshold_and_a_bin(rows):
    benefit = rows[rows["metric"] == "net_benefit"]
    assert benefit["at"].tolist() == [round(0.05 * k, 2) for k in range(1, 20)]
    assert (benefit["value"] <= benefit["n_positive"] / benefit["n"]).all()
    curve = rows[rows["metric"] == "observed_share"]
    assert len(curve) == 8 and curve["n"].sum() == N


def test_strata_follow_the_declared_bands(patients):
    table = patients.iloc[:4].assign(age=[49.9, 50, 65, 66], grade=[3.0, 4, np.nan, 2])
    found = strata_of(table)
    assert found["age band"].tolist() == ["below 50", "50 to 65", "50 to 65", "above 65"]
    assert found["WHO grade"].tolist() == ["below 4", "4", None, "below 4"]
    assert found["field strength"].isna().all()


def test_predictions_without_rows_give_no_rows(predictions, patients):
    assert reliability([predictions.iloc[:0]], patients) == []


def test_predictions_without_rows_make_a_table_with_its_columns(predictions, patients, tmp_path):
    write_table(tmp_path / "predictions.parquet", predictions.iloc[:0])
    write_table(tmp_path / "patients.tsv", patients)
    write_json(tmp_path / "audit.json", {"stamp": ""})
    inputs = {
        "predictions": "predictions.parquet",
        "patients": "patients.tsv",
        "leakage": "audit.json",
        "out": "out.parquet",
    }
    main(["reliability", *(str(word) for flag, name in inputs.items() for word in (f"--{flag}", tmp_path / name))])
    made = read_table(tmp_path / "out.parquet")
    assert made.empty and {"at", "variable", "stratum", "value", "leakage"} <= set(made.columns)
