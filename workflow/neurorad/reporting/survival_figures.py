"""Overall survival (Figures 4A, 4B and 5): c-index by site, Kaplan-Meier curves with the numbers at risk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables
from neurorad.reporting.marker_figures import (
    PROTOCOL,
    UNCOMMON,
    _span,
    chance,
    estimate,
    forest,
    not_estimable,
    objective_handles,
)
from neurorad.reporting.theme import (
    GREY,
    GUIDE,
    INK,
    METHOD_COLOURS,
    NothingToDrawError,
    count_range,
    counted,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    say_nothing,
    site_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MONTH = 30.4375
"""Days (365.25 / 12)."""

STRATUM_COLOURS = {"low": "#0072B2", "high": "#D55E00", "negative": "#0072B2", "positive": "#D55E00"}


def draw_survival(tables: Tables) -> Figure:
    """One panel a site: c-index of each method, base open and +DRO filled."""
    survival = tables.table("survival")
    rows = survival[(survival["metric"] == "c_index") & (survival["protocol"] == PROTOCOL)]
    rows = rows[rows["endpoint"] == "os"] if "endpoint" in rows else rows
    if rows.empty:
        raise NothingToDrawError("no IDH-wildtype glioblastoma with known survival")
    sites = sorted(rows["site"].unique())
    figure = new_figure(2.5, width=max(4.0, min(7.2, 0.9 + 2.1 * len(sites))))
    axes = figure.subplots(1, len(sites), squeeze=False, sharex=True)[0]
    span = _span(rows[["ci_low", "ci_high", "value"]], (0.4, 0.8))
    for panel, site in zip(axes, sites, strict=True):
        mine = rows[rows["site"] == site]
        forest(panel, mine, first=site == sites[0], span=span)
        chance(panel)
        counts = f"n = {count_range(mine['n'])}, {count_range(mine['n_events'])} deaths"
        panel.set_title(f"{site_label(site)}\n{counts}", fontsize=7.5)
        panel.set_xlabel("c-index (95 % CI)")
    finish(figure, tables.leakage, objective_handles(rows["encoder"]))
    figure.set_label(f"{counted(len(rows), 'estimate')}, {int(rows['value'].isna().sum())} of them not estimable.")
    return figure


def draw_prognosis(tables: Tables) -> Figure:
    """A line of panels a site: time-dependent AUC, Brier score against Kaplan-Meier, calibration and net benefit."""
    survival = tables.table("survival")
    rows = survival[(survival["protocol"] == PROTOCOL) & (survival["endpoint"] == "os")]
    rows = rows[rows["metric"].isin(["ibs_gain", "observed_risk_12m", *NET_BENEFIT, *TIMES])]
    if rows["value"].notna().sum() == 0:
        raise NothingToDrawError("no site has enough deaths to judge a prognosis over time")
    sites, encoders = sorted(rows["site"].unique()), order_encoders(rows["encoder"])
    figure = new_figure(0.5 + 1.75 * len(sites))
    axes = figure.subplots(len(sites), 4, squeeze=False, sharex="col")
    for panels, site in zip(axes, sites, strict=True):
        here = rows[rows["site"] == site]
        for panel, draw in zip(panels, (_time_auc, _brier_gain, _calibration, _net_benefit), strict=True):
            draw(panel, here, encoders)
        counts = f"n = {count_range(here['n'])}, {count_range(here['n_events'])} deaths"
        panels[0].set_title(f"{site_label(site)}, {counts}", loc="left", fontsize=7)
    for panel, text in zip(
        axes[-1], ("months", "gain in IBS (95 % CI)", "predicted risk, 12 months", "threshold"), strict=True
    ):
        panel.set_xlabel(text)
    finish(figure, tables.leakage, encoder_handles(encoders), columns=5)
    figure.set_label(f"{counted(len(encoders), 'encoder')}, {counted(len(sites), 'site')}, out-of-fold predictions.")
    return figure


TIMES = {"auc_12m": 12, "auc_18m": 18, "auc_24m": 24}
NET_BENEFIT = ("net_benefit_12m", "net_benefit_of_all_12m")


def line_style(encoder: str) -> dict:
    """Colour of the method; base dashed, +DRO solid, references dotted."""
    method, objective, _ = encoder_parts(encoder)
    dashes = {"base": (0, (3, 1.2)), "dro": "-"}.get(objective, (0, (1, 1)))
    return {"color": METHOD_COLOURS.get(method, INK), "ls": dashes, "lw": 1.0}


def encoder_handles(encoders: list[str]) -> list:
    """A line of the legend an encoder."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=encoder_label(encoder), **line_style(encoder)) for encoder in encoders]


def _curve(panel: Axes, rows: pd.DataFrame, encoders: list[str], x: str, **style: object) -> bool:
    """One line an encoder through its estimable values; whether there was any."""
    for encoder in encoders:
        mine = rows[(rows["encoder"] == encoder) & rows["value"].notna()].sort_values(x)
        panel.plot(mine[x], mine["value"], **{**line_style(encoder), **style})
    if not rows["value"].notna().any():
        say_nothing(panel, "not estimable")
    return bool(rows["value"].notna().any())


def _time_auc(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    rows = rows[rows["metric"].isin(TIMES)]
    panel.set_ylabel("AUC")
    if _curve(panel, rows.assign(months=rows["metric"].map(TIMES)), encoders, "months", marker="o", ms=2.5):
        panel.axhline(0.5, **GUIDE)
        panel.set_xticks(list(TIMES.values()))


def _brier_gain(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    rows = rows[rows["metric"] == "ibs_gain"].set_index("encoder")
    for y, encoder in enumerate(reversed(encoders)):
        if encoder not in rows.index or pd.isna(rows.loc[encoder, "value"]):
            not_estimable(panel, y, 0.0)
        else:
            estimate(panel, y, rows.loc[encoder], encoder)
    chance(panel, 0.0)
    panel.set_yticks([])
    panel.set_ylim(-0.6, len(encoders) - 0.4)
    panel.set_ylabel("encoders, as below")


def _calibration(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    panel.set_ylabel("observed risk")
    if _curve(panel, rows[rows["metric"] == "observed_risk_12m"], encoders, "at", marker="o", ms=2):
        panel.plot([0, 1], [0, 1], **GUIDE)
        panel.set_xlim(0, 1)
        panel.set_ylim(-0.02, 1.02)


def _net_benefit(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    panel.set_ylabel("net benefit")
    model = rows[rows["metric"] == "net_benefit_12m"]
    if _curve(panel, model, encoders, "at"):
        everybody = rows[rows["metric"] == "net_benefit_of_all_12m"].drop_duplicates("at").sort_values("at")
        panel.plot(everybody["at"], everybody["value"], color=GREY, lw=0.9)
        panel.axhline(0, color=GREY, lw=0.9)
        top = model["value"].max()
        panel.set_ylim(min(-0.05, -0.2 * top), 1.15 * top + 0.02)
        panel.text(
            0.98, 0.94, "grey: all, none", transform=panel.transAxes, ha="right", va="top", fontsize=6, color=GREY
        )


def draw_risk_groups(tables: Tables) -> Figure:
    """Kaplan-Meier curves of high and low predicted risk: a row an encoder, a column a site."""
    curves = tables.table("curves")
    curves = curves[curves["stratum"].isin(["risk high", "risk low"])]
    curves = curves[curves["endpoint"] == "os"] if "endpoint" in curves else curves
    if curves.empty:
        raise NothingToDrawError("no site has enough deaths for risk groups")
    encoders, sites = order_encoders(curves["encoder"]), sorted(curves["site"].unique())
    figure = new_figure(0.3 + 2.1 * len(encoders))
    axes = figure.subplots(len(encoders), len(sites), squeeze=False)
    for panels, encoder in zip(axes, encoders, strict=True):
        for panel, site in zip(panels, sites, strict=True):
            mine = curves[(curves["encoder"] == encoder) & (curves["site"] == site)]
            p = _log_rank(tables.survival, site, "os", encoder)
            kaplan_meier(panel, mine, f"{encoder_label(encoder)} · {site_label(site)}", p)
        panels[0].set_ylabel("overall survival")
    finish(figure, tables.leakage)
    figure.set_label(
        f"{counted(len(encoders), 'encoder')}, {counted(len(sites), 'site')}; risk from out-of-fold predictions."
    )
    return figure


def draw_marker_survival(tables: Tables) -> Figure:
    """Kaplan-Meier curves of carriers and non-carriers of each uncommon marker, lettered panels."""
    curves = tables.table("curves")
    marker = curves["stratum"].astype(str).str.extract("^(.+) (?:positive|negative)$", expand=False)
    curves = curves.assign(marker=marker)
    curves = curves[curves["marker"].isin(UNCOMMON)]
    if curves.empty:
        raise NothingToDrawError("no uncommon marker has 5 patients in each arm")
    # The marker is observed, not predicted: its curve is the same in every encoder's file.
    curves = curves.drop_duplicates(["site", "stratum", "time"])
    panels = [
        (marker, site)
        for marker in UNCOMMON
        for site in sorted(curves["site"].unique())
        if len(curves[(curves["marker"] == marker) & (curves["site"] == site)])
    ]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(0.3 + 2.1 * lines, width=max(3.6, 2.4 * columns))
    axes = figure.subplots(lines, columns, squeeze=False)
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    for i, (panel, (marker, site)) in enumerate(zip(axes.flat, panels, strict=False)):
        mine = curves[(curves["marker"] == marker) & (curves["site"] == site)]
        title = f"{chr(65 + i % 26)}  {endpoints()[marker].label} · {site_label(site)}"
        kaplan_meier(panel, mine, title, _log_rank(tables.survival, site, marker, None))
        if i % columns == 0:
            panel.set_ylabel("overall survival")
    finish(figure, tables.leakage)
    figure.set_label(f"{len(panels)} marker-site panels; status as tested in the laboratory.")
    return figure


def kaplan_meier(panel: Axes, curves: pd.DataFrame, title: str, p: float | None) -> None:
    """Step curves with confidence bands, and below the axis the numbers still at risk.

    Args:
        curves: stratum, time (days), survival, ci_low, ci_high (0-1), at_risk.
        p: of the log-rank test; None if nobody made it, NaN if it cannot be estimated.
    """
    panel.set_title(title, fontsize=7.5, loc="left")
    drawn = curves[curves["survival"].notna()]
    if drawn.empty:
        say_nothing(panel, "not estimable")
        return
    last = drawn["time"].max() / MONTH
    ticks = _month_ticks(last)
    strata = sorted(drawn["stratum"].unique())
    for i, stratum in enumerate(strata):
        part = drawn[drawn["stratum"] == stratum].sort_values("time")
        months = part["time"].to_numpy(float) / MONTH
        name = stratum.rsplit(" ", 1)[-1]
        colour = STRATUM_COLOURS.get(name, GREY)
        dashes = "-" if i == 0 else (0, (4, 1.2))
        panel.step(months, part["survival"], where="post", color=colour, ls=dashes, label=name)
        if part["ci_low"].notna().any():
            panel.fill_between(months, part["ci_low"], part["ci_high"], step="post", color=colour, alpha=0.15, lw=0)
        for tick in ticks:
            _below(panel, tick, -29 - 8 * i, _at_risk(part, tick * MONTH), colour)
        # The rows are the legend too: inside the panel one would lie on a curve or its band.
        _below(panel, 0, -29 - 8 * i, name, colour, "right", -10)
    _below(panel, 0, -20, "at risk", INK)
    if p is not None:
        test = "log-rank not estimable" if math.isnan(p) else f"log-rank {format_p(p)}"
        _below(panel, last * 1.03, -29 - 8 * len(strata), test, INK, "right")
    panel.set_xticks(ticks)
    panel.set_xlim(0, last * 1.03)
    panel.set_ylim(0, 1.04)
    panel.set_xlabel("months", labelpad=0)


def _below(
    panel: Axes, month: float, points: float, text: str, colour: str, side: str = "center", shift: float = 0
) -> None:
    """A line of text under the axis, at a distance in points: a share of the panel's height would never settle."""
    panel.annotate(
        text,
        (month, 0),
        (shift, points),
        xycoords=panel.get_xaxis_transform(),
        textcoords="offset points",
        color=colour,
        ha=side,
        va="center",
        fontsize=6,
    )


def _at_risk(part: pd.DataFrame, day: float) -> str:
    """Patients at risk just before `day`: the first row at or after it, 0 beyond the last."""
    later = part[part["time"] >= day - 1e-6]
    return str(int(later["at_risk"].iloc[0])) if len(later) else "0"


def _month_ticks(last: float) -> list[int]:
    step = next(step for step in (3, 6, 12, 24, 36, 60, 120, 1200) if last / step <= 5)
    return list(np.arange(0, last + 1e-9, step).astype(int))


def format_p(p: float) -> str:
    """`p < 0.001`, three digits below 0.1, else two."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _log_rank(survival: pd.DataFrame | None, site: str, endpoint: str, encoder: str | None) -> float | None:
    if survival is None:
        return None
    rows = survival[(survival["metric"] == "log_rank_p") & (survival["site"] == site)]
    rows = rows[(rows["endpoint"] == endpoint) & ((rows["encoder"] == encoder) | (encoder is None))]
    return float(rows["value"].iloc[0]) if len(rows) else None
