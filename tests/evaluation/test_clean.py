"""The rows of the clean patients: the same models, fewer patients, and never a number where there is none to give."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from neurorad.evaluation.clean import clean_rows
from neurorad.evaluation.tidy import tidy
from neurorad.problems import InputError

WHERE = {"encoder": "byol-base-s0", "protocol": "within_site", "site": "east"}


def people(n):
    return pd.DataFrame({"cohort": "east", "patient": [f"{i:03d}" for i in range(n)]})


def marker(n=80, seed=0):
    random = np.random.default_rng(seed)
    truth = (np.arange(n) % 2).astype(float)
    score = truth + random.normal(size=n)
    return people(n).assign(**WHERE, endpoint="idh1", label=truth, score=score, margin=score - 0.4)


def deaths(n=80, seed=1):
    random = np.random.default_rng(seed)
    risk = random.normal(size=n)
    days = np.ceil(400 * random.exponential(size=n) * np.exp(-risk))
    event = (random.random(n) < 0.7).astype(float)
    return people(n).assign(**WHERE, endpoint="os", risk=risk, days=days, event=event)


def told(predictions, clean, **settings):
    """Rows by (metric, patients); `clean`: boolean for each patient of the site."""
    status = people(len(clean)).assign(status=np.where(clean, "clean", "unproven"))
    return tidy(clean_rows(predictions, status, replicates=100, **settings), "").set_index(["metric", "patients"])


def c_by_counting(table):
    """Harrell's c, pair by pair."""
    won = pairs = 0.0
    rows = list(zip(table["days"], table["event"], table["risk"], strict=True))
    for i, (days, event, risk) in enumerate(rows):
        for j, (later, died, other) in enumerate(rows):
            if i != j and event and (days < later or (days == later and not died)):
                pairs += 1
                won += (risk > other) + 0.5 * (risk == other)
    return won / pairs


def test_both_sets_are_what_sklearn_and_a_count_by_hand_say():
    first, second = marker(), deaths()
    clean = np.random.default_rng(5).random(80) < 0.6
    rows = told([first, second], clean)
    for patients, mine in (("all", np.ones(80, bool)), ("clean", clean)):
        truth, score, margin = (first.loc[mine, name] for name in ("label", "score", "margin"))
        assert rows.loc[("auc", patients), "value"] == pytest.approx(roc_auc_score(truth, score))
        expected = balanced_accuracy_score(truth, margin >= 0)
        assert rows.loc[("balanced_accuracy", patients), "value"] == pytest.approx(expected)
        assert rows.loc[("c_index", patients), "value"] == pytest.approx(c_by_counting(second[mine]))
        assert rows.loc[("auc", patients), ["n", "n_positive"]].tolist() == [mine.sum(), truth.sum()]
        assert rows.loc[("c_index", patients), "n_events"] == second.loc[mine, "event"].sum()
    assert (rows["ci_low"] < rows["value"]).all()
    assert (rows["value"] < rows["ci_high"]).all()


def test_where_everybody_is_clean_both_rows_say_the_same_and_so_does_the_note():
    rows = told([marker(), deaths()], np.ones(80, bool))
    for metric in ("auc", "balanced_accuracy", "c_index"):
        assert rows.loc[(metric, "all"), "value"] == rows.loc[(metric, "clean"), "value"]
    assert (rows.xs("clean", level="patients")["note"] == "every tested patient is clean").all()
    assert (rows.xs("all", level="patients")["note"] == "").all()


@pytest.mark.parametrize("left", [0, 4])
def test_too_few_clean_patients_are_not_estimable_and_say_how_many(left):
    rows = told([marker(), deaths()], np.arange(80) < left)
    mine = rows.xs("clean", level="patients")
    assert mine["value"].isna().all()
    assert (mine["n"] == left).all()
    assert mine.loc["auc", "note"] == f"not estimable: {left // 2} positives of {left} (needs 5)"
    assert mine.loc["c_index", "note"].startswith("not estimable: ")
    assert rows.xs("all", level="patients")["value"].notna().all()


def test_all_encoders_are_scored_on_the_same_bootstrap_samples():
    clean = np.arange(80) < 50
    one, other = marker(), marker().assign(encoder="byol-dro-s0")
    pd.testing.assert_frame_equal(
        told([one], clean)[["ci_low", "ci_high"]], told([other], clean)[["ci_low", "ci_high"]]
    )


def test_a_patient_without_a_status_twice_or_of_another_status_is_refused():
    good = people(80).assign(status="clean")
    for status, message in (
        (good.iloc[1:], "1 evaluated patients have no row, first one of east"),
        (pd.concat([good, good.iloc[:1]]), "a patient has two rows"),
        (good.assign(status="maybe"), "status 'maybe' is neither clean nor unproven"),
    ):
        with pytest.raises(InputError, match=message):
            list(clean_rows([marker()], status))
    with pytest.raises(InputError, match="a patient is scored twice"):
        list(clean_rows([pd.concat([marker(), marker()])], good))


def test_no_prediction_gives_no_row():
    assert list(clean_rows([marker().iloc[:0]], people(2).assign(status="clean"))) == []
