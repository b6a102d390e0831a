"""Each claim of the paper finds this study's number in the table it names, or says why there is none."""

import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, write_table
from neurorad.problems import InputError
from neurorad.provenance.claims import COLUMNS, found, ledger, read_claims
from neurorad.reporting.tables import TABLES, table
from tests.reporting.conftest import study  # noqa: F401


def row(**cells) -> dict:
    first = {"encoder": "byol-base-s0", "method": "byol", "objective": "base", "site": "cuimc", "endpoint": "atrx"}
    return {**first, "protocol": "within_site", "metric": "auc", "value": 0.5, **cells}


PROBE = pd.DataFrame(
    [
        row(value=0.6),
        row(value=0.7, method="mae"),
        row(value=None, method="moco"),
        row(value=0.9, objective="dro"),
        row(value=0.9, site="upenn-gbm"),
        row(value=0.9, metric="brier"),
        row(value=None, endpoint="tert"),
    ]
)
ROWS = {"site": ["cuimc"], "metric": ["auc"], "objective": ["base"], "endpoint": ["atrx"]}


def claim(**others) -> dict:
    return {"claim": "c", "paper": 0.69, "source": "s", "file": "probe", "rows": ROWS, **others}


def test_the_number_is_the_mean_of_the_rows_that_are_meant():
    assert found(claim(), {"probe": PROBE}) == ("0.650", "mean of 2 rows, 1 more are not estimable")
    one = {**ROWS, "objective": ["dro"]}
    assert found(claim(rows=one), {"probe": PROBE}) == ("0.900", "one row")


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"file": "survival"}, "this study has no table survival"),
        ({"rows": {**ROWS, "site": ["ucsf-pdgm"]}}, "this study has no such row"),
        ({"rows": {**ROWS, "endpoint": ["tert"]}}, "not estimable in any of 1 rows"),
        ({"file": None}, "no number of a table"),
        ({"file": "comparison", "column": "p"}, "this study has no such row"),
    ],
)
def test_where_there_is_none_the_ledger_says_why(others, why):
    assert found(claim(**others), {"probe": PROBE, "comparison": PROBE[:0]}) == ("", why)


def test_a_column_that_the_table_lacks_is_an_error_that_names_it():
    with pytest.raises(InputError, match="table probe: has no column planet"):
        found(claim(rows={"planet": ["earth"]}), {"probe": PROBE})


def test_every_claim_of_the_paper_fits_the_tables_of_the_workflow(study):  # noqa: F811
    """Tables, columns and rules that the ledger names exist; each claim has a source, and all are said once."""
    claims = read_claims()
    study.comparison["p"] = 0.5
    assert {entry["file"] for entry in claims if "file" in entry} <= set(TABLES)
    made = ledger({name: table(name, study) for name in TABLES}, claims)
    assert list(made.columns) == list(COLUMNS)
    assert made["claim"].is_unique
    assert (made["source"] != "").all()
    assert set(made["rule"]) <= {f"table_{name}" for name in TABLES} | {"pretrain"}
    assert (made["this_study"] != "").sum() >= 10


def test_the_papers_contradictions_are_named():
    text = {entry["claim"]: " ".join(entry.get("contradiction", "").split()) for entry in read_claims()}
    assert "0.600" in text["c-index at UPENN-GBM, base"] and "0.647" in text["c-index at UCSF-PDGM, base"]
    assert "0.78" in text["ATRX, balanced accuracy at CUIMC, base"]
    assert "48 GB" in text["graphics memory in GB (RTX A6000)"]
    assert "ResNet10" in text["encoder"]
    assert sum(map(bool, text.values())) >= 20


def test_the_verb_writes_the_ledger_with_the_plan(tmp_path):
    write_table(tmp_path / "probe.csv", PROBE)
    main(
        ["claims", "--tables", str(tmp_path / "probe.csv"), "--plan", "a stamp", "--out", str(tmp_path / "claims.csv")]
    )
    made = read_table(tmp_path / "claims.csv").set_index("claim")
    assert float(made.loc["ATRX, AUC at CUIMC, base", "this_study"]) == pytest.approx(0.65)
    assert set(made["plan"]) == {"a stamp"}
    assert made.loc["c-index at CUIMC, base", "made_of"] == "this study has no table survival"
