"""The tables of the paper and its supplement."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from neurorad import RESOURCES
from neurorad.files import read_yaml
from neurorad.problems import InputError
from neurorad.reporting.cohort_figures import OS, decided_endpoints, label_counts, label_status
from neurorad.reporting.flow import scan_flow
from neurorad.reporting.inputs import Tables, require
from neurorad.reporting.map_check_figures import map_agreement
from neurorad.volumes import SEQUENCES

PAPER_PRETRAINING = {
    "brats-gli-pre": (1443, "of 1,470 public cases (1,251 training, 219 validation); 27 are unexplained"),
    "brats-gli-post": (1809, "time points (1,350 + 271 + 188) of about 818 patients"),
    "brats-men": (1141, ""),
    "brats-met": (1475, ""),
    "brats-ped": (351, ""),
    "lumiere": (599, "complete sessions of 91 patients"),
    "mu-glioma-post": (596, "time points of 203 patients; about 400 of the cases are in brats-gli-post too"),
}
"""Scans that the paper pretrains on, by release, and what they are. It counts scans alone: patients are the releases'."""

PAPER_TEST = {
    "ucsf-pdgm": (111, "not said which of 501 exams (495 patients), of which 298 are in BraTS 2021"),
    "upenn-gbm": (95, "not said which of 611 baselines, of which 447 are in BraTS 2021"),
    "cuimc": (pd.NA, "private; the paper's number is not known here"),
}
"""What the paper tests on."""

PAPER_LABELS = {"ki67": "scored by AUC, cut-off not given", "tp53": "binary and continuous, cut-off not given"}
"""What the paper says of a label. How many patients of it have one is not known here, so no number stands beside ours."""

PRESETS = ("paper_text", "paper_code", "modern")


FLAT_FIELD = 0.17
"""Range of N4's field (95th minus 5th percentile, the median being 1), meaned over the four sequences, below which images
were corrected already. Measured on six patients of BraTS 2021 and one of TCGA-LGG, at 1, 2 and 3 mm: 0.22 to 0.42 as released,
0.01 to 0.13 when the corrected images are corrected again."""


def corrected_before(volumes: pd.DataFrame) -> pd.Series:
    """Usable scans of each cohort whose images read as bias-corrected already; missing where N4 measured no field.

    No scan is left out for it, as a scanner's own correction looks the same and a second one changes next to nothing; but a
    cohort of which most scans read so holds other files than its release documents (UCSF-PDGM's `_bias` copies).
    """
    fields = volumes.reindex(columns=[f"{name}_bias" for name in SEQUENCES]).astype(float)
    mean = fields.mean(axis=1, skipna=False)[volumes["status"] == "ok"]
    flat = (mean < FLAT_FIELD).astype("Int64").where(mean.notna())
    return flat.groupby(volumes["cohort"]).sum(min_count=1)


def cohort_table(tables: Tables) -> pd.DataFrame:
    """Scans and patients of each cohort, as in the flow of scans, beside the paper's numbers."""
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
    counts = pd.concat([counts, counts.sum().rename("total").to_frame().T])
    counts["bias_corrected_before"] = corrected_before(tables.volumes).reindex(counts.index)
    notes = {"total": "of the paper, its seven pretraining cohorts; whether it tests scans or patients it does not say"}
    for column, told in {"paper_pretraining_scans": PAPER_PRETRAINING, "paper_test": PAPER_TEST}.items():
        known = pd.Series({cohort: number for cohort, (number, _) in told.items()}, dtype="Int64")
        counts[column] = known.reindex(counts.index)
        notes |= {cohort: note for cohort, (_, note) in told.items()}
    counts.loc["total", "paper_pretraining_scans"] = sum(number for number, _ in PAPER_PRETRAINING.values())
    counts["note"] = [notes.get(cohort, "") for cohort in counts.index]
    return counts.rename_axis("cohort").reset_index()


def label_table(tables: Tables) -> pd.DataFrame:
    """Patients by cohort and endpoint: known, positive, left open by a decision, not stated; and the scans of those whose
    label is known or positive. With the cut-off of numeric endpoints."""
    counts = label_counts(tables.patients, tables.decisions)
    each = tables.table("scans").groupby(["cohort", "patient"]).size()
    keys = pd.MultiIndex.from_frame(tables.table("patients")[["cohort", "patient"]])
    scanned = pd.Series(each.reindex(keys, fill_value=0).to_numpy(), index=tables.table("patients").index)
    known = decided_endpoints(tables.decisions) | {OS.name: OS}
    of_known, of_positive = [], []
    for row in counts.itertuples():
        part = tables.table("patients")[tables.table("patients")["cohort"] == row.cohort]
        status = label_status(part, known[row.endpoint])
        of_known.append(int(scanned[part.index][status["known"]].sum()))
        of_positive.append(int(scanned[part.index][status["positive"]].sum()))
    told = ["; ".join(filter(None, ["counts not known", PAPER_LABELS.get(name)])) for name in counts["endpoint"]]
    return counts.assign(scans=of_known, scans_positive=of_positive, paper=told)


def decision_table(tables: Tables) -> pd.DataFrame:
    """How many exams and patients of each cohort hang on a choice of the config's `labels` block, and what was chosen."""
    order = ["cohort", "decision", "column", "value"]
    return tables.table("decisions").sort_values(order, kind="stable", ignore_index=True)


def preset_table(tables: Tables) -> pd.DataFrame:
    """Where the presets that follow the paper's text, its code and best practice differ, and what none reproduces."""
    ledger = read_yaml(RESOURCES / "preset_ledger.yaml")
    rows = [{name: str(value) for name, value in entry.items()} for entry in ledger["differences"]]
    for entry in ledger["not_reproduced"]:
        source = f"published: {entry['published']}"
        rows.append({"key": entry["item"], **dict.fromkeys(PRESETS, entry["here"]), "source": source})
    return pd.DataFrame(rows, columns=["key", *PRESETS, "source"])


def _sorted(name: str) -> Callable[[Tables], pd.DataFrame]:
    """Every row of one evaluation table, in an order that does not depend on the order of the files."""

    def make(tables: Tables) -> pd.DataFrame:
        table = getattr(tables, name)
        wanted = (
            "metric",
            "protocol",
            "endpoint",
            "site",
            "method",
            "objective",
            "seed",
            "encoder",
            "patients",
            "at",
            "shift",
            "level",
        )
        return table.sort_values([column for column in wanted if column in table], kind="stable", ignore_index=True)

    return make


def reliability_table(tables: Tables) -> pd.DataFrame:
    """Coverage of the conformal sets and subgroups; the points of the curves stay in reliability.parquet."""
    rows = tables.table("reliability")
    order = ["variable", "metric", "endpoint", "protocol", "site", "stratum", "at", "encoder"]
    return rows[rows["variable"] != ""].sort_values(order, kind="stable", ignore_index=True)


TABLES: dict[str, tuple[Callable[[Tables], pd.DataFrame], tuple[str, ...]]] = {
    "supplementary_1_cohorts": (cohort_table, ("scans", "volumes", "excluded", "manifest")),
    "supplementary_2_labels": (label_table, ("patients", "scans", "decisions")),
    "supplementary_3_decisions": (decision_table, ("decisions",)),
    "supplementary_4_presets": (preset_table, ()),
    "probe": (_sorted("probe"), ("probe",)),
    "survival": (_sorted("survival"), ("survival",)),
    "invariance": (_sorted("invariance"), ("invariance",)),
    "comparison": (_sorted("comparison"), ("comparison",)),
    "clean": (_sorted("clean"), ("clean",)),
    "stress": (_sorted("stress"), ("stress",)),
    "map_agreement": (map_agreement, ("checks",)),
    "map_checks": (_sorted("checks"), ("checks",)),
    "reliability": (reliability_table, ("reliability",)),
}
"""Name -> (function, flags it needs)."""


def table(name: str, tables: Tables) -> pd.DataFrame:
    """A table by name. Raises `InputError` for an unknown name or tables that were not given."""
    if name not in TABLES:
        raise InputError(f"no table is called {name}; tables: {', '.join(TABLES)}")
    make, needs = TABLES[name]
    require(tables, *needs)
    return make(tables)
