"""The plan's planted distributions against their stated laws, and what must not move when the study changes."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter, WeibullFitter
from pandas.testing import assert_frame_equal
from scipy.stats import kstest

from neurorad.phantom.plan import ENDPOINTS, LATENTS, MARKERS, exactly, plan, read_recipe, shares_of
from neurorad.problems import InputError

TRAITS = ["patient", "age", "sex", "ki67", *[f"latent_{name}" for name in LATENTS], "log_hazard", "os_days", "event"]


def without(recipe: dict, cohort: str) -> dict:
    """The recipe without a cohort, and without the faults that are planted in it."""
    cohorts = {name: entry for name, entry in recipe["cohorts"].items() if name != cohort}
    faults = [f for f in recipe["faults"] if cohort not in (f["cohort"], f.get("twin", {}).get("cohort"))]
    return {**recipe, "cohorts": cohorts, "faults": faults}


def rows(table: pd.DataFrame, cohort: str) -> pd.DataFrame:
    return table[table["cohort"] == cohort].reset_index(drop=True)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(shipped):
    one, again, other = plan(shipped, 3, 1), plan(shipped, 3, 1), plan(shipped, 4, 1)
    for name in ("patients", "released", "scans"):
        assert_frame_equal(getattr(one, name), getattr(again, name))
    assert one.faults == again.faults
    assert not np.isclose(one.patients["latent_size"], other.patients["latent_size"]).any()
    assert not one.patients["kind"].equals(other.patients["kind"])


@pytest.mark.parametrize("scale", [0.1, 1, 3.3])
def test_scale_multiplies_every_cohort_down_to_the_minimum(shipped, scale):
    numbers = plan(shipped, 0, scale).patients["cohort"].value_counts()
    expected = {name: max(4, round(entry["patients"] * scale)) for name, entry in shipped["cohorts"].items()}
    assert numbers.to_dict() == expected


def test_shares_are_given_by_largest_remainder():
    assert shares_of(10, {"a": 1, "b": 1, "c": 1}) == ["a"] * 4 + ["b"] * 3 + ["c"] * 3
    assert shares_of(7, {"a": 0.5, "b": 0.3, "c": 0.2}) == ["a"] * 4 + ["b"] * 2 + ["c"]
    random = np.random.default_rng(0)
    for _ in range(100):
        total, weights = int(random.integers(1, 60)), random.uniform(0.1, 9, 5)
        given = shares_of(total, dict(zip("abcde", weights, strict=True)))
        counts = np.array([given.count(name) for name in "abcde"])
        assert counts.sum() == total
        assert (np.abs(counts - total * weights / weights.sum()) < 1).all()


def test_a_share_is_met_exactly_and_in_random_order():
    drawn = [exactly(np.random.default_rng(seed), 20, 0.35) for seed in range(50)]
    assert {int(one.sum()) for one in drawn} == {7}
    anywhere = np.mean(drawn, axis=0)
    assert 0.1 < anywhere.min() <= anywhere.max() < 0.65


def test_every_cohort_has_its_stated_mix_of_diagnoses(shipped):
    recipe = {**shipped, "faults": []}
    patients = plan(recipe, 0, 1).patients
    for cohort, entry in recipe["cohorts"].items():
        kinds = rows(patients, cohort)["kind"].value_counts()
        wanted = pd.Series(entry["shares"], dtype=float)
        wanted = wanted / wanted.sum() * kinds.sum()
        assert (kinds.reindex(wanted.index, fill_value=0) - wanted).abs().max() < 1
    assert rows(patients, "upenn-gbm")["idh1"].sum() == 3


def test_the_diagnosis_implies_grade_idh_and_codeletion(large):
    patients = large.patients
    glioblastoma = patients["diagnosis"] == "glioblastoma"
    assert (patients.loc[glioblastoma, "grade"] == 4).all()
    assert (patients.loc[glioblastoma, "idh1"] == 0).all()
    assert ((patients["1p19q"] == 1) == (patients["diagnosis"] == "oligodendroglioma")).all()
    assert (patients.loc[patients["1p19q"] == 1, "idh1"] == 1).all()


@pytest.mark.parametrize("scale", [1, 7])
def test_prevalence_is_exact_in_every_stratum_of_every_cohort(shipped, scale):
    patients = plan({**shipped, "faults": []}, 1, scale).patients
    stratum = patients["idh1"] + patients["1p19q"]
    for marker, shares in shipped["prevalence"].items():
        for (cohort, group), labels in patients.groupby([patients["cohort"], stratum])[marker]:
            assert labels.sum() == int(shares[group] * len(labels) + 0.5), (cohort, marker, group)


def test_a_release_tells_exactly_the_stated_share_of_each_marker(shipped):
    recipe = {**shipped, "faults": []}
    made = plan(recipe, 0, 1)
    told = made.released.groupby("cohort")[list(ENDPOINTS)].count()
    assert (told.drop(["ucsf-pdgm", "upenn-gbm", "cuimc"]) == 0).all(axis=None)
    assert told.loc["upenn-gbm", ["egfr", "grade", "ki67", "1p19q"]].sum() == 0
    assert told.loc["ucsf-pdgm", "mgmt"] == round(0.86 * 36)
    assert told.loc["upenn-gbm", "mgmt"] == round(0.7 * 30)
    assert told.loc["cuimc", ["egfr", "atrx", "tp53", "cdkn2ab", "tert"]].eq(round(0.9 * 24)).all()
    assert told.loc["cuimc", ["idh1", "mgmt", "1p19q", "grade"]].eq(24).all()
    truth = made.patients[list(ENDPOINTS)].to_numpy(float)
    released = made.released[list(ENDPOINTS)].to_numpy(float)
    assert (np.isnan(released) | (released == truth)).all()
    upenn = rows(made.released, "upenn-gbm")["idh1"]
    assert upenn.eq(1).sum() == 3  # the few mutants all stay known
    assert upenn.isna().sum() > 0


def test_dropping_or_reordering_cohorts_leaves_every_other_patient_as_it_was(shipped):
    whole = plan(shipped, 0, 1)
    fewer = plan(without(shipped, "upenn-gbm"), 0, 1)
    turned = plan({**shipped, "cohorts": dict(reversed(shipped["cohorts"].items()))}, 0, 1)
    for cohort in shipped["cohorts"]:
        for name in ("patients", "released", "scans"):
            expected = rows(getattr(whole, name), cohort)
            assert_frame_equal(rows(getattr(turned, name), cohort), expected)
            if cohort != "upenn-gbm":
                assert_frame_equal(rows(getattr(fewer, name), cohort), expected)
    assert "upenn-gbm" not in set(fewer.patients["cohort"])


def test_scale_redraws_who_is_positive_but_not_the_persons_own_chance(shipped):
    """What does not hang on a label is equal; a latent moves by its effect where the label moves."""
    recipe = {**shipped, "faults": []}
    small, big = (rows(plan(recipe, 0, scale).patients, "cuimc").head(12) for scale in (0.5, 3))
    assert small["patient"].tolist() == big["patient"].tolist()
    assert small[["sex", "ki67", "latent_uptake"]].equals(big[["sex", "ki67", "latent_uptake"]])
    for endpoint in MARKERS:
        effect = shipped["effects"][endpoint]
        moved = effect["effect"] * (big[endpoint] - small[endpoint])
        np.testing.assert_allclose(big["latent_" + effect["latent"]], small["latent_" + effect["latent"]] + moved)
    unmoved = small["kind"] == big["kind"]
    assert unmoved.any()
    assert small.loc[unmoved, "age"].equals(big.loc[unmoved, "age"])


def test_latents_are_standard_normal_around_half_the_effect(large, shipped):
    for name, entry in shipped["effects"].items():
        if name == "ki67":
            continue
        latent = large.patients[f"latent_{entry['latent']}"]
        positive = large.patients["grade"].ge(4) if name == "grade" else large.patients[name].eq(1)
        for side, centre in ((positive, entry["effect"] / 2), (~positive, -entry["effect"] / 2)):
            assert kstest(latent[side] - centre, "norm").pvalue > 1e-3, name


def test_latents_of_different_endpoints_are_independent_given_the_labels(large):
    one_kind = large.patients[large.patients["kind"] == "gbm"]
    latents = one_kind[["latent_mismatch", "latent_enhancing", "latent_frontal", "latent_uptake"]]
    off_diagonal = latents.corr().to_numpy()[np.triu_indices(4, 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(len(one_kind))


def test_ki67_is_log_normal_and_correlates_with_its_latent_as_stated(large):
    inside = large.patients[large.patients["ki67"].between(2, 90)]
    assert large.patients["ki67"].median() == 11
    assert large.patients["ki67"].between(1, 95).all()
    quartiles = np.log(large.patients["ki67"].quantile([0.25, 0.75]))
    assert np.diff(quartiles)[0] / (2 * 0.67449) == pytest.approx(0.8, abs=0.06)
    assert np.corrcoef(np.log(inside["ki67"]), inside["latent_uptake"])[0, 1] == pytest.approx(0.6, abs=0.04)


def test_survival_follows_the_stated_weibull_hazard(large, shipped):
    """H(t) = (t / scale)^shape exp(log hazard) is unit exponential; censoring is known, so Kaplan-Meier is compared."""
    law, patients = shipped["survival"], large.patients
    hazard = (patients["os_days"] / law["scale"]) ** law["shape"] * np.exp(patients["log_hazard"])
    curve = KaplanMeierFitter().fit(hazard, patients["event"]).survival_function_["KM_estimate"]
    early = curve[curve.index < 3]
    assert np.abs(early - np.exp(-early.index)).max() < 1.95 / np.sqrt(len(patients)) + 0.005
    fitted = WeibullFitter().fit(hazard, patients["event"])
    assert fitted.rho_ == pytest.approx(1, abs=0.04)
    assert fitted.lambda_ == pytest.approx(1, abs=0.04)


def test_a_cox_model_finds_the_planted_coefficients(large, shipped):
    patients = large.patients
    table = pd.DataFrame(
        {
            **{name: patients[f"latent_{name}"] for name in ("necrosis", "size", "enhancing")},
            "age_decade": patients["age"] / 10,
            "idh1": patients["idh1"],
            **patients[["os_days", "event"]],
        }
    )
    found = CoxPHFitter().fit(table, "os_days", "event").summary
    for name in ("necrosis", "size", "enhancing", "age_decade", "idh1"):
        assert abs(found.loc[name, "coef"] - shipped["survival"][name]) < 4 * found.loc[name, "se(coef)"], name


def test_follow_up_censors_within_its_stated_days(large, shipped):
    for cohort in ("ucsf-pdgm", "upenn-gbm", "cuimc"):
        low, high = shipped["cohorts"][cohort]["followup"]
        own = rows(large.patients, cohort)
        censored = own.loc[own["event"] == 0, "os_days"]
        assert len(censored) > 20
        assert censored.between(low, high).all()
        assert own["os_days"].between(1, high).all()


def test_children_are_young_and_adults_are_adults(large):
    child = large.patients["cohort"] == "brats-ped"
    assert large.patients.loc[child, "age"].max() < 25
    assert large.patients.loc[~child, "age"].between(19, 90).all()


def test_one_person_under_two_ids_is_the_same_person_in_everything_but_the_id(shipped):
    made = plan(shipped, 0, 1)
    (double,) = [fault for fault in made.faults if fault["kind"] == "double patient"]
    assert (double["cohort"], double["twin_cohort"]) == ("brats-gli-pre", "ucsf-pdgm")
    pair = made.patients[made.patients["person"].duplicated(keep=False)]
    assert sorted(pair["patient"]) == sorted([double["patient"], double["twin_patient"]])
    one, other = (pair.iloc[k].drop(["cohort", "patient"]) for k in (0, 1))
    assert one.equals(other)
    persons = made.scans.set_index("patient")["person"]
    assert persons[double["patient"]] == persons[double["twin_patient"]]


def test_every_fault_of_the_recipe_is_planted_where_it_says(shipped):
    made = plan(shipped, 0, 1)
    scans = made.scans
    assert rows(scans, "brats-men")["missing"].tolist() == ["", "", "t2f", "", "", "", "", ""]
    assert rows(scans, "cuimc")["missing"].iloc[3] == "t2f"
    assert rows(scans, "brats-ped")["truncated"].tolist() == ["", "t1c", "", "", "", "", "", ""]
    assert (scans["missing"] != "").sum() == 2
    assert (scans["truncated"] != "").sum() == 1
    (typo,) = [fault for fault in made.faults if fault["kind"] == "label typo"]
    own = made.released["patient"] == typo["patient"]
    assert made.released.loc[own, "mgmt"].isna().all()
    assert made.patients.loc[own, "mgmt"].eq(1).all()
    wanted = [(f["stage"], f["keyword"]) for f in shipped["faults"]]
    planted = [(f["stage"], f["keyword"]) for f in made.faults if f["kind"] != "longitudinal patient"]
    assert sorted(planted) == sorted(wanted)


def test_every_patient_with_several_time_points_is_listed(shipped):
    made = plan(shipped, 0, 1)
    times = made.scans.groupby(["cohort", "patient"])["scan"].apply(sorted)
    several = {patient: scans for (_, patient), scans in times.items() if len(scans) > 1}
    listed = {f["patient"]: f["scans"] for f in made.faults if f["kind"] == "longitudinal patient"}
    assert listed == several
    assert {"upenn-gbm", "lumiere", "brats-gli-post", "mu-glioma-post"} == {
        f["cohort"] for f in made.faults if f["kind"] == "longitudinal patient"
    }
    first = ~made.scans.duplicated(["cohort", "patient"])
    assert made.scans.loc[first, "days"].eq(0).all()
    assert made.scans.loc[~first, "days"].between(70, 320).all()


def test_scans_of_one_cohort_have_names_of_their_own(large):
    assert not large.scans.duplicated(["cohort", "scan"]).any()
    assert not large.patients.duplicated(["cohort", "patient"]).any()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_no_size_is_refused_by_its_value(shipped, scale):
    with pytest.raises(InputError, match=f"scale {scale}"):
        plan(shipped, 0, scale)


@pytest.mark.parametrize("kind", ["missing sequence", "truncated file", "double patient"])
def test_a_fault_past_the_end_of_its_cohort_is_named(recipe, kind):
    fault = next(f for f in recipe["faults"] if f["kind"] == kind)
    fault["at"] = 400
    with pytest.raises(InputError, match=rf"`at: 400` is past the end of {fault['cohort']} \(\d+\)"):
        plan(recipe, 0, 1)


def test_a_twin_past_the_end_is_named_too(recipe):
    next(f for f in recipe["faults"] if f["kind"] == "double patient")["twin"]["at"] = 36
    with pytest.raises(InputError, match=r"`at: 36` is past the end of ucsf-pdgm \(36\)"):
        plan(recipe, 0, 1)


def test_a_typo_without_a_patient_to_misspell_is_named(recipe):
    recipe["prevalence"]["mgmt"] = [0, 0, 0]
    with pytest.raises(InputError, match="no methylated patient in ucsf-pdgm"):
        plan(recipe, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "not valid YAML"),
        ("- 1", "has no `cohorts`"),
        ("cohorts: {brats-gli: {}}", "unknown cohort brats-gli; known: brats-gli-post"),
        ("{cohorts: {cuimc: {}}, faults: [{kind: typo}]}", "unknown fault 'typo'; known: missing sequence"),
    ],
)
def test_a_recipe_that_is_none_is_one_error_with_its_path(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_recipe(path)
    assert "mine.yaml" in str(raised.value)
