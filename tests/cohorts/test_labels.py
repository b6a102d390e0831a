"""Real tables against the counts that their releases document, and mutated rows that must never pass in silence."""

import openpyxl
import pandas as pd
import pytest

from neurorad.cohorts.labels import (
    MARKERS,
    PATIENT_COLUMNS,
    SAFE,
    aliases,
    data_dictionary,
    harmonise,
    patients_of,
)
from neurorad.endpoints import endpoints
from neurorad.evaluation.folds import check_labels, glioblastoma_survival
from neurorad.problems import InputError
from neurorad.reporting.cohort_figures import label_counts
from tests.cohorts.raw_tables import counts, own, table, ucsf

FOLLOW_UPS = {"315": "0433_FU007d", "278": "0431_FU001d", "175": "0396_FU175d"}
FOLLOW_UPS |= {"138": "0429_FU003d", "181": "0409_FU001d", "289": "0391_FU016d"}


@pytest.mark.parametrize("version", ["v2", "v5"])
def test_ucsf(real, version):
    raw, rules, exams = real[f"UCSF-PDGM-metadata_{version}.csv"]
    assert (len(exams), exams["patient"].nunique()) == (501, 495)
    assert counts(exams["idh1"]) == (103, 398, 0)
    assert counts(exams["mgmt"]) == (302, 114, 5 + 80)
    assert counts(exams["1p19q"]) == (9, 395, 6 + 91)
    assert counts(exams["event"]) == (251, 250, 0)
    assert exams["os_days"].isna().sum() == 1
    assert exams["resection"].value_counts().to_dict() == {"GTR": 248, "STR": 198, "biopsy": 54}
    assert exams["diagnosis"].eq("glioblastoma").sum() == 374
    assert aliases(raw, rules, "ucsf")["alias"].nunique() == 298
    assert {"UCSF-PDGM-0004", *(f"UCSF-PDGM-{name}" for name in FOLLOW_UPS.values())} <= set(exams["scan"])
    assert not set(exams["patient"]) & {f"UCSF-PDGM-0{old}" for old in FOLLOW_UPS}


def test_both_spellings_of_ucsf_follow_ups_are_one_exam_of_one_patient(real):
    raw, _, old = real["UCSF-PDGM-metadata_v2.csv"]
    _, _, new = real["UCSF-PDGM-metadata_v5.csv"]
    for number, name in FOLLOW_UPS.items():
        row = old[(raw["ID"] == f"UCSF-PDGM-{number}").to_numpy()].iloc[0]
        assert (row["scan"], row["patient"]) == (f"UCSF-PDGM-{name}", f"UCSF-PDGM-{name[:4]}")
    order = ["patient", "scan"]
    old, new = (table.sort_values(order, ignore_index=True).drop(columns="cohort") for table in (old, new))
    pd.testing.assert_frame_equal(old[order], new[order])
    pd.testing.assert_frame_equal(patients_of(old.assign(cohort="x")), patients_of(new.assign(cohort="x")))
    assert len(patients_of(new.assign(cohort="x"))) == 495


def test_upenn_keeps_every_censored_patient(real):
    raw, _, exams = real["UPENN-GBM_clinical_info_v2.1.csv"]
    baseline = raw["ID"].str.endswith("_11").to_numpy()
    assert (len(exams), baseline.sum()) == (671, 611)
    assert counts(exams["idh1"]) == (19, 546, 106)
    assert counts(exams["mgmt"]) == (121, 170, 32 + 348)
    assert counts(exams["event"]) == (644, 17 + 7, 3)
    assert exams["resection"].value_counts().to_dict() == {"GTR": 362, "no GTR": 211}
    assert exams["kps"].notna().sum() == 75
    # Of the 611 all but the three uncertain ones have a time; times of follow-up rows count from another day.
    assert exams[baseline]["os_days"].notna().sum() == 608
    assert exams[~baseline]["os_days"].isna().all()
    patients = patients_of(exams)
    assert len(patients) == 630
    censored = baseline & raw["Survival_Status"].isin(["Alive", "Lost to Follow-up"]).to_numpy()
    kept = patients[patients["event"].eq(0) & patients["os_days"].notna()].set_index("patient")["os_days"]
    truth = raw[censored].set_index(raw["ID"][censored].str[:15])["Survival_Censor"].astype(int)
    assert len(truth) == 23
    assert kept.astype(int).to_dict() == truth.to_dict()
    assert glioblastoma_survival(check_labels(patients, endpoints())).sum() > 400


def test_upenn_patients_are_described_by_their_baseline(real):
    raw, _, exams = real["UPENN-GBM_clinical_info_v2.1.csv"]
    ages = patients_of(exams).set_index("patient")["age"]
    first = raw.assign(patient=raw["ID"].str[:15]).sort_values("ID").drop_duplicates("patient").set_index("patient")
    assert ages.astype(float).to_dict() == first["Age_at_scan_years"].astype(float).to_dict()


def mu_truth(path):
    """Each row's marker by the workbook alone: what its own sheet says that the code means."""
    book = openpyxl.load_workbook(path)
    meanings, name = {}, None
    for first, second in book["Data Dictionary"].iter_rows(max_col=2, values_only=True):
        name = first or name
        code, _, meaning = str(second).partition("-")
        if code.strip().isdigit():
            meanings.setdefault(name, {})[int(code)] = meaning.strip()
    header, *rows = book["MU Glioma Post"].iter_rows(values_only=True)
    rows = [dict(zip(header, row, strict=True)) for row in rows if row[0]]
    return {column: [codes[row[column]] for row in rows] for column, codes in meanings.items() if column in rows[0]}


def test_mu_glioma_post_says_what_its_own_dictionary_says(real, shared):
    name = "MU-Glioma-Post_ClinicalData-July2025.xlsx"
    raw, _, exams = real[name]
    assert (len(exams), exams["patient"].nunique()) == (203, 203)
    truth = mu_truth(shared / "tables" / name)
    columns = {
        "idh1": ("IDH1 mutation", "IDH1 mutation is present"),
        "mgmt": ("MGMT methylation", "MGMT promoter methylation"),
        "1p19q": ("1p/19q", "Co-deletion"),
        "egfr": ("EGFR amplification", "EGFR amplification"),
        "atrx": ("ATRX mutation", "ATRX mutation is present"),
        "tp53": ("TP53 alteration", "TP53 alteration is present"),
        "cdkn2ab": ("CDKN2A/B deletion", "CDKN2A/B deletion is present"),
        "tert": ("TERT promoter mutation", "TERT promoter mutation is present"),
    }
    assert set(columns) == set(MARKERS)
    for ours, (theirs, positive) in columns.items():
        expected = [1 if text == positive else 0 if text.startswith("No ") else -1 for text in truth[theirs]]
        assert exams[ours].fillna(-1).tolist() == expected, ours
        assert set(expected) >= {0, 1}
    assert counts(exams["event"]) == (97, 106, 0)
    assert exams["os_days"].notna().sum() == (raw["Number of days from Diagnosis to death (Days)"] != "").sum() == 96
    assert exams["progressed"].value_counts().to_dict() == {1: 152, 0: 51}
    # Of 151 dates of a first progression, three lie before the diagnosis.
    assert exams["pfs_days"].notna().sum() == 148 and exams["radiotherapy_days"].notna().sum() == 134


def test_brats_survival(real):
    raw, _, exams = real["BraTS2020_survival_info.csv"]
    assert len(exams) == 236
    assert exams["os_days"].tolist() == raw["Survival_days"].astype(int).tolist()
    assert exams["resection"].value_counts().to_dict() == {"GTR": 119, "STR": 10}


def test_brats_name_mapping_states_names_and_no_label(real):
    raw, rules, exams = real["BraTS_name_mapping.csv"]
    assert exams.drop(columns=["patient", "scan", "cohort"]).isna().all().all()
    names = aliases(raw, rules, "brats")
    assert names["alias"].str.startswith("TCGA-").sum() == raw["TCGA_TCIA_subject_ID"].ne("NA").sum() == 167
    assert set(names["patient"]) == set(raw["BraTS_2019_subject_ID"])


def test_brats_writes_the_censored_as_alive():
    row = {"Brats20ID": "BraTS20_Training_084", "Age": "61.6", "Extent_of_Resection": "NA"}
    raw, rules = table("brats-gli-pre", {**row, "Survival_days": "ALIVE (361 days later)"})
    exams, problems, _ = harmonise(raw, rules, "x")
    assert (problems, exams["os_days"].tolist(), exams["event"].tolist()) == ([], [361], [0])
    for wrong in ("ALIVE", "ALIVE (361 days later", "ALIVE (-3 days later)", "361 days later)", "dead"):
        assert harmonise(*table("brats-gli-pre", {**row, "Survival_days": wrong}), "x")[1], wrong


def test_lumiere_gives_times_without_inventing_deaths():
    row = {"Survival time (weeks)": "52", "Sex": "female", "Age at surgery (years)": "61", "IDH (WT: wild type)": "WT"}
    row |= {"Patient": "Patient-001", "MGMT qualitative": "not methylated"}
    vague = {
        "Patient": "Patient-002",
        "IDH (WT: wild type)": "IDH1 neg, Sequencing required",
        "Survival time (weeks)": "na",
    }
    raw, rules = table("lumiere", row, {**row, **vague})
    exams, problems, effects = harmonise(raw, rules, "lumiere")
    assert problems == []
    assert exams["os_days"].fillna(-1).tolist() == [364, -1]
    assert exams["event"].isna().all()
    assert exams["mgmt"].tolist() == [0, 0]
    assert exams["idh1"].fillna(-1).tolist() == [0, -1]
    assert effects[["decision", "value", "exams"]].to_numpy().tolist() == [
        ["idh_not_specified", vague["IDH (WT: wild type)"], 1]
    ]
    assert "event" in data_dictionary(rules, SAFE)["os_days"]["Description"]


@pytest.mark.parametrize(
    ("changes", "column", "hint"),
    [
        ({"MGMT status": "postive"}, "MGMT status", "did you mean 'positive'?"),
        ({"MGMT status": "POSTIVE"}, "MGMT status", "did you mean 'positive'?"),
        ({"MGMT status": "nan"}, "MGMT status", "is unknown"),
        ({"IDH": "mutated"}, "IDH", "did you mean 'mutated (NOS)'?"),
        ({"IDH": "IDH1 p.R132H"}, "IDH", "contradicts 'Glioblastoma, IDH-wildtype'"),
        ({"OS": "-3"}, "OS", "not between 0 and 12000"),
        ({"OS": "1e3"}, "OS", "is not a number"),
        ({"OS": "nan"}, "OS", "is not a number"),
        ({"OS": "unknwn"}, "OS", "did you mean 'unknown'?"),
        ({"Age at MRI": "66,5"}, "Age at MRI", "decimal point"),
        ({"Age at MRI": "٦٦"}, "Age at MRI", "is not a number"),
        ({"Sex": ""}, "Sex", "known are 'M', 'F'"),
        ({"1-dead 0-alive": ""}, "1-dead 0-alive", "known are '1', '0'"),
        ({"ID": "../../x"}, "ID", "no id of this release"),
        ({"ID": "ucsf-pdgm-004"}, "ID", "expected UCSF-PDGM-004"),
        ({"BraTS21 ID": "BraTS2021-97"}, "BraTS21 ID", "expected BraTS2021_00097"),
    ],
)
def test_what_no_dictionary_knows_is_named_with_its_place(changes, column, hint):
    exams, problems, _ = harmonise(*table("ucsf-pdgm", ucsf(ID="UCSF-PDGM-005"), ucsf(**changes)), "ucsf")
    (problem,) = problems
    assert (problem.row, problem.column, problem.value) == (3, column, changes.get(column))
    assert hint in str(problem)
    assert exams["scan"].tolist() == ["UCSF-PDGM-0005"]


@pytest.mark.parametrize("other", ["UCSF-PDGM-004", "UCSF-PDGM-0004"])
def test_two_rows_for_one_exam_are_refused(other):
    exams, problems, _ = harmonise(*table("ucsf-pdgm", ucsf(), ucsf(ID=other, Sex="F")), "ucsf")
    assert "second row for one exam" in str(problems[0])
    assert problems[0].row == 3
    assert exams.empty


def test_both_ids_of_a_follow_up_in_one_table_are_refused():
    rows = ucsf(ID="UCSF-PDGM-315"), ucsf(ID="UCSF-PDGM-0433_FU007d")
    assert "second row" in str(harmonise(*table("ucsf-pdgm", *rows), "ucsf")[1][0])


def upenn(**changes):
    row = {"ID": "UPENN-GBM-00001_11", "Gender": "F", "Age_at_scan_years": "52.16", "IDH1": "Wildtype"}
    row |= {"Survival_from_surgery_days_UPDATED": "960", "Survival_Status": "Deceased", "MGMT": "Not Available"}
    return row | {"Survival_Censor": "Not Available", "KPS": "80", "GTR_over90percent": "Y"} | changes


def test_two_survival_times_in_one_row_are_refused():
    _, problems, _ = harmonise(*table("upenn-gbm", upenn(Survival_Censor="800")), "upenn")
    assert "stands beside '960' in 'Survival_from_surgery_days_UPDATED'" in str(problems[0])


@pytest.mark.parametrize("column", ["", "x"])
def test_a_column_that_is_needed_is_asked_for(column):
    raw, rules = table("ucsf-pdgm", ucsf())
    raw = raw.drop(columns="Age at MRI") if not column else raw.rename(columns={"Age at MRI": "Age at  MRI"})
    with pytest.raises(InputError, match="no column 'Age at MRI'" + (r".*nearest: 'Age at  MRI'" if column else "")):
        harmonise(raw, rules, "ucsf")


@pytest.mark.parametrize("release", ["generic", "cuimc"])
def test_a_table_of_ones_own_may_lack_any_column_but_the_patient(release):
    raw, rules = table(release, own(kps="80", vendor="GE", idh1="1"))
    exams, problems, _ = harmonise(raw, rules, "own")
    assert problems == []
    assert exams.loc[0, ["kps", "vendor"]].tolist() == [80, "GE"]
    for name in set(own()) - {"patient", "os_days"}:
        names = ["os_days", "event"] if name == "event" else [name]
        lacking, problems, _ = harmonise(raw.drop(columns=names), rules, "own")
        assert problems == [] and lacking[names].isna().all().all()
        assert lacking["idh1"].tolist() == ([pd.NA] if name == "idh1" else [1])
    alone, problems, _ = harmonise(raw[["patient"]], rules, "own")
    assert problems == [] and len(alone) == 1
    assert all(rule.get("optional") for rule in rules["columns"].values())


@pytest.mark.parametrize("other", ["IDH1", "idh", "idh-1"])
def test_a_column_that_is_named_much_like_another_is_refused_with_both_ways_out(other):
    raw, rules = table("generic", own(idh1="1"))
    with pytest.raises(InputError) as problem:
        harmonise(raw.rename(columns={"idh1": other}), rules, "own", table="label table mine.csv")
    assert str(problem.value) == (
        f"cohort own: label table mine.csv has no column 'idh1' (nearest: '{other}'); rename '{other}' to 'idh1', or, if it "
        "is something else, give it a quite different name or delete it"
    )
    # Both ways are ways out.
    renamed, problems, _ = harmonise(raw.rename(columns={"idh1": "protein_stain"}), rules, "own")
    assert problems == [] and renamed["idh1"].isna().all()


@pytest.mark.parametrize(
    ("release", "days", "event"),
    [
        ("generic", "os_days", "event"),
        ("generic", "pfs_days", "progressed"),
        ("cuimc", "os_days", "event"),
        ("bids", "os_days", "event"),
    ],
)
def test_a_time_without_a_column_of_its_event_is_refused_and_the_reverse(release, days, event):
    raw, rules = table(release, {"patient": "A", "participant_id": "sub-01", days: "400", event: "1"})
    for gone, kept in ((event, days), (days, event)):
        with pytest.raises(InputError) as problem:
            harmonise(raw.drop(columns=gone), rules, "mine", table="label table t.csv")
        assert str(problem.value).startswith(
            f"cohort mine: label table t.csv has a column '{kept}' and none '{gone}'; a time to an event needs both"
        )
        assert str(problem.value).endswith(f"add '{gone}', or delete '{kept}'")
    neither, problems, _ = harmonise(raw.drop(columns=[days, event]), rules, "mine")
    assert problems == [] and neither[[days, event]].isna().all().all()
    both, problems, _ = harmonise(raw, rules, "mine")
    assert problems == [] and both[[days, event]].notna().all().all()


def test_capitals_hide_no_contradiction_and_no_decision():
    diagnosis = {"Final pathologic diagnosis (WHO 2021)": "GLIOBLASTOMA, IDH-WILDTYPE"}
    _, problems, _ = harmonise(*table("ucsf-pdgm", ucsf(**diagnosis, IDH="IDH1 P.R132H")), "ucsf")
    assert [(problem.column, problem.value) for problem in problems] == [("IDH", "IDH1 P.R132H")]
    exams, problems, effects = harmonise(*table("ucsf-pdgm", ucsf(**{"MGMT status": "Indeterminate"})), "ucsf")
    assert problems == [] and exams["left_open"].tolist() == ["mgmt"]
    assert effects.set_index("value")["exams"].to_dict() == {"indeterminate": 1, "relative co-deletion": 0}


def test_words_of_a_table_of_ones_own_mean_what_they_say():
    words = {"idh1": "mutant", "mgmt": "unmethylated", "1p19q": "codeleted", "egfr": "not amplified", "sex": "female"}
    words |= {"atrx": "wildtype", "tp53": "mutant", "cdkn2ab": "deleted", "tert": "wildtype"}
    exams, problems, _ = harmonise(*table("generic", own(**words)), "own")
    assert problems == []
    assert exams.loc[0, list(words)].tolist() == [1, 0, 1, 0, "F", 0, 1, 1, 0]
    _, problems, _ = harmonise(*table("generic", own(idh1="mut")), "own")
    assert "mut" in str(problems[0]) and "idh1" in str(problems[0])


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "a\\b", ""])
def test_a_private_id_that_is_a_path_is_refused_and_never_shown(name):
    exams, problems, _ = harmonise(*table("cuimc", own(patient=name)), "cuimc")
    assert exams.empty
    assert "no id of this release" in str(problems[0])
    assert problems[0].value == "(private)"


def test_private_names_stay_in_the_hospital():
    raw, rules = table("cuimc", own(patient="DOE^JANE"), own(patient="DOE^JANE"))
    exams, problems, _ = harmonise(raw, rules, "cuimc")
    assert "DOE" not in exams.to_csv() + "".join(map(repr, problems))


def test_a_time_without_an_event_is_refused_and_an_event_without_a_time_kept():
    exams, problems, _ = harmonise(*table("cuimc", own(event=""), own(patient="A2", os_days="")), "cuimc")
    assert [(problem.row, problem.column) for problem in problems] == [(2, "event")]
    assert "no event beside a survival time in 'os_days'" in str(problems[0])
    assert (exams["event"].tolist(), exams["os_days"].isna().tolist()) == ([1], [True])


def test_progression_treatment_and_protocol_are_read_where_a_table_has_them():
    more = {"pfs_days": "120", "progressed": "1", "radiotherapy_days": "-3", "protocol": "Tumour 3D v2"}
    exams, problems, _ = harmonise(*table("cuimc", own(**more)), "cuimc")
    assert problems == []
    (row,) = exams.to_dict("records")
    assert (row["pfs_days"], row["progressed"], row["radiotherapy_days"]) == (120, 1, -3)
    assert row["protocol"] == "Tumour 3D v2" and pd.isna(row["chemotherapy_days"])
    wrong = own(**more, chemotherapy_days="") | {"protocol": "<b>x</b>"}
    open_end = own(**more, chemotherapy_days="", patient="A2") | {"progressed": ""}
    _, problems, _ = harmonise(*table("cuimc", wrong, open_end), "cuimc")
    assert "is no plain name" in str(problems[0])
    assert "says no event beside a survival time in 'pfs_days'" in str(problems[1])


def test_patients_have_one_row_each_and_the_columns_that_later_stages_read(real):
    assert {"cohort", "patient", "age", "sex", "grade", "diagnosis", *MARKERS, "ki67"} < set(PATIENT_COLUMNS)
    for _, _, exams in real.values():
        patients = patients_of(exams)
        assert tuple(patients) == PATIENT_COLUMNS
        assert patients["patient"].is_unique
        assert set(patients["patient"]) == set(exams["patient"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "UCSF-PDGM-metadata_v5.csv",
            {"idh1": (495, 0, 0), "mgmt": (410, 5, 80), "1p19q": (398, 6, 91), "os": (494, 0, 1)},
        ),
        ("UPENN-GBM_clinical_info_v2.1.csv", {"idh1": (533, 97, 0), "mgmt": (275, 28, 327), "os": (608, 3, 19)}),
        ("MU-Glioma-Post_ClinicalData-July2025.xlsx", {"mgmt": (163, 11, 29), "tert": (37, 0, 166)}),
    ],
)
def test_every_patient_of_a_real_table_is_known_left_open_by_a_decision_or_not_stated(real, name, expected):
    raw, rules, exams = real[name]
    _, _, effects = harmonise(raw, rules, exams["cohort"].iloc[0])
    patients = patients_of(exams)
    counts = label_counts(patients, effects).set_index("endpoint")[["n", "left_open", "not_stated"]]
    assert (counts.sum(axis=1) == len(patients)).all()
    assert {endpoint: tuple(counts.loc[endpoint]) for endpoint in expected} == expected
    # Two countings of one thing: patient by patient, and decision by decision.
    by_decision = effects[effects["choice"] == "missing"].groupby("column")["patients"].sum()
    for column, number in by_decision.items():
        assert counts.loc["os" if column == "event" else column, "left_open"] == number
