"""The end of a run in a few lines."""

import pandas as pd

from neurorad.files import write_json, write_table
from neurorad.summary import summary


def test_made_left_out_and_where_to_look(tmp_path):
    results = tmp_path / "results"
    for path in ("report.html", "figures/fig1.svg", "tables/a.csv", "tables/b.csv", "volumes/x/qc.html"):
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).write_text("x")
    left = [
        ("x", "s1", "volume", "no brain"),
        ("x", "s2", "volume", "no brain"),
        ("x", "s3", "leakage", "same patient"),
    ]
    write_table(
        results / "cohorts" / "x" / "excluded.tsv", pd.DataFrame(left, columns=["cohort", "scan", "stage", "reason"])
    )
    write_json(results / "cohorts" / "leakage_audit.json", {"stamp": "LEAKAGE NOT EXCLUDED: why"})
    assert summary(results).splitlines() == [
        "Made: 1 figures, 2 tables.",
        "Mind: LEAKAGE NOT EXCLUDED: why",
        "Left out: 3 entries (2 at volume, 1 at leakage), most from x 3; each with its reason in results/cohorts/*/excluded.tsv.",
        "Look first at results/report.html.",
        "Then at results/volumes/*/qc.html: every volume of 1 cohort.",
    ]


def test_an_empty_folder_has_nothing_to_say(tmp_path):
    assert summary(tmp_path) == ""
