"""The labels' readers give back exactly what the written tables release, and stop at the planted typo."""

import numpy as np
import pandas as pd
import pytest

from neurorad.cohorts.identity import audit
from neurorad.cohorts.inventory import pseudonym
from neurorad.cohorts.label_tables import dictionaries, read_labels
from neurorad.cohorts.labels import aliases, harmonise, patients_of
from neurorad.files import write_table
from neurorad.phantom.plan import ENDPOINTS, plan
from neurorad.phantom.tables import TABLES

NAMES = {
    "ucsf-pdgm": "UCSF-PDGM-metadata_v5.csv",
    "upenn-gbm": "UPENN-GBM_clinical_info_v2.1.csv",
    "cuimc": "cuimc.csv",
}


@pytest.fixture
def written(shipped, tmp_path):
    """The plan, the raw table as read back from its file, the harmonised one and its problems."""

    def write(cohort, seed):
        made = plan(shipped, seed, 1)
        name, maker = TABLES[cohort]
        write_table(tmp_path / name, maker(made, seed))
        raw, rules = read_labels(tmp_path / name, cohort)
        exams, problems, _ = harmonise(raw, rules, cohort)
        return made, raw, patients_of(exams).set_index("patient"), problems

    return write


def of_cohort(table: pd.DataFrame, cohort: str) -> pd.DataFrame:
    """Rows of a cohort by the patient's name as the labels' reader gives it."""
    own = table[table["cohort"] == cohort]
    names = [pseudonym(cohort, name) for name in own["patient"]] if cohort == "cuimc" else own["patient"]
    return own.assign(patient=names).set_index("patient")


def test_each_table_has_its_releases_file_name():
    assert {cohort: name for cohort, (name, _) in TABLES.items()} == NAMES


@pytest.mark.parametrize("cohort", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_reading_a_table_gives_back_what_the_plan_released(written, cohort, seed):
    made, _, patients, problems = written(cohort, seed)
    typos = [f["patient"] for f in made.faults if f["kind"] == "label typo" and f["cohort"] == cohort]
    released = of_cohort(made.released, cohort).drop(typos)
    people = of_cohort(made.patients, cohort).drop(typos)
    assert len(problems) == len(typos)
    assert sorted(patients.index) == sorted(released.index)
    patients = patients.loc[released.index]
    for endpoint in ENDPOINTS:
        np.testing.assert_array_equal(
            patients[endpoint].to_numpy(float), released[endpoint].to_numpy(float), err_msg=endpoint
        )
    assert patients["os_days"].astype(int).tolist() == people["os_days"].tolist()
    assert patients["event"].astype(int).tolist() == people["event"].tolist()
    assert patients["sex"].tolist() == people["sex"].tolist()
    assert (patients["age"].astype(float) - people["age"]).abs().max() <= 0.5
    if cohort != "upenn-gbm":
        assert patients["diagnosis"].tolist() == people["diagnosis"].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_typo_is_the_only_problem_and_names_its_cell(written, seed):
    made, _, patients, problems = written("ucsf-pdgm", seed)
    (typo,) = [f for f in made.faults if f["kind"] == "label typo"]
    (problem,) = problems
    assert (problem.patient, problem.column, problem.value) == (typo["patient"], "MGMT status", "postive")
    assert typo["keyword"] in str(problem)
    assert "did you mean 'positive'?" in problem.hint
    assert typo["patient"] not in patients.index


def test_ucsf_spells_ids_and_unknowns_as_the_release_does(written):
    made, raw, _, _ = written("ucsf-pdgm", 0)
    assert raw["ID"].str.fullmatch(r"UCSF-PDGM-\d{3}").all()
    assert (raw["MGMT status"] == "unknown").sum() == 36 - round(0.86 * 36)
    assert set(raw["MGMT status"]) == {"positive", "negative", "unknown", "postive"}
    assert (raw.loc[raw["MGMT status"] == "negative", "MGMT index"] == "0").all()
    assert raw["IDH"].nunique() > 2
    assert (raw["IDH"] == "wildtype").sum() == (of_cohort(made.patients, "ucsf-pdgm")["idh1"] == 0).sum()


def test_upenn_lists_every_scan_and_counts_survival_from_the_baseline(written):
    made, raw, patients, _ = written("upenn-gbm", 0)
    scans = made.scans[made.scans["cohort"] == "upenn-gbm"]
    assert raw["ID"].tolist() == scans["scan"].tolist()
    assert raw["ID"].str.endswith("_21").sum() == 2
    dead = raw["Survival_Status"] == "Deceased"
    assert (raw.loc[dead, "Survival_Censor"] == "Not Available").all()
    assert (raw.loc[~dead, "Survival_from_surgery_days_UPDATED"] == "Not Available").all()
    assert set(raw.loc[~dead, "Survival_Status"]) == {"Alive", "Lost to Follow-up"}
    assert patients["event"].eq(0).sum() == (~dead & raw["ID"].str.endswith("_11")).sum() > 0
    follow_up = raw[raw["ID"].str.endswith("_21")]
    baseline = raw.set_index("ID")
    for row in follow_up.to_dict("records"):
        first = baseline.loc[row["ID"].replace("_21", "_11")]
        column = (
            "Survival_Censor" if first["Survival_Censor"] != "Not Available" else "Survival_from_surgery_days_UPDATED"
        )
        assert int(first[column]) - int(row[column]) == int(row["Time_since_baseline_preop"])


def test_the_aliases_of_ucsf_lead_the_audit_to_the_planted_double(written):
    """The patient with two ids is removed from pretraining, and nobody else is."""
    made, raw, _, _ = written("ucsf-pdgm", 0)
    (double,) = [f for f in made.faults if f["kind"] == "double patient"]
    names = aliases(raw, dictionaries("ucsf-pdgm")[0], "ucsf-pdgm")
    assert names["patient"].tolist() == [double["twin_patient"]]
    scans = made.scans[made.scans["cohort"].isin(["brats-gli-pre", "ucsf-pdgm"])]
    scans = scans.assign(volume=scans["scan"], sha256=scans["scan"], group="all")
    roles = {"brats-gli-pre": ["pretrain"], "ucsf-pdgm": ["test"]}
    same = {name: name for name in roles}
    _, removed, _, report = audit(scans, roles, same, names, [])
    assert removed["patient"].tolist() == [double["patient"]]
    assert double["keyword"] in removed["reason"].item()
    assert report["stamp"] == ""


@pytest.mark.parametrize("cohort", NAMES)
def test_the_same_seed_writes_the_same_table(shipped, cohort):
    made = plan(shipped, 5, 1)
    maker = TABLES[cohort][1]
    one, again = maker(made, 5), maker(plan(shipped, 5, 1), 5)
    assert one.to_csv() == again.to_csv()
    assert one.to_csv() != maker(plan(shipped, 6, 1), 6).to_csv()


def test_latents_and_hazard_stand_in_no_table(shipped):
    made = plan(shipped, 0, 1)
    for _, maker in TABLES.values():
        assert not [name for name in maker(made, 0).columns if "latent" in name or "hazard" in name]
