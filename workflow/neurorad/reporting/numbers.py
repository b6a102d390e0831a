"""The numbers behind each figure, as one tidy table: what its CSV holds and what the report lets a reader filter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from neurorad.reporting import flow
from neurorad.reporting.calibration_figures import LEVEL, VARIABLES
from neurorad.reporting.calibration_figures import PROTOCOL as COMBINED
from neurorad.reporting.cohort_figures import label_counts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.marker_figures import COMMON, PROTOCOL, UNCOMMON
from neurorad.reporting.site_figures import AUDIT
from neurorad.reporting.survival_figures import NET_BENEFIT, TIMES
from neurorad.reporting.theme import count_range


def flow_rows(tables: Tables) -> pd.DataFrame:
    """Scans and patients of each cohort at each point of the flow; patients are those that remain after a stage."""
    counted = flow.scan_flow(tables.scans, tables.volumes, tables.excluded, tables.manifest)
    points = {
        "found": counted.found,
        **{f"left out: {stage}": number for stage, number in counted.left.items()},
        "pretraining": counted.pretraining,
        "evaluated": counted.evaluated,
    }
    rows = pd.DataFrame(
        [(cohort, point, int(number)) for point, part in points.items() for cohort, number in part.items()],
        columns=["cohort", "point", "scans"],
    )
    people = [
        counted.patients[point].get(cohort) if point in ("found", "pretraining", "evaluated") else pd.NA
        for cohort, point in zip(rows["cohort"], rows["point"], strict=True)
    ]
    return rows.assign(patients=pd.array(people, dtype="Int64"))


def cohort_rows(tables: Tables) -> pd.DataFrame:
    """Counts alone, no patient: scans, patients, age quartiles, sexes, and each label known and positive."""
    rows: list[tuple[str, str, str, float]] = []
    for cohort, part in tables.table("scans").groupby("cohort", sort=True):
        rows.append((cohort, "scans", "", len(part)))
        rows.append((cohort, "patients with scans", "", part["patient"].nunique()))
    for cohort, part in tables.table("patients").groupby("cohort", sort=True):
        ages = part["age"].astype(float).dropna()
        rows.append((cohort, "patients with a known age", "", len(ages)))
        rows += [(cohort, "age", f"{q} % quantile", float(np.percentile(ages, q))) for q in (25, 50, 75) if len(ages)]
        sexes = part["sex"].where(part["sex"].isin(["F", "M"]), "unknown").value_counts().sort_index()
        rows += [(cohort, "sex", str(sex), int(n)) for sex, n in sexes.items()]
    for row in label_counts(tables.patients, tables.decisions).itertuples():
        rows.append((row.cohort, f"label {row.endpoint}", "known", row.n))
        rows.append((row.cohort, f"label {row.endpoint}", "positive", row.n_positive))
    return pd.DataFrame(rows, columns=["cohort", "quantity", "level", "value"])


def training_rows(tables: Tables) -> pd.DataFrame:
    """Loss and, where there are groups, their weights, by step."""
    losses = tables.table("history")[["encoder", "step", "loss"]].rename(columns={"loss": "value"})
    parts = [losses.assign(quantity="loss", group="")]
    if tables.groups is not None:
        weights = tables.table("groups")[["encoder", "step", "group", "weight"]].rename(columns={"weight": "value"})
        parts.append(weights.assign(quantity="group weight"))
    rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return rows[["encoder", "quantity", "group", "step", "value"]]


def selected(tables: Tables, table: str, **wanted: str | tuple[str, ...]) -> pd.DataFrame:
    """Rows of one table whose columns hold one of the values named; a column that is not there is not asked for."""
    rows = getattr(tables, table)
    for column, values in wanted.items():
        if column in rows:
            rows = rows[rows[column].isin([values] if isinstance(values, str) else values)]
    return rows


def risk_group_rows(tables: Tables) -> pd.DataFrame:
    """Survival curves of the risk groups."""
    return tables.table("curves")[tables.table("curves")["stratum"].str.startswith("risk ")]


def carrier_rows(tables: Tables) -> pd.DataFrame:
    """Curves of carriers, which are the same for every encoder, once."""
    rows = tables.table("curves")[~tables.table("curves")["stratum"].str.startswith("risk ")]
    return rows.drop(columns="encoder", errors="ignore").drop_duplicates(["site", "stratum", "time"])


def subgroup_rows(tables: Tables) -> pd.DataFrame:
    """What is drawn of strata: AUC, and coverage of the conformal sets, of the common markers, all sites combined."""
    rows = tables.table("reliability")
    rows = rows[(rows["protocol"] == COMBINED) & rows["endpoint"].isin(COMMON)]
    auc = (rows["metric"] == "auc") & rows["variable"].isin(VARIABLES)
    return rows[auc | ((rows["metric"] == "coverage") & np.isclose(rows["at"].astype(float), LEVEL))]


ROWS: dict[str, Callable[[Tables], pd.DataFrame]] = {
    "fig1_flow": flow_rows,
    "fig2d_cohorts": cohort_rows,
    "fig2_training": training_rows,
    "fig3a_rivals": partial(selected, table="probe", metric="auc", protocol=PROTOCOL),
    "fig3b_common_markers": partial(selected, table="probe", metric="auc", protocol=PROTOCOL, endpoint=COMMON),
    "fig3c_uncommon_markers": partial(selected, table="probe", metric="auc", protocol=PROTOCOL, endpoint=UNCOMMON),
    "fig3d_differences": partial(selected, table="comparison", metric="auc_difference", protocol=PROTOCOL),
    "supp1_calibration": partial(
        selected,
        table="reliability",
        metric=("observed_share", "net_benefit", "net_benefit_all", "balanced_accuracy_retained"),
        protocol=COMBINED,
        endpoint=COMMON,
    ),
    "supp2_subgroups": subgroup_rows,
    "fig4a_survival": partial(selected, table="survival", metric="c_index"),
    "fig4a_prognosis": partial(
        selected,
        table="survival",
        endpoint="os",
        protocol=PROTOCOL,
        metric=("ibs_gain", "observed_risk_12m", *NET_BENEFIT, *TIMES),
    ),
    "fig4b_kaplan_meier": risk_group_rows,
    "fig4c_sites": partial(selected, table="coordinates"),
    "fig4c_invariance": partial(
        selected,
        table="invariance",
        metric=(*dict.fromkeys(metric for _, _, metric, _ in AUDIT), "site_probe_null", "silhouette"),
    ),
    "fig5_marker_survival": carrier_rows,
}
"""A figure that is not named here has every row of the first table it needs."""


def rows_behind(name: str, needs: tuple[str, ...], tables: Tables) -> pd.DataFrame:
    """The table whose numbers the figure shows; of a figure made of maps, what was measured on them.

    Args:
        needs: the figure's tables, as in the registry.
    """
    if name in ROWS:
        return ROWS[name](tables).reset_index(drop=True)
    if needs[0] != "maps":
        return getattr(tables, needs[0])
    if tables.agreement is not None:
        return tables.agreement
    parts = [
        pd.DataFrame({"encoder": str(one["encoder"]), "endpoint": str(one["endpoint"]), "scans": [one["patient"].size]})
        for one in tables.maps or []
    ]
    return pd.concat(parts, ignore_index=True)


def patients_behind(rows: pd.DataFrame) -> str:
    """How many patients the numbers of a figure rest on, as a sentence; empty where its rows do not say."""
    if "n" in rows and rows["n"].notna().any():
        return f"Each number rests on {count_range(rows['n'])} patients."
    if {"at_risk", "site", "stratum", "time"} <= set(rows) and len(rows):
        first = rows[rows["time"] == 0].drop_duplicates(["site", "stratum"])
        each = first.groupby("site", sort=True)["at_risk"].max()
        return (
            f"Largest arm: {', '.join(f'{site} {int(n)}' for site, n in each.items())} patients." if len(each) else ""
        )
    return ""
