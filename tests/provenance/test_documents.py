"""Checklists answer with this study's own numbers and say where the author must write; cards and sheets name data and limits."""

import re

import pandas as pd
import pytest
import yaml

from neurorad import RESOURCES, __version__
from neurorad.analysis_plan import with_plan
from neurorad.cli import main
from neurorad.files import read_table, write_json, write_table
from neurorad.provenance.documents import CHECKLISTS, TO_WRITE, checklist, documents, items_of, table
from neurorad.provenance.study_facts import Study, demographics, facts, primary_result
from neurorad.reporting.tables import TABLES
from neurorad.reporting.tables import table as made_table
from tests.reporting.conftest import study as drawn  # noqa: F401

CARD = {
    "architecture": {"name": "resnet10"}, "dimension": 128, "parameters": 918880, "method": "byol", "objective": "dro", "seed": 0,
    "groups": {"north": {"patients": 4, "scans": 6}}, "manifest_sha256": "f" * 64, "patients": 37, "scans": 47,
    "preprocessing": {"axes": "RAS", "atlas": "MNI152", "missing_sequence": "exclude", "normalisation": "z-score", "shape": [4, 5, 6],
                      "spacing_mm": 3.0},
    "preset": {"name": "demo", "values": {"training": {"steps": 20, "batch_size": 21, "learning_rate": 5e-4}}},
    "sequences": ["t1n", "t1c", "t2w", "t2f"], "versions": {"torch": "2.14.1"},
}  # fmt: skip


@pytest.fixture
def study(drawn) -> Study:  # noqa: F811
    config = yaml.safe_load((RESOURCES.parent / "config.yaml").read_text())
    declared = config["analysis_plan"]
    patients = pd.DataFrame(
        {"cohort": ["cuimc"] * 6 + ["upenn-gbm"] * 3, "patient": list("abcdefghi"), "age": [40, 50, 60, 70, 80, None] + [1] * 3,
         "sex": ["F", "F", "M", "M", "M", None] + ["F"] * 3}
    )  # fmt: skip
    return Study(
        config=config,
        audit={"stamp": "", "overlaps": [{"cohort": "brats-gli-pre", "patient": "x", "reason": "y"}]},
        plan="plan not locked",
        tables={name: with_plan(made_table(name, drawn), "plan not locked", declared) for name in TABLES},
        scans=pd.DataFrame({"cohort": ["cuimc"] * 6, "state": ["skull"] * 6, "tumour": [None] * 6}),
        patients=patients,
        excluded=pd.DataFrame({"cohort": ["cuimc"], "stage": ["volume"], "reason": ["patient ab12 moved"]}),
        cards={"byol-dro-s0": CARD},
        weights={"byol-dro-s0": "c" * 64},
        sources=yaml.safe_load((RESOURCES / "data_sources.yaml").read_text()),
    )


@pytest.mark.parametrize(("name", "number"), [("TRIPOD-AI", 52), ("CLAIM-2024", 44)])
def test_a_checklist_has_every_item_once_in_order_and_each_is_answered_or_left_to_the_author(name, number):
    items = items_of(name)["items"]
    assert len(items) == number
    labels = [entry["item"] for entry in items]
    assert len(set(labels)) == number
    assert labels == sorted(labels, key=lambda label: (int(re.match(r"\d+", label)[0]), label))
    assert {int(re.match(r"\d+", label)[0]) for label in labels} == set(range(1, 28 if name == "TRIPOD-AI" else 45))
    assert all("answer" in entry or "author" in entry for entry in items)
    assert all({"section", "asks"} <= set(entry) for entry in items)


@pytest.mark.parametrize("name", CHECKLISTS)
def test_answers_hold_this_studys_values_and_nothing_is_left_open(study, name):
    text = checklist(name, facts(study))
    assert "{" not in text.replace("{patient}", "")
    for value in ("5 folds x 3 repeats", "resamples of patients", __version__, "cuimc", "IDH1", "Plan not locked"):
        assert value in text, value
    assert text.count(TO_WRITE) >= 10
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == len(items_of(name)["items"]) + 2


def test_the_flow_in_the_checklist_is_that_of_the_table(study):
    total = study.tables["supplementary_1_cohorts"].set_index("cohort").loc["total"]
    known = facts(study)
    assert known["found"] == f"{int(total['scans']):,}"
    assert known["evaluated_patients"] == f"{int(total['evaluated_patients']):,}"


def test_the_primary_result_is_the_planned_row():
    row = {
        "encoder": "a minus b",
        "endpoint": "idh1",
        "site": "cuimc",
        "metric": "auc_difference",
        "ci_low": 0.0,
        "ci_high": 0.2,
    }
    rows = pd.DataFrame([{**row, "value": 0.1}, {**row, "value": None}, {**row, "endpoint": "mgmt", "value": 0.9}])
    planned = with_plan(rows, "", {"primary": [{"endpoint": ["idh1"], "metric": ["auc_difference"]}]})
    assert primary_result(planned, None) == (
        "Primary: a minus b, idh1, cuimc: auc_difference 0.100 (0.000 to 0.200); 1 not estimable."
    )
    assert primary_result(None, None) == "No number was planned as primary."


def test_few_patients_are_counted_and_not_described(study):
    assert demographics(study.patients, "cuimc") == "6 patients, median age 60 (quartiles 50 to 70), 40% female"
    assert demographics(study.patients, "upenn-gbm") == "3 patients"


def test_a_model_card_says_what_it_is_from_what_and_what_it_is_worth(study):
    text = documents(study)["model_cards/byol-dro-s0.md"]
    for value in (
        "918,880 parameters",
        "c" * 64,
        "| north | 4 | 6 |",
        "t1n, t1c, t2w, t2f in this order",
        "not for",
        "Limits",
    ):
        assert value.lower() in text.lower(), value
    probe = study.tables["probe"]
    row = probe[
        (probe["encoder"] == "byol-dro-s0") & (probe["protocol"] == "within_site") & (probe["metric"] == "auc")
    ].dropna(subset=["value"])
    assert len(row) and f"{row['value'].iloc[0]:.3f}" in text


def test_a_data_sheet_says_terms_counts_and_that_a_phantom_is_one(study):
    texts = documents(study)
    sheet = texts["data_sheets/cuimc.md"]
    assert "Synthetic data" in sheet
    assert "private: not distributed" in sheet and "volume 1" in sheet and "skull 6" in sheet
    assert "ab12" not in sheet, "single reasons name patients"
    assert "| scans taken out of pretraining for overlap | 1 |" in texts["data_sheets/brats-gli-pre.md"]
    assert "https://doi.org/10.7937/tcia.bdgf-8v37" in texts["data_sheets/ucsf-pdgm.md"]
    study.config["cohorts"]["cuimc"]["images"] = "/data/hospital"
    real = documents(study)["data_sheets/cuimc.md"]
    assert "Synthetic" not in real and "/data/hospital" not in real


def test_a_cell_cannot_break_its_table():
    assert table(("a",), [("x | y\n<script>",)]).splitlines()[2] == "| x \\| y &lt;script> |"


def test_the_verb_writes_every_document(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dict(study.config)))
    write_json(tmp_path / "audit.json", study.audit)
    for name, rows in study.tables.items():
        write_table(tmp_path / "tables" / f"{name}.csv", rows)
    for name in ("scans", "patients", "excluded"):
        write_table(tmp_path / "cohorts" / "all" / f"{name}.tsv", getattr(study, name))
    write_json(tmp_path / "byol-dro-s0" / "card.json", CARD)
    (tmp_path / "byol-dro-s0" / "encoder.safetensors").write_text("weights")
    main(
        [
            "documents",
            "--config",
            "config.yaml",
            "--audit",
            "audit.json",
            "--cohorts",
            "cohorts/all",
            "--encoders",
            "byol-dro-s0",
        ]
        + ["--tables", *map(str, (tmp_path / "tables").glob("*.csv")), "--out", "out"]
    )
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.md")}
    assert written == set(documents(study))
    rows = read_table(tmp_path / "out" / "TRIPOD-AI.csv")
    assert list(rows.columns) == ["item", "section", "asks_for", "this_study"]
    assert rows["this_study"].notna().all()


def test_every_release_has_a_licence_with_its_source_or_says_that_none_was_verified():
    sources = yaml.safe_load((RESOURCES / "data_sources.yaml").read_text(encoding="utf-8"))
    for name, source in sources.items():
        if "licence" in source:
            assert "TCIA" in source["terms"] and any("10.7937" in cited for cited in source["cite"]), name
        else:
            said = "not verified here: check before use|private: not distributed|author must write"
            assert re.search(said, source["terms"]), name
