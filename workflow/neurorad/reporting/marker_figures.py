"""Molecular markers (Figure 3): every AUC with its interval, base against +DRO, and their paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binom

from neurorad.encoder_names import OBJECTIVES, encoder_parts, is_rival
from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import (
    GREY,
    GUIDE,
    INK,
    METHOD_COLOURS,
    METHOD_LABELS,
    OBJECTIVE_LABELS,
    OBJECTIVE_MARKERS,
    NothingToDrawError,
    count_range,
    counted,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    site_label,
)
from neurorad.rivals import TUNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMON = ("mgmt", "idh1", "1p19q")
UNCOMMON = ("egfr", "atrx", "tp53", "cdkn2ab", "tert", "ki67", "tp53_percent")
PROTOCOL = "within_site"
"""Repeated cross-validation within each site, the protocol that the paper's figures seem to use."""


def auc_rows(probe: pd.DataFrame, protocol: str = PROTOCOL) -> pd.DataFrame:
    """The AUC rows of one protocol, estimable or not.

    Raises:
        NothingToDrawError: the table has no such row.
    """
    rows = probe[(probe["metric"] == "auc") & (probe["protocol"] == protocol)]
    if rows.empty:
        raise NothingToDrawError(f"no patient has a label that could be probed {protocol.replace('_', ' ')}")
    return rows


def mean_auc(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC of each encoder over the (site, endpoint) pairs that could be estimated for every encoder.

    A rival that by its nature does not see all patients or endpoints (`is_partial`) takes no pair from the others: its
    mean is over those of the pairs that it has.

    The interval runs from the mean lower to the mean upper limit. As SD(mean) <= mean(SD) whatever the
    dependence between the pairs (Minkowski), it is at least as wide as the 95 % CI of the mean. An AUC whose
    interval cannot be made (perfect separation) counts with the widest, 0 to 1.

    Returns:
        Columns encoder, value, ci_low, ci_high, pairs; one row an encoder.
    """
    kept = rows[rows["value"].notna()]
    whole = kept[~kept["encoder"].map(is_partial)] if not kept["encoder"].map(is_partial).all() else kept
    counts = whole.groupby(["site", "endpoint"])["encoder"].nunique()
    pairs = counts.index[counts == whole["encoder"].nunique()]
    kept = kept[pd.MultiIndex.from_frame(kept[["site", "endpoint"]]).isin(pairs)].fillna(
        {"ci_low": 0.0, "ci_high": 1.0}
    )
    means = kept.groupby("encoder", sort=False)[["value", "ci_low", "ci_high"]].mean()
    return means.assign(pairs=kept.groupby("encoder")["value"].size()).reset_index()


def is_partial(encoder: str) -> bool:
    """Radiomics has the patients with a tumour mask; a network tuned end to end the endpoints that the config names."""
    method, objective, _ = encoder_parts(encoder)
    return method == "radiomics" or objective.split("-")[-1] == TUNED


def draw_rivals(tables: Tables) -> Figure:
    """One row an encoder or rival: each AUC a dot, their mean with its conservative interval; a grey row with the reason for
    each rival that the study has not."""
    rows = auc_rows(tables.probe)
    rows = rows[rows["site"] != "all"]
    means = mean_auc(rows).set_index("encoder")
    absent, elsewhere = _rival_notes(tables.rivals)
    encoders = order_encoders(rows["encoder"])
    absent = {name: absent[name] for name in order_encoders(absent) if name not in encoders}
    shown = [*encoders, *absent]
    figure = new_figure(1.0 + 0.26 * len(shown), width=5.4)
    axes = figure.subplots()
    span = _span(rows[["value"]], (0.3, 1.0))
    pairs = int(means["pairs"].max()) if len(means) else 0
    for y, encoder in enumerate(reversed(shown)):
        if encoder in absent:
            # In the middle of the panel, as a long reason about 0.5 would run over the names.
            text = axes.text(0.5, y, absent[encoder], backgroundcolor="#F5F5F5", ha="center", va="center")
            text.set(color=GREY, style="italic", fontsize=6.5, transform=axes.get_yaxis_transform())
            axes.axhspan(y - 0.5, y + 0.5, color="#F5F5F5", zorder=-2, lw=0)
            continue
        mine = np.sort(rows.loc[(rows["encoder"] == encoder), "value"].dropna().to_numpy())
        spread = 0.22 * np.sin(np.arange(len(mine)) * 2.4)
        axes.plot(mine, y + spread, ".", ms=2.5, color="#BBBBBB", zorder=1)
        if encoder not in means.index:
            not_estimable(axes, y, 0.5)
            continue
        estimate(axes, y, means.loc[encoder], encoder)
        if means.loc[encoder, "pairs"] < pairs:
            share = f"{int(means.loc[encoder, 'pairs'])} of {pairs}"
            axes.text(1.01, y, share, transform=axes.get_yaxis_transform(), fontsize=6, color=GREY, va="center")
    chance(axes)
    axes.set_xlim(*span)
    labels = [f"{encoder_label(name)}{'*' if name in elsewhere else ''}" for name in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels)
    for label, name in zip(axes.get_yticklabels(), reversed(shown), strict=True):
        label.set_color(GREY if name in absent else INK)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("AUC, out of fold (dot: one marker at one site)")
    whole = sum(not is_partial(encoder) for encoder in means.index)
    axes.set_title(f"mean over {pairs} marker-site pairs estimable for all {whole} encoders", loc="left")
    starred = [name for name in encoders if name in elsewhere]
    stamp = "* pretrained elsewhere: LEAKAGE NOT EXCLUDED, it may know test patients" if starred else ""
    finish(figure, "; ".join(filter(None, [tables.leakage, stamp])))
    figure.set_label(f"{pairs} marker-site pairs, {len(encoders)} encoders, {count_range(rows['n'])} patients a pair.")
    return figure


def _rival_notes(rivals: pd.DataFrame | None) -> tuple[dict[str, str], set[str]]:
    """Rivals that the study has not -> why, and those that were pretrained elsewhere."""
    if rivals is None:
        return {}, set()
    missing = rivals[rivals["reason"].fillna("") != ""]
    absent = dict(zip(missing["encoder"], missing["reason"], strict=True))
    return absent, set(rivals.loc[rivals["pretrained_elsewhere"] == "yes", "encoder"])


def draw_common_markers(tables: Tables) -> Figure:
    """A panel a marker that many patients have: AUC by encoder and site."""
    return _marker_grid(tables, COMMON)


def draw_uncommon_markers(tables: Tables) -> Figure:
    """A panel a marker that few patients have: AUC by encoder and site."""
    return _marker_grid(tables, UNCOMMON)


def _marker_grid(tables: Tables, names: tuple[str, ...]) -> Figure:
    """A panel for each marker (row) and site (column): methods against AUC, base open, +DRO filled."""
    rows = auc_rows(tables.probe)
    rows = rows[rows["endpoint"].isin(names) & (rows["site"] != "all")]
    rows = rows[~rows["encoder"].map(is_rival)]
    if rows.empty:
        raise NothingToDrawError(f"no patient has a label of {', '.join(map(endpoint_label, names))}")
    sites = sorted(rows["site"].unique())
    names = tuple(name for name in names if name in set(rows["endpoint"]))
    # Two objectives fit a method's row; more make the rows taller.
    objectives = rows["encoder"].map(lambda e: encoder_parts(e)[1]).nunique()
    figure = new_figure(
        0.55 + 1.22 * max(1.0, objectives / 2.5) * len(names), width=max(4.0, min(7.2, 0.9 + 2.1 * len(sites)))
    )
    axes = figure.subplots(len(names), len(sites), squeeze=False, sharex=True)
    span = _span(rows[["ci_low", "ci_high", "value"]], (0.3, 1.0))
    for panels, name in zip(axes, names, strict=True):
        for panel, site in zip(panels, sites, strict=True):
            mine = rows[(rows["endpoint"] == name) & (rows["site"] == site)]
            forest(panel, mine, first=site == sites[0], span=span)
            chance(panel)
            counts = f"n = {count_range(mine['n'])}, {count_range(mine['n_positive'])} positive" if len(mine) else ""
            panel.set_title(f"{endpoint_label(name)} · {site_label(site)}\n{counts}", fontsize=7)
    for panel in axes[-1]:
        panel.set_xlabel("AUC (95 % CI)")
    finish(figure, tables.leakage, objective_handles(rows["encoder"]))
    figure.set_label(f"{counted(len(rows), 'estimate')}, {int(rows['value'].isna().sum())} of them not estimable.")
    return figure


def forest(panel: Axes, rows: pd.DataFrame, first: bool, span: tuple[float, float]) -> None:
    """Estimates by method (rows) and objective (offset within a row); what cannot be estimated says so in grey."""
    encoders = order_encoders(rows["encoder"])
    methods = list(dict.fromkeys(encoder_parts(encoder)[0] for encoder in encoders))
    for y, method in enumerate(reversed(methods)):
        mine = [encoder for encoder in encoders if encoder_parts(encoder)[0] == method]
        if rows.loc[rows["encoder"].isin(mine), "value"].isna().all():
            not_estimable(panel, y, sum(span) / 2)
            continue
        reach = 0.2 if len(mine) <= 2 else 0.34
        offsets = np.linspace(reach, -reach, len(mine)) if len(mine) > 1 else np.zeros(1)
        for encoder, offset in zip(mine, offsets, strict=True):
            row = rows[rows["encoder"] == encoder].iloc[0]
            if pd.isna(row["value"]):
                not_estimable(panel, y + offset, sum(span) / 2)
            else:
                estimate(panel, y + offset, row, encoder)
    labels = [METHOD_LABELS.get(method, method) for method in reversed(methods)]
    panel.set_yticks(range(len(methods)), labels if first else [""] * len(methods))
    panel.set_ylim(-0.6, len(methods) - 0.4 if methods else 0.6)
    panel.set_xlim(*span)
    if not methods:
        not_estimable(panel, 0, sum(span) / 2, "no such label at this site")


def estimate(panel: Axes, y: float, row: pd.Series, encoder: str) -> None:
    """A point with its interval: a marker an objective, open for base, filled diamond for +DRO, square for a reference."""
    method, objective, _ = encoder_parts(encoder)
    colour = METHOD_COLOURS.get(method, INK)
    marker = OBJECTIVE_MARKERS.get(objective, "s")
    if pd.notna(row["ci_low"]):
        panel.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.1, zorder=2)
    face = "white" if objective == "base" else colour
    panel.plot(row["value"], y, marker=marker, ms=4.2, mfc=face, mec=colour, color=colour, zorder=3, ls="none")


def not_estimable(panel: Axes, y: float, x: float, text: str = "not estimable") -> None:
    """Words in a number's place."""
    panel.text(x, y, text, color=GREY, style="italic", fontsize=6, ha="center", va="center")


def chance(panel: Axes, value: float = 0.5) -> None:
    """A dotted line where a guess would be."""
    panel.axvline(value, **GUIDE, zorder=0)


def objective_handles(encoders: Iterable[str]) -> list:
    """Base and +DRO always, the other objectives where an encoder has them."""
    from matplotlib.lines import Line2D

    shown = {"base", "dro"} | {encoder_parts(encoder)[1] for encoder in encoders}
    handles = [
        Line2D(
            [],
            [],
            marker=OBJECTIVE_MARKERS[name],
            mfc="white" if name == "base" else INK,
            mec=INK,
            color=INK,
            ms=4.2,
            lw=1.1,
            label=OBJECTIVE_LABELS[name],
        )
        for name in OBJECTIVES
        if name in shown
    ]
    return [*handles, Line2D([], [], **GUIDE, label="chance")]


def draw_differences(tables: Tables) -> Figure:
    """Paired AUC difference, +DRO minus base: a panel a site, a row a marker, a colour a method."""
    from matplotlib.lines import Line2D

    rows = auc_differences(tables.comparison)
    rows = rows[rows["site"] != "all"] if (rows["site"] != "all").any() else rows
    sites = sorted(rows["site"].unique())
    names = [name for name in endpoints() if name in set(rows["endpoint"])]
    names += sorted(set(rows["endpoint"]) - set(names))
    methods = order_encoders(rows["method"])
    figure = new_figure(1.1 + 0.5 * len(names), width=max(4.0, min(7.2, 0.9 + 2.1 * len(sites))))
    axes = figure.subplots(1, len(sites), squeeze=False, sharex=True)[0]
    for panel, site in zip(axes, sites, strict=True):
        for y, name in enumerate(reversed(names)):
            here = rows[(rows["site"] == site) & (rows["endpoint"] == name)]
            if here["value"].isna().all():
                not_estimable(panel, y, 0.0, "not estimable" if len(here) else "no such label at this site")
                here = here.head(0)
            for method, offset in zip(methods, np.linspace(0.3, -0.3, len(methods)), strict=True):
                for _, row in here[here["method"] == method].iterrows():
                    _difference(panel, y + offset, row, METHOD_COLOURS.get(method, INK))
            if y % 2:
                panel.axhspan(y - 0.5, y + 0.5, color="#F5F5F5", zorder=-2, lw=0)
        chance(panel, 0.0)
        panel.set_yticks(
            range(len(names)), [endpoint_label(n) for n in reversed(names)] if site == sites[0] else [""] * len(names)
        )
        panel.set_ylim(-0.5, len(names) - 0.5)
        panel.set_title(site_label(site))
        panel.set_xlabel("AUC, +DRO minus base")
    limit = np.nanmax(np.abs(rows[["ci_low", "ci_high", "value"]].to_numpy(float)), initial=0.1) * 1.05
    axes[0].set_xlim(-limit, limit)
    handles = [
        Line2D([], [], color=METHOD_COLOURS.get(m, INK), marker="D", ms=4, label=METHOD_LABELS.get(m, m))
        for m in methods
    ]
    handles.append(Line2D([], [], color=INK, marker="D", mfc="white", ms=4, label="open: not significant at 5 %"))
    finish(figure, tables.leakage, handles, columns=5)
    figure.set_label(verdict(rows))
    return figure


def _difference(panel: Axes, y: float, row: pd.Series, colour: str) -> None:
    if pd.isna(row["value"]):
        not_estimable(panel, y, 0.0)
        return
    panel.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=0.9)
    face = colour if significant_side(row) else "white"
    panel.plot(row["value"], y, "D", ms=3.2, mec=colour, mfc=face, mew=0.8)


def auc_differences(comparison: pd.DataFrame, protocol: str = PROTOCOL) -> pd.DataFrame:
    """The paired AUC differences of one protocol, those of its primary test where the table says which that is.

    Raises:
        NothingToDrawError: the table has none.
    """
    rows = comparison[comparison["metric"].isin(["auc_difference", "auc_difference_corrected"])]
    rows = rows[rows["role"] == "primary"] if "role" in rows else rows
    if "objective" in rows:
        rows = rows[rows["objective"] == "dro"]
    if "protocol" in rows and (rows["protocol"] == protocol).any():
        rows = rows[rows["protocol"] == protocol]
    if rows.empty:
        raise NothingToDrawError("no endpoint was compared")
    return rows


def significant_side(row: pd.Series) -> int:
    """1 where the primary test finds the difference above 0 at 5 %, -1 below, 0 neither.

    By its p, not by its interval: the p is never below that of either encoder knowing anything (`comparison.guarded`).
    """
    return int(np.sign(row["value"])) if row["p"] < 0.05 else 0


def verdict(rows: pd.DataFrame) -> str:
    """What the paired differences say, counted by their tests, in honest sentences.

    Without any effect a difference is significant above 0, and below 0, with probability 0.025 each at most. The side
    with more is held against that by the one-sided binomial test at 0.025. The test takes the comparisons to be
    independent; as they share patients, chance gathers more on a side than it allows for, and the sentence says so.

    Args:
        rows: one row a comparison: value, ci_low, ci_high p (+DRO minus base).
    """
    known = rows[rows["value"].notna() & rows["ci_low"].notna()]
    sides = [significant_side(row) for _, row in known.iterrows()]
    better, worse = sides.count(1), sides.count(-1)
    undecided, missing = len(known) - better - worse, len(rows) - len(known)
    text = (
        f"Of {len(rows)} comparisons of +DRO with base, the difference is significantly (5 %) above 0 in {better}, "
        f"below 0 in {worse}, and neither in {undecided}; {missing} could not be estimated."
    )
    if not len(known):
        return text + " So these data say nothing for or against +DRO." if len(rows) else text
    chance_alone = float(binom.sf(max(better, worse) - 1, len(known), 0.025))
    if better == worse or chance_alone > 0.025:
        reason = "as many lie on either side" if better == worse else "chance alone may put as many on a side"
        return f"{text} This shows neither an advantage of +DRO nor a disadvantage: {reason}."
    side, other, word = ("above", "below", "for") if better > worse else ("below", "above", "against")
    odds = "p < 0.001" if chance_alone < 0.001 else f"p = {chance_alone:.3f}"
    text += (
        f" This speaks {word} +DRO: more lie {side} 0 than {other}, and more than chance alone puts there ({odds}, "
        "binomial, as if the comparisons were independent; they share patients, so this is too small)."
    )
    if undecided > len(known) / 2:
        text += " For most comparisons +DRO made no difference that these data can show."
    return text


def endpoint_label(name: str) -> str:
    """How figures name an endpoint."""
    known = endpoints()
    return known[name].label if name in known else name


def _span(values: pd.DataFrame, least: tuple[float, float]) -> tuple[float, float]:
    """Limits that hold every number, and at least `least`; AUC and c-index never pass 0 and 1."""
    numbers = values.to_numpy(float)
    low, high = np.nanmin(numbers, initial=least[0]), np.nanmax(numbers, initial=least[1])
    return max(-0.02, low - 0.02), min(1.02, high + 0.02)
