"""The tables of the paper and its supplement."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from neurorad.problems import InputError
from neurorad.reporting.cohort_figures import label_counts
from neurorad.reporting.flow import scan_flow
from neurorad.reporting.inputs import Tables, require

PAPER_SCANS = {"brats-gli-pre": 1443, "brats-gli-post": 1809, "lumiere": 599, "mu-glioma-post": 596}
"""Scans that the paper's Table 1 counts for pretraining, where it names the release."""

PAPER_TOTAL = 7414
"""All pretraining scans of the paper, with BraTS-MEN, -MET and -PED."""


def cohort_table(tables: Tables) -> pd.DataFrame:
    """Scans and patients of each cohort, as in the flow of scans, beside the paper's number of scans."""
    flow = scan_flow(tables.scans, tables.volumes, tables.excluded, tables.manifest)
    counts = pd.DataFrame(
        {
            "scans": flow.found,
            "patients": flow.patients["found"],
            "left_out_scans": sum(flow.left.values()),
            "pretraining_scans": flow.pretraining,
            "pretraining_patients": flow.patients["pretraining"],
            "evaluated_scans": flow.evaluated,
            "evaluated_patients": flow.patients["evaluated"],
        }
    )
    counts["paper_scans"] = pd.Series(PAPER_SCANS, dtype="Int64").reindex(counts.index)
    total = counts.sum().rename("total")
    total["paper_scans"] = PAPER_TOTAL
    counts = pd.concat([counts, total.to_frame().T])
    notes = pd.Series("", index=counts.index)
    notes["total"] = f"the paper's total of {PAPER_TOTAL} also counts BraTS-MEN, -MET and -PED"
    return counts.assign(note=notes).rename_axis("cohort").reset_index().astype({"paper_scans": "Int64"})


def label_table(tables: Tables) -> pd.DataFrame:
    """Patients, known labels and positive ones, by cohort and endpoint, with the cut-off of numeric endpoints."""
    return label_counts(tables.patients)


def decision_table(tables: Tables) -> pd.DataFrame:
    """How many exams and patients of each cohort hang on a choice of the config's `labels` block, and what was chosen."""
    order = ["cohort", "decision", "column", "value"]
    return tables.decisions.sort_values(order, kind="stable", ignore_index=True)


def _sorted(name: str) -> Callable[[Tables], pd.DataFrame]:
    """Every row of one evaluation table, in an order that does not depend on the order of the files."""

    def make(tables: Tables) -> pd.DataFrame:
        table = getattr(tables, name)
        wanted = ("metric", "protocol", "endpoint", "site", "method", "objective", "seed", "encoder")
        return table.sort_values([column for column in wanted if column in table], kind="stable", ignore_index=True)

    return make


TABLES: dict[str, tuple[Callable[[Tables], pd.DataFrame], tuple[str, ...]]] = {
    "supplementary_1_cohorts": (cohort_table, ("scans", "volumes", "excluded", "manifest")),
    "supplementary_2_labels": (label_table, ("patients",)),
    "supplementary_3_decisions": (decision_table, ("decisions",)),
    "probe": (_sorted("probe"), ("probe",)),
    "survival": (_sorted("survival"), ("survival",)),
    "invariance": (_sorted("invariance"), ("invariance",)),
    "comparison": (_sorted("comparison"), ("comparison",)),
    "map_checks": (_sorted("checks"), ("checks",)),
}
"""Name -> (function, flags it needs)."""


def table(name: str, tables: Tables) -> pd.DataFrame:
    if name not in TABLES:
        raise InputError(f"no table is called {name}; tables: {', '.join(TABLES)}")
    make, needs = TABLES[name]
    require(tables, *needs)
    return make(tables)
