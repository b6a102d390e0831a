"""Do embeddings know the site (Figure 4C)? Their t-SNE map with the silhouette, and stronger numbers with their null."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.marker_figures import chance, estimate, objective_handles
from neurorad.reporting.theme import (
    OBJECTIVE_LABELS,
    NothingToDrawError,
    colours,
    count_range,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    say_nothing,
    site_label,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "os^Dv<>P*X"
ACROSS = 4
"""Panels in a line: their titles need the room."""


def draw_sites(tables: Tables) -> Figure:
    """One panel an encoder; where base and +DRO are both there, base above +DRO of the same method."""
    coordinates = tables.table("coordinates")
    if coordinates.empty:
        raise NothingToDrawError("no scan has an embedding")
    encoders = order_encoders(coordinates["encoder"])
    grid = _grid(encoders)
    shade = colours(coordinates["cohort"])
    figure = new_figure(0.5 + 1.95 * len(grid), width=max(3.4, min(7.2, 1.8 * len(grid[0]))))
    axes = figure.subplots(len(grid), len(grid[0]), squeeze=False)
    for panels, line in zip(axes, grid, strict=True):
        for panel, encoder in zip(panels, line, strict=True):
            if encoder is None:
                panel.set_axis_off()
                continue
            mine = coordinates[coordinates["encoder"] == encoder]
            for i, (site, part) in enumerate(mine.groupby("cohort", sort=True)):
                panel.plot(
                    part["x"],
                    part["y"],
                    MARKERS[i % len(MARKERS)],
                    ms=2.6,
                    color=shade[site],
                    mew=0,
                    alpha=0.85,
                    label=site_label(site),
                )
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_visible(True)
                spine.set_color("#CCCCCC")
            panel.set_title(f"{encoder_label(encoder)}\n{silhouette_text(tables.invariance, encoder)}", fontsize=7)
    finish(figure, tables.leakage, axes.flat[0].get_legend_handles_labels()[0])
    counts = coordinates[coordinates["encoder"] == encoders[0]]["cohort"].value_counts().sort_index()
    figure.set_label("Scans: " + ", ".join(f"{site} {n}" for site, n in counts.items()) + ".")
    return figure


def _grid(encoders: list[str]) -> list[list[str | None]]:
    """An objective a line, base first, references (random weights) appended to it; at most `ACROSS` in a line."""
    by_objective = {
        objective: [e for e in encoders if encoder_parts(e)[1] == objective] for objective in OBJECTIVE_LABELS
    }
    first = by_objective.pop("base") + by_objective.pop("none")
    lines = [first, *by_objective.values()]
    rest = [e for e in encoders if encoder_parts(e)[1] not in OBJECTIVE_LABELS]
    lines = [line for line in (*lines, rest) if line]
    widest = max(map(len, lines))
    parts = [line[start : start + ACROSS] for start in range(0, widest, ACROSS) for line in lines]
    return [part + [None] * (min(widest, ACROSS) - len(part)) for part in parts if part]


def silhouette_text(invariance: pd.DataFrame | None, encoder: str) -> str:
    """`silhouette 0.21 (0.15 to 0.27)`, or why there is none; lower means that sites mix more."""
    if invariance is None:
        return "silhouette not given"
    # Of several (by vendor, within one diagnosis) the first is that by site of everybody.
    rows = invariance[(invariance["encoder"] == encoder) & (invariance["metric"] == "silhouette")]
    if rows.empty or math.isnan(rows["value"].iloc[0]):
        return "silhouette not estimable"
    row = rows.iloc[0]
    interval = "" if pd.isna(row.get("ci_low")) else f" ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
    return f"silhouette {row['value']:.2f}{interval}"


AUDIT = (
    ("site", "combined", "site_probe_balanced_accuracy", "site probe\nbalanced accuracy"),
    ("site", "glioblastoma", "site_probe_balanced_accuracy", "the same within\nglioblastoma"),
    ("site", "combined", "same_site_neighbour_excess", "excess of same-site\nneighbours"),
    ("site", "combined", "robustness_index", "robustness index\n(IDH over site)"),
    ("site", "combined", "effective_rank", "effective rank\n(1: collapsed)"),
)
"""Endpoint, protocol, metric and label of each panel."""


def draw_invariance(tables: Tables) -> Figure:
    """One line an encoder: what it knows of the site, beside what permuted sites would show, and its effective rank."""
    rows = tables.table("invariance")
    rows = rows[rows["metric"].isin([metric for _, _, metric, _ in AUDIT])]
    if rows["value"].notna().sum() == 0:
        raise NothingToDrawError("fewer than two sites, or too few patients a site")
    encoders = order_encoders(rows["encoder"])
    figure = new_figure(0.9 + 0.24 * len(encoders))
    axes = figure.subplots(1, len(AUDIT), squeeze=False)[0]
    for panel, (endpoint, protocol, metric, label) in zip(axes, AUDIT, strict=True):
        mine = _one_a_line(tables.invariance, endpoint, protocol, metric)
        null = _one_a_line(tables.invariance, endpoint, protocol, "site_probe_null")
        for y, encoder in enumerate(reversed(encoders)):
            if metric.startswith("site_probe") and encoder in null.index and pd.notna(null.loc[encoder, "value"]):
                low, high = null.loc[encoder, ["ci_low", "ci_high"]]
                panel.barh(y, high - low, left=low, height=0.62, color="#DDDDDD", lw=0, zorder=0)
            if encoder in mine.index and pd.notna(mine.loc[encoder, "value"]):
                estimate(panel, y, mine.loc[encoder], encoder)
        if not mine["value"].notna().any():
            say_nothing(panel, "not estimable")
        if metric == "same_site_neighbour_excess":
            chance(panel, 0.0)
        elif metric == "effective_rank":
            panel.set_xlim(0, 1.08 * max(1.0, mine["value"].max()) if mine["value"].notna().any() else 1)
        else:
            panel.set_xlim(-0.02, 1.02)
        panel.set_yticks(
            range(len(encoders)),
            [encoder_label(e) for e in reversed(encoders)] if panel is axes[0] else [""] * len(encoders),
        )
        panel.set_ylim(-0.6, len(encoders) - 0.4)
        panel.set_xlabel(label)
    finish(figure, tables.leakage, objective_handles(encoders)[:-1])
    figure.set_label(f"{len(encoders)} encoders, {count_range(rows['n'])} patients.")
    return figure


def _one_a_line(invariance: pd.DataFrame, endpoint: str, protocol: str, metric: str) -> pd.DataFrame:
    """The rows of one number, by encoder."""
    mine = invariance[(invariance["metric"] == metric) & (invariance["endpoint"] == endpoint)]
    return mine[mine["protocol"] == protocol].drop_duplicates("encoder").set_index("encoder")
