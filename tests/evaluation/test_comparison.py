"""+DRO against base: differences, tests and Holm re-made with scikit-learn, SciPy, lifelines and statsmodels."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from scipy.stats import t as t_distribution
from scipy.stats import ttest_rel, wilcoxon
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from neurorad.endpoints import binary
from neurorad.evaluation.comparison import KNOWS, compare, fold_aucs, guarded, pairs, paper_rule
from neurorad.evaluation.folds import TRAINED_ONLY, cells
from neurorad.evaluation.metrics import paired_delong
from neurorad.problems import InputError

ENCODERS = {"byol-base-s0": 0.3, "byol-dro-s0": 1.5, "moco-base-s0": 0.6, "moco-dro-s0": 0.6, "random-s0": 0.0}


@pytest.fixture(scope="module")
def whole(glioblastomas):
    random = np.random.default_rng(0)
    hazard = random.normal(size=90)
    mgmt, tert = (random.random((2, 90)) < 0.4).astype(float)
    return glioblastomas(hazard, 0.4, mgmt=mgmt, tert=np.where(random.random(90) < 0.9, tert, np.nan))


@pytest.fixture(scope="module")
def folds(whole):
    return whole.folds(repeats=2)


@pytest.fixture(scope="module")
def predictions(whole, folds, known) -> Callable[..., list[pd.DataFrame]]:
    """Scores and risks that know the truth as well as `ENCODERS` says, as the probe and survival would write them."""
    patients = whole.patients.set_index(["cohort", "patient"])

    def make(encoder: str, strength: float, seed: int = 0) -> list[pd.DataFrame]:
        random = np.random.default_rng([seed, *encoder.encode()])
        scored, at_risk = [], []
        for cell in cells(folds):
            if cell.endpoint in ("site", "idh1"):
                continue
            tested = cell.tested
            where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
            table = pd.DataFrame({"encoder": encoder, **where, **tested[["cohort", "patient", "scan"]]})
            if cell.endpoint == "os":
                told = patients.loc[list(zip(tested["cohort"], tested["patient"], strict=True))]
                days, event = told["os_days"].to_numpy(), told["event"].to_numpy()
                risk = random.normal(size=len(tested)) - strength * np.log(days)
                each = {f"risk_r{r}": risk + random.normal(0, 0.1, len(tested)) for r in range(len(cell.assignments()))}
                at_risk.append(table.assign(risk=risk, days=days, event=event, **each))
                continue
            truth = binary(tested["label"], known[cell.endpoint]).to_numpy()
            repeats = {f"score_r{r}": strength * truth + random.normal(size=len(truth)) for r in range(2)}
            if cell.protocol == "leave_one_site_out":
                repeats.pop("score_r1")
            table = table.assign(label=truth, score=np.mean(list(repeats.values()), axis=0), **repeats)
            scored.append(table)
        return [pd.concat(scored), pd.concat(at_risk)]

    return make


@pytest.fixture(scope="module")
def tables(predictions) -> list[pd.DataFrame]:
    return [table for encoder, strength in ENCODERS.items() for table in predictions(encoder, strength)]


@pytest.fixture(scope="module")
def few_folds(folds):
    """Without idh1, which is 0 for everybody."""
    return folds[folds["endpoint"] != "idh1"]


@pytest.fixture(scope="module")
def rows(tables, few_folds, known) -> pd.DataFrame:
    return pd.DataFrame(compare(tables, few_folds, known, 0, 100))


def both(tables: list[pd.DataFrame], column: str, row: pd.Series) -> list[pd.DataFrame]:
    """Predictions of the encoder and of its base that a row compares, in one order."""
    table = pd.concat([t for t in tables if column in t])
    mine = table[(table[["endpoint", "protocol", "site"]] == row[["endpoint", "protocol", "site"]]).all(axis=1)]
    return [
        mine[mine["encoder"] == name].sort_values(["cohort", "patient"], ignore_index=True)
        for name in row["encoder"].split(" minus ")
    ]


def test_rivals_share_method_and_seed_and_references_have_none():
    names = {"byol-dro-s0", "byol-base-s0", "byol-dro-s1", "byol-base-s1", "moco-base-s0", "random-s0", "clinical"}
    assert pairs(names) == [("byol-dro-s0", "byol-base-s0"), ("byol-dro-s1", "byol-base-s1")]


def test_a_rival_that_is_not_given_is_named():
    with pytest.raises(InputError, match="byol-dro-s1 has no rival; give the predictions of byol-base-s1"):
        pairs({"byol-dro-s1", "byol-base-s0"})
    with pytest.raises(InputError, match="nothing to compare"):
        pairs({"byol-base-s0", "random-s0"})


def test_the_papers_rule_takes_the_t_test_for_normal_and_wilcoxon_for_other_differences():
    random = np.random.default_rng(0)
    base = random.normal(size=20)
    normal, skewed = base + random.normal(0.3, 1, 20), base + random.exponential(1, 20) ** 3
    p, test = paper_rule(normal, base)
    assert (p, test) == (pytest.approx(ttest_rel(normal, base).pvalue), "paper's rule: paired t")
    p, test = paper_rule(skewed, base)
    assert (p, test) == (pytest.approx(wilcoxon(skewed, base).pvalue), "paper's rule: Wilcoxon")
    assert np.isnan(paper_rule(base[:2] + 1, base[:2])[0])
    noise = skewed + random.normal(0, 1e-15, 20)
    ties = np.round(skewed - base, 1)
    assert paper_rule(base + ties, base)[0] == pytest.approx(wilcoxon(ties).pvalue)
    assert paper_rule(noise, base)[0] == pytest.approx(p)
    assert np.isnan(paper_rule(base + 0.1, base)[0])


def test_auc_differences_are_those_of_scikit_learn(rows, tables):
    mine = rows[rows["metric"] == "auc_difference"]
    assert len(mine) == 2 * 7 * 2
    for _, row in mine.iterrows():
        new, base = both(tables, "score", row)
        difference = roc_auc_score(new["label"], new["score"]) - roc_auc_score(base["label"], base["score"])
        assert row["value"] == pytest.approx(difference, abs=1e-12)
        delong = paired_delong(new["label"].to_numpy(), new["score"].to_numpy(), base["score"].to_numpy())
        assert (row["p"], row["ci_low"]) == (pytest.approx(delong.p), pytest.approx(delong.ci_low))
        assert (row["n"], row["n_positive"]) == (len(new), new["label"].sum())


def test_the_bootstrap_resamples_patients_in_pairs(rows):
    keys = ["encoder", "endpoint", "protocol", "site"]
    delong = rows[rows["metric"] == "auc_difference"].set_index(keys)
    resampled = rows[rows["metric"] == "auc_difference_bootstrap"].set_index(keys)
    pd.testing.assert_series_equal(delong["value"], resampled["value"])
    width = (resampled["ci_high"] - resampled["ci_low"]) / (delong["ci_high"] - delong["ci_low"])
    assert width.min() > 0.6 and width.max() < 1.4


def test_holm_is_that_of_statsmodels_over_the_primary_tests_of_each_protocol(rows):
    adjusted = 0
    for metric, tests in (("auc_difference", 2), ("c_index_difference", 1)):
        for protocol, part in rows[rows["metric"].isin([metric, f"{metric}_corrected"])].groupby("protocol"):
            judged = metric if protocol == "leave_one_site_out" else f"{metric}_corrected"
            mine = part[part["metric"] == judged]
            assert set(mine["role"]) == {"primary"} and set(part["role"][part["metric"] != judged]) == {"descriptive"}
            assert len(mine) == tests * 2 * (1 if protocol == "combined" else 3)
            known = mine["p"].notna()
            np.testing.assert_allclose(mine["p_holm"][known], multipletests(mine["p"][known], method="holm")[1])
            assert mine["p_holm"][~known].isna().all()
            adjusted += len(mine)
    assert (rows["role"] == "primary").sum() == adjusted
    assert rows.loc[rows["role"] == "descriptive", ["p_holm", "p_bh"]].isna().all(axis=None)


def test_folds_are_compared_as_the_paper_does_and_labelled_so(rows, tables, few_folds):
    mine = rows[(rows["metric"] == "auc_difference_over_folds") & (rows["protocol"] != "leave_one_site_out")]
    for _, row in mine.iterrows():
        where = row[["endpoint", "protocol", "site"]].tolist()
        cell = next(c for c in cells(few_folds) if [c.endpoint, c.protocol, c.site] == where)
        aucs = []
        for table in both(tables, "score", row):
            for repeat in (0, 1):
                part = cell.table[cell.table["repeat"] == repeat].merge(table, on=["cohort", "patient"])
                for _, fold in part.groupby("fold"):
                    both_classes = fold["label_y"].nunique() == 2
                    aucs.append(roc_auc_score(fold["label_y"], fold[f"score_r{repeat}"]) if both_classes else np.nan)
        new, base = np.reshape(aucs, (2, -1))
        kept = np.isfinite(new)
        assert row["value"] == pytest.approx((new - base)[kept].mean())
        p, test = paper_rule(new[kept], base[kept])
        assert (row["p"], row["test"]) == (pytest.approx(p), test)
        assert row["note"].startswith(f"{kept.sum()} folds; anti-conservative")


def test_a_fold_without_a_class_has_no_auc(study):
    whole = study({"a": 12}, mgmt=(np.arange(12) < 3).astype(float))
    cell = whole.cell("mgmt", "within_site", "a")
    truth = cell.tested["label"].to_numpy()
    found = fold_aucs(cell, truth, pd.DataFrame({"score_r0": truth}))
    assert np.isnan(found).sum() == 2 and np.nanmin(found) == 1
    assert (cell.assignments() != TRAINED_ONLY).all()


def test_methods_together_are_compared_as_paired_encoders(rows, tables):
    row = rows[(rows["metric"] == "auc_difference_over_methods") & (rows["protocol"] == "combined")].iloc[0]
    assert (row["encoder"], row["method"], row["objective"]) == ("dro minus base", "all", "dro")
    single = rows[
        (rows["metric"] == "auc_difference") & (rows["protocol"] == "combined") & (rows["endpoint"] == row["endpoint"])
    ]
    assert row["value"] == pytest.approx(single["value"].mean())
    assert np.isnan(row["p"]) and row["note"] == "2 pairs of encoders; p not estimable"


def test_c_index_differences_are_those_of_lifelines(rows, tables):
    mine = rows[(rows["metric"] == "c_index_difference") & (rows["protocol"] != "combined")]
    assert len(mine) == 12
    for _, row in mine.iterrows():
        new, base = (concordance_index(t["days"], -t["risk"], t["event"]) for t in both(tables, "risk", row))
        assert row["value"] == pytest.approx(new - base)
        assert row["ci_low"] < row["value"] < row["ci_high"]
        assert row["n_events"] == both(tables, "risk", row)[0]["event"].sum()


def test_few_deaths_come_with_a_warning(rows):
    mine = rows[rows["metric"] == "c_index_difference"]
    assert (mine["n_events"] < 20).any() and (mine["n_events"] >= 20).any()
    for _, row in mine.iterrows():
        assert row["note"] == (f"warning: only {row['n_events']:.0f} events" if row["n_events"] < 20 else "")


def test_an_encoder_that_is_better_is_found_better(rows):
    mine = rows[(rows["protocol"] == "combined") & (rows["method"] == "byol")]
    pooled = mine[mine["metric"].isin(["auc_difference", "c_index_difference"])]
    assert len(pooled) == 3 and (pooled["ci_low"] > 0).all()
    # The primary test, over ten folds of 18 patients, has less power than what takes trained models as given.
    judged = mine[mine["role"] == "primary"]
    assert len(judged) == 3 and (judged["value"] > 0.1).all() and (judged["p"] < 0.05).any()


def os_tables(whole, risks: dict[str, np.ndarray]) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """Predictions and folds of survival alone, at one site."""
    folds = whole.folds()
    folds = folds[(folds["endpoint"] == "os") & (folds["protocol"] == "within_site")]
    told = whole.patients[["cohort", "patient", "os_days", "event"]].assign(
        scan=whole.analysis["scan"], endpoint="os", protocol="within_site", site="a"
    )
    told = told.rename(columns={"os_days": "days"})
    return [told.assign(encoder=name, risk=risk, risk_r0=risk) for name, risk in risks.items()], folds


def test_equally_good_risks_are_called_different_about_5_times_in_a_hundred(glioblastomas, known):
    random = np.random.default_rng(0)
    hazard, p = random.normal(size=50), []
    tables, folds = os_tables(glioblastomas(hazard, sites={"a": 50}), {"byol-base-s0": 0, "byol-dro-s0": 0})
    for seed in range(100):
        noisy = [hazard + random.normal(size=50) for _ in tables]
        told = [table.assign(risk=risk, risk_r0=risk) for table, risk in zip(tables, noisy, strict=True)]
        pooled, corrected = compare(told, folds, known, seed, 100)
        assert (pooled["role"], corrected["role"]) == ("descriptive", "primary")
        p.append((pooled["p"], corrected["p"]))
    assert (np.mean(np.array(p) < 0.05, axis=0) < 0.12).all()
    assert 0.35 < np.mean(np.array(p)[:, 0] < 0.5) < 0.65


def test_the_corrected_difference_of_c_indices_is_that_of_lifelines_fold_by_fold(glioblastomas, known):
    random = np.random.default_rng(5)
    hazard = random.normal(size=60)
    risks = {"byol-base-s0": random.normal(size=60), "byol-dro-s0": hazard}
    tables, folds = os_tables(glioblastomas(hazard, sites={"a": 60}), risks)
    _, row = compare(tables, folds, known, 0, 50)
    fold = folds.merge(tables[0][["patient"]].reset_index(), on="patient").set_index("index")["fold"].sort_index()
    each = []
    for k in range(5):
        mine = (fold == k).to_numpy()
        new, base = (concordance_index(t["days"][mine], -t["risk"][mine], t["event"][mine]) for t in tables[::-1])
        each.append(new - base)
    assert row["value"] == pytest.approx(np.mean(each))
    half = t_distribution.ppf(0.975, 4) * np.sqrt((1 / 5 + 1 / 4) * np.var(each, ddof=1))
    assert row["ci_high"] == pytest.approx(np.mean(each) + half)


def test_deaths_that_all_tie_cannot_be_ordered(glioblastomas, known):
    whole = glioblastomas(np.zeros(20), sites={"a": 20}, os_days=90, event=1)
    risks = {"byol-base-s0": np.arange(20.0), "byol-dro-s0": -np.arange(20.0)}
    row, corrected = compare(*os_tables(whole, risks), known, 0, 50)
    assert np.isnan(row["value"]) and np.isnan(row["p"])
    assert row["note"] == "not estimable: no comparable pair"
    assert np.isnan(corrected["value"]) and corrected["note"] == "p not estimable: 0 folds"


def test_an_encoder_compared_with_its_copy_differs_by_nothing(predictions, few_folds, known):
    base = predictions("byol-base-s0", 1.0)
    copy = [table.assign(encoder="byol-dro-s0") for table in base]
    table = pd.DataFrame(compare([*base, *copy], few_folds, known, 0, 50))
    assert (table["value"] == 0).all()
    tested = table[table["metric"].isin(["auc_difference", "c_index_difference"])]
    assert (tested["p"] == 1).all()
    judged = table[table["role"] == "primary"]
    assert (judged["p_holm"].dropna() == 1).all() and judged["p_holm"].notna().sum() > 10
    assert table.loc[table["metric"] == "auc_difference_over_folds", "p"].isna().all()


def test_exchanging_the_two_encoders_turns_the_sign(predictions, few_folds, known):
    first, second = predictions("byol-base-s0", 0.2), predictions("byol-dro-s0", 1.0)
    swapped = [t.assign(encoder="byol-dro-s0") for t in first] + [t.assign(encoder="byol-base-s0") for t in second]
    one = pd.DataFrame(compare([*first, *second], few_folds, known, 0, 50))
    other = pd.DataFrame(compare(swapped, few_folds, known, 0, 50))
    np.testing.assert_allclose(one["value"], -other["value"], atol=1e-12)
    np.testing.assert_allclose(one["ci_low"], -other["ci_high"], atol=1e-12)
    np.testing.assert_allclose(one["p"], other["p"])


def test_the_order_of_tables_and_rows_does_not_matter(tables, few_folds, known, rows):
    shuffled = [table.sample(frac=1, random_state=i) for i, table in enumerate(tables[::-1])]
    pd.testing.assert_frame_equal(pd.DataFrame(compare(shuffled, few_folds, known, 0, 100)), rows)


def test_predictions_of_other_folds_are_refused(tables, few_folds, known):
    short = [table.iloc[1:] if "byol-dro-s0" in set(table["encoder"]) else table for table in tables]
    with pytest.raises(InputError, match="byol-dro-s0 has .* patients for .* make the predictions from these folds"):
        compare(short, few_folds, known, 0, 50)
    renamed = [table.assign(scan=table["scan"] + "-later") for table in tables]
    with pytest.raises(InputError, match="make the predictions from these folds"):
        compare(renamed, few_folds, known, 0, 50)


def test_what_was_not_estimable_alone_is_not_estimable_as_a_difference(tables, folds, known):
    table = pd.DataFrame(compare(tables, folds, known, 0, 50))
    mine = table[table["endpoint"] == "idh1"]
    assert len(mine) == 2 * 2 * 7 and mine["value"].isna().all() and mine["p_holm"].isna().all()
    assert mine["note"].str.startswith("not estimable: 0 positives of").all()


def test_predictions_without_a_single_row_give_no_rows(tables, few_folds, known):
    assert compare([table.iloc[:0] for table in tables], few_folds, known, 0, 50) == []


def test_every_objective_is_compared_with_the_base_and_the_ensemble_is_no_further_pair(predictions, few_folds, known):
    strengths = {f"{m}-{o}-s0": 0.5 for m in ("byol", "moco", "ensemble") for o in ("base", "dro", "balanced")}
    given = [table for encoder, strength in strengths.items() for table in predictions(encoder, strength)]
    table = pd.DataFrame(compare(given, few_folds, known, 0, 30))
    compared = set(table.loc[table["metric"] == "auc_difference", "encoder"])
    assert compared == {
        f"{m}-{o}-s0 minus {m}-base-s0" for m in ("byol", "moco", "ensemble") for o in ("dro", "balanced")
    }
    over_methods = table[table["metric"] == "auc_difference_over_methods"]
    assert set(over_methods["objective"]) == {"dro", "balanced"}
    assert over_methods["note"].str.startswith("2 pairs of encoders").all()
    one = table[(table["metric"] == "auc_difference_corrected") & (table["protocol"] == "combined")]
    assert len(one) == 2 * 6
    np.testing.assert_allclose(one["p_holm"], multipletests(one["p"], method="holm")[1])
    np.testing.assert_allclose(one["p_bh"], multipletests(one["p"], method="fdr_bh")[1])


def test_folds_that_share_patients_widen_the_corrected_t(rows):
    corrected = rows[rows["metric"] == "auc_difference_corrected"]
    naive = rows[rows["metric"] == "auc_difference_over_folds"]
    several = corrected["protocol"] != "leave_one_site_out"
    np.testing.assert_allclose(corrected["value"], naive["value"])
    tested = several.to_numpy() & (naive["test"] == "paper's rule: paired t").to_numpy()
    assert tested.sum() >= 4
    assert (corrected["p"].to_numpy()[tested] > naive["p"].to_numpy()[tested]).all()
    assert corrected.loc[~several, "p"].isna().all()
    assert corrected.loc[~several, "note"].str.contains("not estimable").all()


def found_alone(p: dict[str, float]) -> pd.DataFrame:
    rows = [(encoder, "mgmt", "within_site", "a", "auc_permutation", value) for encoder, value in p.items()]
    return pd.DataFrame(rows, columns=["encoder", "endpoint", "protocol", "site", "metric", "p"])


def one_difference(p: float) -> pd.DataFrame:
    row = {"encoder": "byol-dro-s0 minus byol-base-s0", "endpoint": "mgmt", "protocol": "within_site", "site": "a"}
    return pd.DataFrame([row | {"metric": "auc_difference_corrected", "role": "primary", "p": p, "note": ""}])


@pytest.mark.parametrize(
    ("p", "new", "base", "says"),
    [(0.01, 0.001, 0.9, 0.01), (0.01, 0.4, 0.1, 0.2), (0.01, 0.8, 0.7, 1.0), (0.5, 0.1, 0.1, 0.5)],
)
def test_a_difference_counts_only_where_either_encoder_knows_anything(p, new, base, says):
    (row,) = guarded(one_difference(p), found_alone({"byol-dro-s0": new, "byol-base-s0": base})).to_dict("records")
    assert row["p"] == pytest.approx(says)
    assert ("of the difference alone 0.010" in row["note"]) == (says != p)


def test_a_difference_without_the_tests_of_its_encoders_is_refused():
    with pytest.raises(InputError, match="no auc_permutation of byol-base-s0.*give the rows of probe and survival"):
        guarded(one_difference(0.01), found_alone({"byol-dro-s0": 0.1}))
    # What could not be estimated needs no test.
    assert np.isnan(guarded(one_difference(np.nan), found_alone({}))["p"]).all()


def test_descriptive_rows_keep_their_own_p_and_holm_adjusts_the_guarded_one(tables, few_folds, known, rows):
    judged = rows[(rows["role"] == "primary") & rows["p"].notna()]
    metric = judged["metric"].str.removesuffix("_corrected").map(KNOWS)
    both = [judged.assign(encoder=judged["encoder"].str.split(" minus ").str[k], metric=metric, p=0.03) for k in (0, 1)]
    table = pd.DataFrame(compare(tables, few_folds, known, 0, 100, pd.concat(both)))
    same = table["role"] == "descriptive"
    pd.testing.assert_series_equal(table.loc[same, "p"], rows.loc[same, "p"])
    assert np.allclose(table.loc[judged.index, "p"], np.maximum(judged["p"], 0.06))
    assert (table.loc[judged.index, "p_holm"] >= table.loc[judged.index, "p"]).all()
