"""How the encoders were trained (Figure 2): loss of each method and the group weights of DRO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurorad.encoder_names import encoder_parts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import (
    GREY,
    GUIDE,
    INK,
    METHOD_COLOURS,
    METHOD_LABELS,
    OBJECTIVE_LABELS,
    OBJECTIVE_LINES,
    NothingToDrawError,
    colours,
    counted,
    finish,
    new_figure,
    order_encoders,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WEIGHTED = ("dro", "excess", "worst")
"""Objectives with group weights of their own; a panel shows those of the first that was trained."""


def draw_training(tables: Tables) -> Figure:
    """Top: loss against step, a line style an objective. Bottom: weight of each group under +DRO."""
    history = tables.table("history")
    encoders = order_encoders(history["encoder"])
    methods = list(dict.fromkeys(encoder_parts(encoder)[0] for encoder in encoders))
    if not methods:
        raise NothingToDrawError("no training step in any file")
    from matplotlib.lines import Line2D

    figure = new_figure(4.2)
    axes = figure.subplots(2, len(methods), squeeze=False, sharex="col")
    groups = tables.groups
    shade = colours(groups["group"].astype(str)) if groups is not None else {}
    for column, method in enumerate(methods):
        top, bottom = axes[:, column]
        mine = [encoder for encoder in encoders if encoder_parts(encoder)[0] == method]
        for encoder in mine:
            objective = encoder_parts(encoder)[1]
            part = history[history["encoder"] == encoder].sort_values("step")
            top.plot(
                part["step"],
                part["loss"],
                color=METHOD_COLOURS.get(method, "#222222"),
                ls=OBJECTIVE_LINES.get(objective, "-"),
                alpha=1.0 if objective == "dro" else 0.75,
            )
        top.set_title(METHOD_LABELS.get(method, method))
        weights = groups[groups["encoder"].isin(mine)] if groups is not None else None
        weighted = next((o for o in WEIGHTED if o in {encoder_parts(e)[1] for e in mine}), None)
        if weights is not None:
            weights = weights[[encoder_parts(encoder)[1] == weighted for encoder in weights["encoder"]]]
        if weights is None or weights.empty:
            bottom.set_axis_off()
            text = "no group weights given" if groups is None else "no +DRO run"
            bottom.text(0.5, 0.5, text, transform=bottom.transAxes, ha="center", color=GREY, style="italic")
            top.tick_params(axis="x", labelbottom=True)
            top.set_xlabel("step")
            continue
        for (_, group), part in weights.sort_values("step").groupby(["encoder", "group"], sort=True):
            bottom.plot(part["step"], part["weight"], color=shade[str(group)], label=str(group))
        bottom.axhline(1 / weights["group"].nunique(), **GUIDE, zorder=0)
        bottom.set_ylim(0, None)
        if weighted is not None and weighted != "dro":
            bottom.set_title(f"under {OBJECTIVE_LABELS[weighted]}", fontsize=7)
        bottom.set_xlabel("step")
    axes[0, 0].set_ylabel("loss (each method's own)")
    axes[1, 0].set_ylabel("group weight (dotted: equal)")
    shown = [objective for objective in OBJECTIVE_LINES if objective in {encoder_parts(e)[1] for e in encoders}]
    handles = {
        name: Line2D([], [], color=INK, ls=OBJECTIVE_LINES[name], label=OBJECTIVE_LABELS[name]) for name in shown
    }
    for panel in axes[1]:
        handles.update(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    finish(figure, tables.leakage, list(handles.values()))
    trained = ""
    # Finished encoders were trained elsewhere: the manifest of this study is empty.
    if tables.manifest is not None and len(tables.manifest):
        people = tables.table("manifest")[["cohort", "patient"]].drop_duplicates()
        trained = f", on {counted(len(tables.manifest), 'scan')} of {counted(len(people), 'patient')}"
    figure.set_label(f"{counted(len(encoders), 'encoder')}, up to step {int(history['step'].max())}{trained}.")
    return figure
