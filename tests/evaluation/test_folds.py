"""Who is evaluated and who is held out when: counted by hand, and unmoved by anything but the seed."""

import numpy as np
import pandas as pd
import pytest

from neurorad.endpoints import binary, endpoints
from neurorad.evaluation.folds import (
    COLUMNS,
    TRAINED_ONLY,
    accounting,
    analysis_set,
    cells,
    check_folds,
    check_labels,
    deal,
    endpoints_of,
    fold_table,
    glioblastoma_survival,
)
from neurorad.evaluation.probe import probe
from neurorad.problems import InputError


@pytest.fixture(scope="module")
def labelled(study):
    random = np.random.default_rng(0)
    n = 90
    return study(
        mgmt=np.where(random.random(n) < 0.8, random.random(n) < 0.4, np.nan).astype(float),
        ki67=np.where(random.random(n) < 0.7, random.integers(1, 40, n), np.nan),
        idh1=(random.random(n) < 0.3).astype(float),
        grade=random.integers(2, 5, n),
        os_days=random.integers(1, 2000, n),
        event=(random.random(n) < 0.7).astype(float),
    )


def volumes(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["cohort", "patient", "session", "status"])
    return table.assign(scan=table["patient"] + "_" + table["session"])


def test_a_patient_is_seen_once_at_the_earliest_usable_session():
    chosen = analysis_set(
        volumes(
            ("a", "p1", "week-10", "ok"),
            ("a", "p1", "week-9", "ok"),
            ("a", "p1", "week-1", "excluded"),
            ("a", "p2", "week-3", "excluded"),
            ("b", "p1", "week-2", "ok"),
        )
    )
    assert chosen.values.tolist() == [["a", "p1", "p1_week-9"], ["b", "p1", "p1_week-2"]]


def test_sites_without_any_usable_volume_are_refused():
    with pytest.raises(InputError, match="no volume with status ok"):
        analysis_set(volumes(("a", "p1", "s1", "excluded")))


def test_a_volume_listed_twice_is_refused_by_name():
    with pytest.raises(InputError, match="scan p1_s1 of a is listed twice"):
        analysis_set(volumes(("a", "p1", "s1", "ok"), ("a", "p1", "s1", "ok")))


@pytest.mark.parametrize(("n", "folds", "classes"), [(3, 5, 2), (17, 5, 3), (60, 4, 7), (5, 5, 5)])
def test_dealing_balances_folds_and_every_stratum(n, folds, classes):
    random = np.random.default_rng(n)
    strata = random.integers(classes, size=n)
    fold = deal(strata, folds, random)
    for mine in (np.ones(n, dtype=bool), *(strata == value for value in np.unique(strata))):
        counts = np.bincount(fold[mine], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_every_labelled_patient_is_tested_exactly_once_a_repeat(labelled):
    table = labelled.folds(repeats=3)
    within = table[table["protocol"].isin(["within_site", "combined"])]
    assert not within.duplicated(["endpoint", "protocol", "site", "repeat", "cohort", "patient"]).any()
    for cell in cells(within):
        of_site = labelled.patients[(labelled.patients["cohort"] == cell.site) | (cell.site == "all")]
        people = len(of_site) if cell.endpoint == "site" else None
        if cell.endpoint not in ("site", "os"):
            people = of_site[cell.endpoint].notna().sum()
        for _, repeat in cell.table.groupby("repeat"):
            assert people is None or len(repeat) == people
            assert set(repeat["fold"]) == set(range(5))


def test_folds_are_balanced_by_label_within_each_site(labelled, known):
    for cell in cells(labelled.folds(repeats=2)):
        if cell.protocol == "leave_one_site_out" or cell.endpoint in ("os", "site"):
            continue
        table = cell.table.assign(positive=binary(cell.table["label"], known[cell.endpoint]))
        counts = table.groupby(["repeat", "cohort", "positive"])["fold"].agg(
            lambda fold: np.ptp(np.bincount(fold, minlength=5))
        )
        assert counts.max() <= 1, cell


def test_one_carrier_at_each_site_lands_in_five_different_folds(study):
    sites = dict.fromkeys("abcde", 10)
    carriers = study(sites, mgmt=np.tile(np.arange(10) == 4, 5).astype(float))
    for seed in range(5):
        table = carriers.cell("mgmt", "combined", seed=seed).table
        assert sorted(table.loc[table["label"] == 1, "fold"]) == [0, 1, 2, 3, 4]


def test_leave_one_site_out_trains_on_no_patient_of_the_tested_site(labelled):
    found = [cell for cell in cells(labelled.folds()) if cell.protocol == "leave_one_site_out"]
    for cell in found:
        trained, tested = cell.site.split("->")
        taught = cell.table[cell.table["fold"] == TRAINED_ONLY]
        assert set(taught["cohort"]) == set(trained.split("+"))
        assert set(cell.tested["cohort"]) == {tested} and tested not in trained.split("+")
        assert len(taught) + len(cell.tested) == len(cell.patients)
    assert {cell.site for cell in found if cell.endpoint == "idh1"} == {
        "east+north->west",
        "east+west->north",
        "north+west->east",
    }


def test_a_single_site_has_no_site_to_leave_out(study):
    table = study({"a": 20}, mgmt=np.arange(20) % 2).folds()
    assert set(table["protocol"]) == {"within_site", "combined"}


def test_folds_do_not_depend_on_row_order_or_on_the_other_endpoints(labelled):
    whole = labelled.folds(repeats=2)
    shuffled = fold_table(
        labelled.analysis.sample(frac=1, random_state=1),
        labelled.patients.sample(frac=1, random_state=2),
        endpoints(),
        repeats=2,
    )
    pd.testing.assert_frame_equal(whole, shuffled)
    only = check_labels(labelled.labels[["cohort", "patient", "mgmt"]], endpoints())
    alone = fold_table(labelled.analysis, only, endpoints(), repeats=2)
    mine = whole[whole["endpoint"] == "mgmt"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone[alone["endpoint"] == "mgmt"].reset_index(drop=True), mine)


def test_another_seed_and_another_repeat_draw_other_folds(labelled):
    cell = labelled.cell("mgmt", "combined", repeats=2)
    first, second = cell.assignments()
    assert (first != second).any()
    other = labelled.cell("mgmt", "combined", repeats=2, seed=1).assignments()
    assert (first != other[0]).any()
    assert np.array_equal(labelled.cell("mgmt", "combined", repeats=2).assignments(), cell.assignments())


def test_numbers_stay_as_measured_and_unknown_labels_stay_out(labelled):
    cell = labelled.cell("ki67", "combined")
    truth = labelled.patients.set_index(["cohort", "patient"])["ki67"]
    rows = cell.table.set_index(["cohort", "patient"])["label"]
    assert len(rows) == truth.notna().sum() and rows.equals(truth.reindex(rows.index).rename("label"))


def test_the_site_probe_holds_everybody_without_label(labelled):
    cell = labelled.cell("site", "combined")
    assert len(cell.patients) == 90 and cell.patients["label"].isna().all()


def test_survival_folds_hold_the_event_of_the_glioblastomas(labelled):
    cell = labelled.cell("os", "combined")
    expected = labelled.patients[glioblastoma_survival(labelled.patients)]
    assert cell.patients["patient"].tolist() == expected["patient"].tolist()
    assert cell.patients["label"].tolist() == expected["event"].tolist()


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({}, True),
        ({"diagnosis": "glioblastoma, IDH-wildtype"}, True),
        ({"diagnosis": ""}, True),
        ({"diagnosis": np.nan}, True),
        ({"diagnosis": "", "grade": 3}, False),
        ({"diagnosis": "Astrocytoma", "grade": 4}, False),
        ({"idh1": 1}, False),
        ({"idh1": np.nan}, False),
        ({"os_days": np.nan}, False),
        ({"event": np.nan}, False),
        ({"event": 0}, True),
    ],
)
def test_survival_is_of_tested_idh_wildtype_glioblastoma_with_follow_up(changes, member):
    row = {"idh1": 0, "grade": 4, "diagnosis": "Glioblastoma", "os_days": 100, "event": 1, **changes}
    assert glioblastoma_survival(pd.DataFrame([row])).tolist() == [member]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("mgmt", "methylated", "column mgmt of a holds the text 'methylated'"),
        ("mgmt", 2, "column mgmt of a holds 2; must be 0, 1 or empty"),
        ("event", 0.5, "column event of a holds 0.5"),
        ("os_days", -3, "column os_days of a holds -3; must be finite and not negative"),
        ("ki67", np.inf, "column ki67 of a holds inf"),
    ],
)
def test_labels_that_are_not_numbers_in_range_are_refused(column, value, message):
    table = pd.DataFrame({"cohort": "a", "patient": ["p1", "p2"], column: pd.Series([np.nan, value], dtype=object)})
    with pytest.raises(InputError, match=message):
        check_labels(table, endpoints())


def test_a_patient_with_two_rows_is_refused():
    with pytest.raises(InputError, match="a patient of a has two rows"):
        check_labels(pd.DataFrame({"cohort": "a", "patient": ["p1", "p1"]}), endpoints())


def test_a_label_no_table_has_is_unknown_for_everybody():
    table = check_labels(pd.DataFrame({"cohort": ["a"], "patient": ["p1"], "mgmt": ["1"]}), endpoints())
    assert table["mgmt"].tolist() == [1.0]
    assert table[["tert", "os_days", "event"]].isna().all(axis=None)


def test_a_cohort_without_a_single_row_of_labels_is_refused(labelled):
    patients = labelled.patients[labelled.patients["cohort"] != "north"]
    with pytest.raises(InputError, match="no patient with a volume in north has a row"):
        fold_table(labelled.analysis, patients, endpoints())


def test_a_patient_without_a_row_of_labels_is_in_the_site_probe_only(labelled):
    patients = labelled.patients.iloc[1:]
    table = fold_table(labelled.analysis, patients, endpoints())
    mine = table[(table["cohort"] == "east") & (table["patient"] == "p000")]
    assert set(mine["endpoint"]) == {"site"}


@pytest.mark.parametrize("drawn", [{"folds": 1}, {"repeats": 0}])
def test_folds_without_a_held_out_part_are_refused(labelled, drawn):
    with pytest.raises(InputError, match="at least 2 folds and 1 repeat"):
        labelled.folds(**drawn)


def test_a_fold_table_that_is_none_is_refused(labelled):
    table = labelled.folds()
    assert check_folds(table) is table and tuple(table) == COLUMNS
    with pytest.raises(InputError, match="lacks the columns fold, label"):
        check_folds(table.drop(columns=["fold", "label"]))
    with pytest.raises(InputError, match="no rows"):
        check_folds(table.iloc[:0])
    with pytest.raises(InputError, match="labels are text"):
        check_folds(table.assign(label="1"))


def test_the_fewest_taught_is_counted_over_every_training_fold(labelled):
    cell = labelled.cell("mgmt", "combined", repeats=3)
    positive = cell.patients["label"].to_numpy()
    by_hand = [
        part.loc[part["fold"] != fold, "label"].sum()
        for _, part in cell.table.groupby("repeat")
        for fold in part["fold"].unique()
    ]
    assert cell.fewest_taught(positive) == min(by_hand)


def test_the_cut_off_that_drew_the_folds_is_the_one_that_scores_them(study):
    random = np.random.default_rng(3)
    whole = study({"east": 40}, ki67=random.integers(1, 60, 40).astype(float), mgmt=np.arange(40) % 2)
    decided = endpoints({"ki67_cutoff": 30, "mgmt_indeterminate": "negative"})
    folds = fold_table(whole.analysis, whole.patients, decided, folds=2, repeats=1)
    assert set(folds.loc[folds["endpoint"] == "ki67", "cutoff"]) == {30}
    assert folds.loc[folds["endpoint"] == "mgmt", "cutoff"].isna().all()
    assert endpoints()["ki67"].cutoff == 10
    assert endpoints_of(folds, endpoints()) == decided
    positive = folds[(folds["endpoint"] == "ki67") & (folds["protocol"] == "within_site")].assign(
        positive=lambda t: t["label"] >= 30
    )
    dealt = positive.groupby("fold")["positive"].sum()
    assert dealt.sum() == (whole.labels["ki67"] >= 30).sum()
    assert dealt.max() - dealt.min() <= 1
    rows, _, _ = probe(whole.embeddings(random.normal(size=(40, 5))), folds, endpoints_of(folds, endpoints()), 0, 20)
    (row,) = [r for r in rows if (r["endpoint"], r["protocol"], r["metric"]) == ("ki67", "within_site", "auc")]
    assert row["n_positive"] == (whole.labels["ki67"] >= 30).sum()


def test_every_patient_with_a_volume_is_labelled_unlabelled_or_unlisted(study, known):
    mgmt = np.tile([1.0, 0.0, np.nan], 30)
    whole = study(mgmt=mgmt, ki67=np.where(np.arange(90) < 10, np.nan, 12.0))
    listed = whole.patients.drop(index=[0, 1, 2, 89])
    folds = fold_table(whole.analysis, listed, known, 5, 1, 0)
    counts = accounting(whole.analysis, listed, known, folds)
    assert (counts["evaluated"] == counts[["unlisted", "unlabelled", "labelled"]].sum(axis=1)).all()
    east = counts[(counts["cohort"] == "east") & (counts["endpoint"] == "mgmt")].iloc[0]
    assert east[["evaluated", "unlisted", "unlabelled", "labelled", "positive"]].tolist() == [36, 3, 11, 22, 11]
    ki67 = counts[(counts["cohort"] == "east") & (counts["endpoint"] == "ki67")].iloc[0]
    assert ki67[["unlisted", "unlabelled", "labelled", "positive"]].tolist() == [3, 7, 26, 26]
    with pytest.raises(ArithmeticError, match="mgmt at east: 22 labelled patients, but 21 in the folds"):
        lost = folds.index[(folds["endpoint"] == "mgmt") & (folds["protocol"] == "within_site")][0]
        accounting(whole.analysis, listed, known, folds.drop(index=lost))
