"""What is left of the probes when the volumes change: drop of AUC by severity, and by the sequences that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.reporting.inputs import Tables
from neurorad.reporting.survival_figures import encoder_handles, line_style
from neurorad.reporting.theme import (
    GUIDE,
    NothingToDrawError,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    say_nothing,
    site_label,
)
from neurorad.volumes import SEQUENCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEVERE = {"noise": "noise", "bias": "bias field", "blur": "blur", "gamma": "gamma"}
"""Shifts by severity and their titles; the others take sequences away."""
MISSING = "missing"


def draw_stress(tables: Tables) -> Figure:
    """A line of panels a site (all sites first): drop of AUC by severity; below, by the sequences that are left."""
    rows = tables.table("stress")
    rows = rows[(rows["metric"] == "auc_drop") & rows["value"].notna()]
    if rows.empty:
        raise NothingToDrawError("no probe was tested on shifted volumes")
    encoders = order_encoders(rows["encoder"])
    severe, fewer = rows[rows["shift"].isin(SEVERE)], rows[rows["shift"] == MISSING]
    kinds = [kind for kind in SEVERE if (severe["shift"] == kind).any()]
    sites = sorted(severe["site"].unique(), key=lambda site: (site != "all", site))
    heights = [1.45] * len(sites) + ([1.1 + 0.2 * len(encoders)] if len(fewer) else [])
    figure = new_figure(0.5 + sum(heights))
    grid = figure.add_gridspec(len(heights), max(1, len(kinds)), height_ratios=heights)
    first: Axes | None = None
    for line, site in enumerate(sites):
        for place, kind in enumerate(kinds):
            panel = figure.add_subplot(grid[line, place], sharex=first, sharey=first)
            first = first or panel
            _by_severity(panel, severe[(severe["site"] == site) & (severe["shift"] == kind)], encoders)
            if line == 0:
                panel.set_title(SEVERE[kind])
            if line == len(sites) - 1:
                panel.set_xlabel("severity")
            if place == 0:
                panel.set_ylabel(f"{site_label(site) if site != 'all' else 'All sites'}\ndrop of AUC")
            panel.tick_params(labelbottom=line == len(sites) - 1, labelleft=place == 0)
    if len(fewer):
        _by_subset(figure, figure.add_subplot(grid[-1, :]), fewer[fewer["site"] == "all"], encoders)
    finish(figure, tables.leakage, encoder_handles(encoders) if kinds else (), columns=5)
    endpoints = rows["endpoint"].nunique()
    figure.set_label(f"{len(encoders)} encoders, mean over {endpoints} endpoints; 0: nothing lost, below 0: better.")
    return figure


def _by_severity(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    panel.axhline(0, **GUIDE)
    panel.set_xticks([1, 2, 3])
    if rows.empty:
        say_nothing(panel, "not estimable")
        return
    mean = rows.assign(severity=rows["level"].astype(int)).groupby(["encoder", "severity"])["value"].mean()
    for encoder in encoders:
        if encoder in mean.index.get_level_values(0):
            mine = mean[encoder]
            panel.plot(mine.index, mine, marker="o", ms=2.2, **line_style(encoder))


def _by_subset(figure: Figure, panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    levels = sorted(rows["level"].unique(), key=lambda level: (-level.count("+"), _places(level)))
    mean = rows.groupby(["encoder", "level"])["value"].mean().unstack().reindex(index=encoders, columns=levels)
    limit = max(0.1, float(np.nanmax(np.abs(mean.to_numpy()), initial=0.0)))
    image = panel.imshow(mean, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    panel.set_yticks(range(len(encoders)), [encoder_label(encoder) for encoder in encoders])
    panel.set_xticks(range(len(levels)), [level.replace("+", "\n") for level in levels], fontsize=6)
    panel.set_title("Drop of AUC with these sequences alone, all sites")
    panel.tick_params(length=0)
    figure.colorbar(image, ax=panel, fraction=0.03, pad=0.01)


def _places(level: str) -> list[int]:
    return [SEQUENCES.index(name) for name in level.split("+")]
