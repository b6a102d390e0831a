"""Who was scanned (Figure 2D): scans, age, sex and labels of each cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.endpoints import CUTOFFS, Endpoint, binary, endpoints
from neurorad.problems import InputError
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import GREY, INK, NothingToDrawError, colours, counted, finish, new_figure, say_nothing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEX = {"F": ("women", "#AA4499"), "M": ("men", "#4477AA"), "": ("unknown", "#DDDDDD")}


OS = Endpoint("os", "OS (deaths)", "survival")
"""Counted beside the endpoints: known is who has both a time and an event, positive is who died."""


def decided_endpoints(decisions: pd.DataFrame | None) -> dict[str, Endpoint]:
    """The endpoints with the cut-offs that the study decided on (decisions.tsv), or else the declared ones."""
    if decisions is None:
        return endpoints()
    cut = decisions[decisions["decision"].isin(list(CUTOFFS))]
    return endpoints(dict(zip(cut["decision"], cut["choice"].astype(float), strict=True)))


def label_status(patients: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    """For each patient whether the label is `known`, `positive`, or `left_open`: missing because a decision left it so.

    Raises:
        InputError: a label that is known and left open at once.
    """
    if endpoint is OS:
        values = patients["event"].where(patients["os_days"].notna()).astype(float)
    else:
        values = binary(patients[endpoint.name], endpoint)
    names = patients["left_open"].fillna("").astype(str).str.split()
    column = "event" if endpoint is OS else endpoint.name
    status = pd.DataFrame(
        {"known": values.notna(), "positive": values == 1, "left_open": [column in each for each in names]}
    )
    if (status["known"] & status["left_open"]).any():
        cohort = patients.loc[status["known"] & status["left_open"], "cohort"].iloc[0]
        raise InputError(
            f"patients: a label {endpoint.name} of {cohort} is known and left open; make patients.tsv again"
        )
    return status


def label_counts(patients: pd.DataFrame, decisions: pd.DataFrame | None = None) -> pd.DataFrame:
    """Patients with a known label and with a positive one, by cohort and endpoint.

    Returns:
        Columns cohort, endpoint, label, kind, cutoff, patients = n (known) + left_open (missing because a decision left
        it so) + not_stated, n_positive.
    """
    rows = []
    for cohort, part in patients.groupby("cohort", sort=True):
        for endpoint in (*decided_endpoints(decisions).values(), OS):
            if not {"os_days", "event"} <= set(part) if endpoint is OS else endpoint.name not in part:
                continue
            status = label_status(part, endpoint).sum()
            rows.append(
                {
                    "cohort": cohort,
                    "endpoint": endpoint.name,
                    "label": endpoint.label,
                    "kind": endpoint.kind,
                    "cutoff": endpoint.cutoff,
                    "patients": len(part),
                    "n": int(status["known"]),
                    "n_positive": int(status["positive"]),
                    "left_open": int(status["left_open"]),
                    "not_stated": int(len(part) - status["known"] - status["left_open"]),
                }
            )
    return pd.DataFrame(rows, columns=COUNTED).astype({"cutoff": "Float64"})


COUNTED = ["cohort", "endpoint", "label", "kind", "cutoff", "patients", "n", "n_positive", "left_open", "not_stated"]


def draw_cohorts(tables: Tables) -> Figure:
    """Four panels that share their rows, the cohorts: scans, age, sex, and labels as `positive/known`."""
    patients, scans = tables.table("patients"), tables.table("scans")
    cohorts = sorted(set(patients["cohort"]) | set(scans["cohort"]), reverse=True)
    if not cohorts:
        raise NothingToDrawError("no cohort has a scan or a patient")
    figure = new_figure(1.5 + 0.3 * len(cohorts))
    axes = figure.subplots(1, 4, width_ratios=[1.0, 0.9, 0.9, 3.1])
    shade = colours(cohorts)
    _scans(axes[0], scans, cohorts, shade)
    _age(axes[1], patients, cohorts, shade)
    _sex(axes[2], patients, cohorts)
    _labels(axes[3], label_counts(patients, tables.decisions), cohorts)
    for panel in axes:
        panel.set_ylim(-0.6, len(cohorts) - 0.4)
        panel.set_yticks(range(len(cohorts)), cohorts if panel is axes[0] else [""] * len(cohorts))
        panel.tick_params(axis="y", length=0)
    finish(figure, tables.leakage, axes[2].get_legend_handles_labels()[0])
    people = scans[["cohort", "patient"]].drop_duplicates()
    figure.set_label(
        f"{counted(len(scans), 'scan')} of {counted(len(people), 'patient')} in "
        f"{counted(scans['cohort'].nunique(), 'cohort')}; clinical rows of {counted(len(patients), 'patient')}."
    )
    return figure


def _scans(axes: Axes, scans: pd.DataFrame, cohorts: list[str], shade: dict[str, str]) -> None:
    counts = scans["cohort"].value_counts().reindex(cohorts, fill_value=0)
    people = scans.groupby("cohort")["patient"].nunique().reindex(cohorts, fill_value=0)
    axes.barh(range(len(cohorts)), counts, color=[shade[c] for c in cohorts], height=0.65)
    for y, cohort in enumerate(cohorts):
        axes.text(counts[cohort], y, f" {counts[cohort]} / {people[cohort]}", va="center", fontsize=6.5)
    axes.set_xlim(0, 1.7 * max(counts.max(), 1))
    axes.set_title("scans / patients")
    axes.set_xlabel("scans")


def _age(axes: Axes, patients: pd.DataFrame, cohorts: list[str], shade: dict[str, str]) -> None:
    for y, cohort in enumerate(cohorts):
        ages = patients.loc[patients["cohort"] == cohort, "age"].astype(float).dropna().to_numpy()
        if not len(ages):
            axes.text(50, y, "unknown", color=GREY, style="italic", ha="center", va="center", fontsize=6.5)
            continue
        offsets = np.linspace(-0.22, 0.22, len(ages)) if len(ages) > 1 else np.zeros(1)
        axes.plot(np.sort(ages), y + offsets[np.argsort(np.argsort(-ages)) % len(ages)], ".", ms=2, color=shade[cohort])
        low, middle, high = np.percentile(ages, [25, 50, 75])
        axes.plot([low, high], [y, y], color=INK, lw=1.2)
        axes.plot(middle, y, "|", color=INK, ms=9, mew=1.4)
    axes.set_xlim(0, 100)
    axes.set_title("age")
    axes.set_xlabel("years (median, IQR)")


def _sex(axes: Axes, patients: pd.DataFrame, cohorts: list[str]) -> None:
    start = np.zeros(len(cohorts))
    sex = patients["sex"].fillna("").where(patients["sex"].isin(["F", "M"]), "")
    totals = patients["cohort"].value_counts().reindex(cohorts, fill_value=0).to_numpy()
    for code, (label, colour) in SEX.items():
        counts = patients[sex == code]["cohort"].value_counts().reindex(cohorts, fill_value=0).to_numpy()
        shares = np.divide(100 * counts, totals, out=np.zeros(len(cohorts)), where=totals > 0)
        axes.barh(range(len(cohorts)), shares, left=start, color=colour, height=0.65, label=label)
        for y, (share, count) in enumerate(zip(shares, counts, strict=True)):
            if share >= 14:
                ink = "white" if code else INK
                axes.text(start[y] + share / 2, y, str(count), ha="center", va="center", color=ink, fontsize=6)
        start += shares
    axes.set_xlim(0, 100)
    axes.set_title("sex")
    axes.set_xlabel("% of patients")


def _labels(axes: Axes, counts: pd.DataFrame, cohorts: list[str]) -> None:
    names = list(dict.fromkeys(counts["endpoint"]))
    if not names:
        say_nothing(axes, "no label in any table")
        return
    labels = dict(zip(counts["endpoint"], counts["label"], strict=True))
    shares = np.full((len(cohorts), len(names)), np.nan)
    for row in counts.itertuples():
        x, y = names.index(row.endpoint), cohorts.index(row.cohort)
        if row.n:
            shares[y, x] = row.n_positive / row.n
        text = f"{row.n_positive}/{row.n}" if row.n else "–"
        axes.text(x, y, text, ha="center", va="center", fontsize=5.5, color=INK if row.n else GREY)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.8, aspect="auto", origin="lower")
    axes.set_xticks(
        range(len(names)), [labels[name] for name in names], rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(axis="x", length=0)
    axes.set_title("labels: positive / known (shade: share positive)")
    for spine in axes.spines.values():
        spine.set_visible(False)
