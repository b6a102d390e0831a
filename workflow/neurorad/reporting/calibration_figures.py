"""May a probe be acted on, and for whom: calibration, net benefit, reject option; subgroups and conformal coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.marker_figures import COMMON, chance, endpoint_label
from neurorad.reporting.theme import (
    GREY,
    GUIDE,
    INK,
    METHOD_COLOURS,
    METHOD_LABELS,
    NothingToDrawError,
    count_range,
    finish,
    new_figure,
    order_encoders,
    site_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = "combined"
"""All sites together, where most patients are; every protocol is in the table."""
LEVEL = 0.9
VARIABLES = ("sex", "age band", "WHO grade", "site", "vendor", "field strength")


def _combined(tables: Tables) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the common markers with all sites together, and those markers."""
    rows = tables.table("reliability")
    rows = rows[(rows["protocol"] == PROTOCOL) & rows["endpoint"].isin(COMMON)]
    rows = rows[rows["encoder"].map(lambda name: encoder_parts(name)[0] != "random")]
    if rows.empty:
        raise NothingToDrawError(
            f"no probe of {', '.join(map(endpoint_label, COMMON))} could be estimated on all sites"
        )
    return rows, [name for name in COMMON if name in set(rows["endpoint"])]


def _style(encoder: str) -> dict[str, Any]:
    """Base dashed, any other objective solid, age + sex dotted."""
    method, objective, _ = encoder_parts(encoder)
    dash = {"base": (0, (3, 1.5)), "none": ":"}.get(objective, "-")
    return {"color": METHOD_COLOURS.get(method, INK), "ls": dash, "lw": 1.0}


def draw_calibration(tables: Tables) -> Figure:
    """A line of panels for each common marker: calibration curve, decision curve, and accuracy among those retained."""
    rows, names = _combined(tables)
    encoders = order_encoders(rows["encoder"])
    figure = new_figure(0.7 + 1.75 * len(names))
    axes = figure.subplots(len(names), 3, squeeze=False)
    for panels, name in zip(axes, names, strict=True):
        mine = rows[rows["endpoint"] == name]
        _calibration(panels[0], mine, encoders, name)
        _decision(panels[1], mine, encoders)
        _retained(panels[2], mine, encoders)
    finish(figure, tables.leakage, _line_handles(encoders), columns=8)
    figure.set_label(f"{len(names)} markers, {len(encoders)} encoders, {_counts(rows, names)}.")
    return figure


def _counts(rows: pd.DataFrame, names: list[str]) -> str:
    whole = rows[rows["metric"] == "net_benefit"]
    return "; ".join(
        f"{endpoint_label(name)}: {count_range(part['n'])} patients, {count_range(part['n_positive'])} positive"
        for name in names
        for part in [whole[whole["endpoint"] == name]]
    )


def _lines(panel: Axes, rows: pd.DataFrame, encoders: list[str], metric: str, dots: bool = False) -> pd.DataFrame:
    rows = rows[rows["metric"] == metric].dropna(subset=["value"])
    for encoder in encoders:
        part = rows[rows["encoder"] == encoder].sort_values("at")
        panel.plot(part["at"], part["value"], marker="o" if dots else "", ms=2, **_style(encoder))
    return rows


def _calibration(panel: Axes, rows: pd.DataFrame, encoders: list[str], name: str) -> None:
    panel.plot([0, 1], [0, 1], **GUIDE, zorder=0)
    _lines(panel, rows, encoders, "observed_share", dots=True)
    panel.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="predicted probability", ylabel="share positive")
    panel.set_title(f"{endpoint_label(name)}: calibration", fontsize=7.5)


def _decision(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    everybody = rows[(rows["metric"] == "net_benefit_all") & (rows["encoder"] == rows["encoder"].iloc[0])]
    panel.plot(everybody["at"], everybody["value"], color=GREY, lw=0.9)
    panel.axhline(0, color=GREY, lw=0.9)
    shown = _lines(panel, rows, encoders, "net_benefit")
    # Of the harm that acting on all would do at high thresholds, only the beginning is worth its room.
    top = np.nanmax([*shown["value"], *everybody["value"], 0.05])
    panel.set(xlim=(0, 1), ylim=(-0.5 * top, 1.1 * top), xlabel="threshold probability", ylabel="net benefit")
    panel.set_title("decision curve (grey: act on all, on none)", fontsize=7.5)


def _retained(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    shown = _lines(panel, rows, encoders, "balanced_accuracy_retained")
    panel.axhline(0.5, **GUIDE, zorder=0)
    low, high = np.nanmin([*shown["value"], 0.5]), np.nanmax([*shown["value"], 0.6])
    panel.set(xlim=(1.03, 0.47), ylim=(low - 0.05, high + 0.05), xlabel="share of patients retained")
    panel.set_ylabel("balanced accuracy")
    panel.set_title("without the least certain", fontsize=7.5)


def _line_handles(encoders: list[str]) -> list:
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(encoder_parts(encoder)[0] for encoder in encoders)
    handles = [
        Line2D(
            [], [], color=METHOD_COLOURS.get(m, INK), ls=":" if m == "clinical" else "-", label=METHOD_LABELS.get(m, m)
        )
        for m in methods
    ]
    return [
        *handles,
        Line2D([], [], color=INK, ls=(0, (3, 1.5)), label="base"),
        Line2D([], [], color=INK, label="+DRO"),
    ]


def draw_subgroups(tables: Tables) -> Figure:
    """A column for each common marker: AUC by subgroup, and below it how often the conformal sets hold the truth."""
    rows, names = _combined(tables)
    encoders = order_encoders(rows["encoder"])
    groups = rows[(rows["metric"] == "auc") & rows["variable"].isin(VARIABLES)]
    covered = rows[(rows["metric"] == "coverage") & np.isclose(rows["at"], LEVEL)]
    lines = [_ordered(groups, VARIABLES), _ordered(covered, ("class", "site and class"))]
    heights = [max(1, len(part)) for part in lines]
    figure = new_figure(1.3 + 0.24 * sum(heights))
    axes = figure.subplots(2, len(names), squeeze=False, height_ratios=heights, sharey="row")
    for column, name in enumerate(names):
        for panel, part, strata in zip(axes[:, column], (groups, covered), lines, strict=True):
            _strata(panel, part[part["endpoint"] == name], strata, encoders, first=column == 0)
        axes[0, column].set_title(f"{endpoint_label(name)}: AUC (95 % CI)", fontsize=7.5)
        axes[1, column].set_title(f"share covered by {100 * LEVEL:.0f} % sets", fontsize=7.5)
        chance(axes[0, column])
        chance(axes[1, column], LEVEL)
    finish(figure, tables.leakage, _line_handles(encoders)[:-2] + _face_handles(), columns=8)
    figure.set_label(f"{len(names)} markers, {len(lines[0])} subgroups, {len(encoders)} encoders.")
    return figure


def _ordered(rows: pd.DataFrame, variables: tuple[str, ...]) -> list[tuple[str, str]]:
    """(variable, stratum) in the order of the variables, age bands by age."""
    pairs = rows[["variable", "stratum"]].drop_duplicates().itertuples(index=False, name=None)
    ages = ("below 50", "50 to 65", "above 65")
    return sorted(pairs, key=lambda p: (variables.index(p[0]), ages.index(p[1]) if p[1] in ages else 0, p[1]))


def _strata(panel: Axes, rows: pd.DataFrame, strata: list[tuple[str, str]], encoders: list[str], first: bool) -> None:
    offsets = np.linspace(0.34, -0.34, len(encoders)) if len(encoders) > 1 else [0.0]
    for y, (variable, stratum) in enumerate(reversed(strata)):
        here = rows[(rows["variable"] == variable) & (rows["stratum"] == stratum)].set_index("encoder")
        if y % 2:
            panel.axhspan(y - 0.5, y + 0.5, color="#F5F5F5", zorder=-2, lw=0)
        if here["value"].isna().all():
            text = "suppressed (n < 10)" if here["note"].str.startswith("suppressed").any() else "not estimable"
            panel.text(0.5, y, text, color=GREY, style="italic", fontsize=6, ha="center", va="center")
            continue
        for encoder, offset in zip(encoders, offsets, strict=True):
            if encoder in here.index and pd.notna(here.loc[encoder, "value"]):
                _mark(panel, here.loc[encoder], y + offset, encoder)
    panel.set(xlim=(-0.03, 1.03), ylim=(-0.5, max(len(strata), 1) - 0.5))
    panel.set_yticks(range(len(strata)), [_stratum_label(*pair) for pair in reversed(strata)])
    panel.tick_params(axis="y", labelsize=6.5, labelleft=first)


def _mark(panel: Axes, row: pd.Series, y: float, encoder: str) -> None:
    method, objective, _ = encoder_parts(encoder)
    colour = METHOD_COLOURS.get(method, INK)
    if pd.notna(row["ci_low"]):
        panel.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=0.5, alpha=0.7, zorder=1)
    panel.plot(row["value"], y, "o", ms=2.2, mec=colour, mew=0.6, mfc="white" if objective == "base" else colour)


def _stratum_label(variable: str, stratum: str) -> str:
    if variable == "site":
        return site_label(stratum)
    if variable in ("class", "site and class"):
        site, _, label = stratum.rpartition(", ")
        return f"{site_label(site)}, {label}" if site else f"all, {label}"
    plain = {"sex": {"F": "female", "M": "male"}, "age band": {}, "vendor": {}}
    if variable == "WHO grade":
        return f"grade {stratum}"
    return plain.get(variable, {}).get(stratum, f"age {stratum}" if variable == "age band" else stratum)


def _face_handles() -> list:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], marker="o", ls="none", ms=3, mfc="white", mec=INK, label="base (open)"),
        Line2D([], [], marker="o", ls="none", ms=3, mfc=INK, mec=INK, label="+DRO (filled)"),
    ]
