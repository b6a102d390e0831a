"""One page an encoder on how it was trained: losses of its groups, their weights, rank and spread of the features, learning
rate, against the base run of the same method and seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import (
    GUIDE,
    INK,
    METHOD_COLOURS,
    colours,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    say_nothing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "training_"
"""A page is figures/training_ENCODER.svg."""

BASE_LINE: dict[str, Any] = {"color": INK, "ls": (0, (3, 1.5)), "lw": 0.8}


def page_names(history: pd.DataFrame) -> list[str]:
    """The encoders in the order of the report."""
    return order_encoders(history["encoder"])


def draw_pages(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """The page of every encoder in `history`, with its name."""
    for encoder in page_names(tables.history):
        yield encoder, draw_page(encoder, tables)


def draw_page(encoder: str, tables: Tables) -> Figure:
    """`history` and `groups` hold the encoder, and its base run if there is one."""
    from matplotlib.lines import Line2D

    method, objective, seed = encoder_parts(encoder)
    base = f"{method}-base-s{seed}"
    own, other = rows_of(tables.history, encoder), rows_of(tables.history, base)
    groups, base_groups = rows_of(tables.groups, encoder), rows_of(tables.groups, base)
    against = objective != "base" and len(other) > 0
    shade = colours(groups["group"].astype(str)) if len(groups) else {}
    colour = METHOD_COLOURS.get(method, INK)

    figure = new_figure(4.6)
    (losses, above, weights), (entropy, rank, rate) = figure.subplots(2, 3)
    for group, part in groups.groupby("group"):
        losses.plot(part["step"], part["loss"], color=shade[str(group)], lw=0.9)
        weights.plot(part["step"], part["weight"], color=shade[str(group)], lw=0.9)
    losses.set_title("loss of each group")
    if against:
        losses.plot(other["step"], other["loss"], **BASE_LINE)
    _draw_above(above, groups, base_groups if against else None, shade, objective)
    weights.set_title("weight of each group")
    if groups.empty:
        say_nothing(losses, "no groups.csv given")
        say_nothing(weights, "no groups.csv given")
        say_nothing(entropy, "no groups.csv given")
    else:
        weights.axhline(1 / len(shade), **GUIDE, zorder=0)
        weights.set_ylim(0, None)
        _draw_entropy(entropy, groups, base_groups if against else None, len(shade), colour)
    entropy.set_title("groups that carry weight")
    _draw_collapse(rank, own, other if against else None, colour)
    if "learning_rate" in own:
        rate.plot(own["step"], own["learning_rate"], color=colour)
        rate.set_ylim(0, None)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        rate.yaxis.get_offset_text().set_fontsize(6.5)
    else:
        say_nothing(rate, "not logged")
    rate.set_title("learning rate")
    for axes in (entropy, rank, rate):
        axes.set_xlabel("step")
    for axes in (losses, above, weights, entropy, rank, rate):
        # An axis writes its power of ten over its left end, where a wide title would cover it.
        axes.set_title(axes.get_title(), pad=10)
    handles = [Line2D([], [], color=shade[group], label=group) for group in shade]
    if against:
        handles.append(Line2D([], [], **BASE_LINE, label="base run"))
    finish(figure, tables.leakage, handles)
    last = own.iloc[-1]
    figure.suptitle(encoder_label(encoder), fontsize=9)
    figure.set_label(
        f"{len(own)} rows up to step {int(last['step'])}; last loss {last['loss']:.4g}"
        + (f", effective rank {last['effective_rank']:.3g}." if "effective_rank" in own else ".")
    )
    return figure


def rows_of(table: pd.DataFrame | None, encoder: str) -> pd.DataFrame:
    """The encoder's rows by step; without a table, none."""
    if table is None:
        return pd.DataFrame(columns=["step", "group"])
    return table[table["encoder"] == encoder].sort_values("step", kind="stable")


def _draw_above(
    axes: Axes, groups: pd.DataFrame, base: pd.DataFrame | None, shade: dict[str, str], objective: str
) -> None:
    """Loss minus the base run's, group by group, at the steps that both logged."""
    axes.set_title("loss above the base run")
    if base is None or base.empty or "loss" not in groups:
        say_nothing(axes, "this is the base run" if objective == "base" else "no base run given")
        return
    joined = groups.merge(base, on=["step", "group"], suffixes=("", "_base"))
    for group, part in joined.groupby("group"):
        axes.plot(part["step"], part["loss"] - part["loss_base"], color=shade[str(group)], lw=0.9)
    axes.axhline(0, zorder=0, **BASE_LINE)


def _draw_entropy(axes: Axes, groups: pd.DataFrame, base: pd.DataFrame | None, count: int, colour: str) -> None:
    for table, style in ((base, BASE_LINE), (groups, {"color": colour})):
        if table is not None and len(table):
            axes.plot(*weight_carriers(table), **style)
    axes.axhline(count, **GUIDE, zorder=0)
    axes.set_ylim(0, count * 1.08)


def weight_carriers(groups: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and exp of the entropy of the groups' weights at each: their number if equal, 1 if one has all."""
    weights = groups.pivot_table(index="step", columns="group", values="weight").fillna(0.0)
    values = weights.to_numpy()
    logs = np.log(values, out=np.zeros_like(values), where=values > 0)
    return weights.index.to_numpy(), np.exp(-(values * logs).sum(axis=1))


def _draw_collapse(axes: Axes, own: pd.DataFrame, base: pd.DataFrame | None, colour: str) -> None:
    axes.set_title("rank (line), spread (dots)")
    if "effective_rank" not in own or "feature_spread" not in own:
        say_nothing(axes, "not logged")
        return
    spread = axes.twinx()
    spread.spines["right"].set_visible(True)
    for table, style in ((base, BASE_LINE), (own, {"color": colour})):
        if table is not None and len(table):
            axes.plot(table["step"], table["effective_rank"], **style)
            spread.plot(table["step"], table["feature_spread"], ls="", marker=".", ms=2, color=style["color"])
    for side in (axes, spread):
        side.set_ylim(0, 1.08 * side.dataLim.ymax)
