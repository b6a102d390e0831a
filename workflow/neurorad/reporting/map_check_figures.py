"""What the maps are worth (Figure 6, beside its pictures): overlap with the tumour, faithfulness, randomised models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.endpoints import endpoints
from neurorad.reporting.explanation_figures import endpoint_label
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import (
    GREY,
    INK,
    METHOD_COLOURS,
    NothingToDrawError,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = {
    "gradcam": ("o", "Grad-CAM"),
    "occlusion": ("^", "occlusion"),
    "centre_prior": ("D", "centre prior"),
    "untrained": ("s", "untrained encoder"),
    "random": ("x", "random order"),
}
CASCADE = ("layer4", "layer3", "layer2", "layer1", "stem")
DESTROYED = 0.5
"""A rank correlation below this is no likeness any more: less than a quarter of the ranks' variance is shared."""
SHOWN = (("mass_in_tumour", "share of map in tumour"), ("deletion_fall", "fall by deletion (log beyond 1)"))


def draw_map_checks(tables: Tables) -> Figure:
    """A line of panels an endpoint: mass in the tumour, deletion, and likeness to maps of randomised models."""
    checks = tables.table("checks").dropna(subset=["value"])
    if checks.empty:
        raise NothingToDrawError("no map could be checked")
    names = [name for name in (*endpoints(), "os") if name in set(checks["endpoint"])]
    encoders = order_encoders(checks["encoder"])
    figure = new_figure(0.9 + max(1.5, 0.9 + 0.2 * len(encoders)) * len(names))
    axes = figure.subplots(len(names), 3, squeeze=False, width_ratios=[1, 1, 1.1])
    for line, endpoint in zip(axes, names, strict=True):
        mine = checks[checks["endpoint"] == endpoint]
        for panel, (metric, label) in zip(line, SHOWN, strict=False):
            _dots(panel, mine[mine["metric"] == metric], encoders)
            panel.set_xlabel(label)
        line[0].set_title(f"{endpoint_label(endpoint)}: is it the tumour?", loc="left")
        line[1].set_title("Does the score hang on it?", loc="left")
        line[1].set_yticklabels([])
        # A probe has seen nothing like a volume that is almost empty: its score can be in the hundreds.
        line[1].set_xscale("symlog", linthresh=1)
        line[1].xaxis.set_major_formatter("{x:g}")
        _cascade(line[2], mine, encoders)
    finish(figure, tables.leakage, _handles(checks))
    counts = checks[checks["metric"].isin([metric for metric, _ in SHOWN])].groupby("metric")["n"].max()
    figure.set_label(
        f"Patients with a tumour mask: at most {int(counts.get('mass_in_tumour', 0))} for overlap and "
        f"{int(counts.get('deletion_fall', 0))} for deletion and randomised models."
    )
    return figure


def map_agreement(tables: Tables) -> pd.DataFrame:
    """Do Grad-CAM maps beat the centre prior and the untrained encoder, and does randomising the encoder destroy them?

    A row an endpoint and encoder: patients, the map's own numbers, paired differences with their 95 % intervals, and
    likeness (Spearman) to the map of the encoder untrained again. `verdict` reads the intervals of the Dice overlap, which
    asks for the tumour's place and its extent: "beats" if the interval lies above 0, "loses" if below. A likeness whose
    interval lies within -0.5 and 0.5 is "destroyed".
    """
    rows, checks = [], tables.table("checks")
    numbers = [
        name
        for metric in ("pointing_hit", "dice_top_5_percent", "mass_in_tumour")
        for name in (metric, f"{metric}_minus_prior", f"{metric}_minus_untrained")
    ]
    found = checks[checks["protocol"] == "gradcam"].set_index(["endpoint", "encoder", "metric"]).sort_index()
    for endpoint in [name for name in (*endpoints(), "os") if name in set(checks["endpoint"])]:
        mine = found.loc[[endpoint]]
        for encoder in order_encoders(mine.index.unique("encoder")):
            one = mine.loc[(endpoint, encoder)]
            row: dict[str, object] = {"endpoint": endpoint, "encoder": encoder}
            row["n"] = int(one["n"].get("dice_top_5_percent", 0))
            row |= {name: _with_interval(one, name) for name in numbers}
            row["likeness_untrained"] = _with_interval(one, "cascade_stem")
            row["verdict"] = "; ".join(_verdicts(one))
            rows.append(row)
    return pd.DataFrame(rows, columns=["endpoint", "encoder", "n", *numbers, "likeness_untrained", "verdict"])


def _with_interval(rows: pd.DataFrame, metric: str) -> str:
    if metric not in rows.index or pd.isna(rows.loc[metric, "value"]):
        return "not estimable"
    row = rows.loc[metric]
    if pd.isna(row["ci_low"]):
        return f"{row['value']:.2f} (no interval, n = {row['n']})"
    return f"{row['value']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"


def _verdicts(rows: pd.DataFrame) -> list[str]:
    said = []
    for suffix, rival in (("minus_prior", "the centre prior"), ("minus_untrained", "the untrained encoder")):
        name = f"dice_top_5_percent_{suffix}"
        if name not in rows.index or pd.isna(rows.loc[name, "ci_low"]):
            said.append(f"against {rival} not estimable")
            continue
        low, high = rows.loc[name, ["ci_low", "ci_high"]]
        said.append(f"{'beats' if low > 0 else 'loses to' if high < 0 else 'cannot be told from'} {rival}")
    if "cascade_stem" not in rows.index or pd.isna(rows.loc["cascade_stem", "ci_high"]):
        return [*said, "randomisation not estimable"]
    destroyed = rows.loc["cascade_stem", ["ci_low", "ci_high"]].abs().max() < DESTROYED
    return [*said, "destroyed by randomisation" if destroyed else "not shown to be destroyed by randomisation"]


def _dots(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    for place, encoder in enumerate(encoders):
        for shift, (kind, (marker, _)) in zip(np.linspace(-0.27, 0.27, len(MAPS)), MAPS.items(), strict=True):
            found = rows[(rows["encoder"] == encoder) & (rows["protocol"] == kind)]
            if found.empty:
                continue
            row = found.iloc[0]
            colour = _colour(encoder) if kind in ("gradcam", "occlusion") else GREY
            panel.plot(row["value"], place + shift, marker, ms=3.2, color=colour, mew=0.9 if marker == "x" else 0)
            panel.plot([row["ci_low"], row["ci_high"]], [place + shift] * 2, color=colour, lw=0.8)
    panel.axvline(0, color=INK, lw=0.4)
    panel.set_yticks(range(len(encoders)), [encoder_label(encoder) for encoder in encoders])
    panel.set_ylim(len(encoders) - 0.5, -0.5)
    panel.margins(x=0.08)


def _cascade(panel: Axes, rows: pd.DataFrame, encoders: list[str]) -> None:
    """Rank correlation with the trained encoder's map as ever more stages are untrained, and with shuffled labels."""
    columns = [*(f"cascade_{stage}" for stage in CASCADE), "permuted_labels", "simple_probe"]
    for encoder in encoders:
        mine = rows[(rows["encoder"] == encoder) & (rows["protocol"] == "gradcam")].set_index("metric")["value"]
        values = mine.reindex(columns).to_numpy(float)
        dashed = "--" if "-dro-" in encoder else "-"
        panel.plot(range(len(CASCADE)), values[: len(CASCADE)], dashed, marker="o", ms=2, color=_colour(encoder))
        panel.plot(range(len(CASCADE), len(columns)), values[len(CASCADE) :], "o", ms=2.4, color=_colour(encoder))
    panel.axhline(0, color=INK, lw=0.4)
    panel.axvline(len(CASCADE) - 0.5, color=GREY, lw=0.4)
    panel.set_ylim(-1, 1.05)
    panel.set_xticks(range(len(columns)), [*CASCADE, "shuffled", "refitted"], rotation=45, ha="right")
    panel.set_ylabel("likeness")
    panel.set_title("Does it change with the model?", loc="left")


def _colour(encoder: str) -> str:
    return METHOD_COLOURS.get(encoder.split("-")[0], INK)


def _handles(checks: pd.DataFrame) -> list:
    from matplotlib.lines import Line2D

    there = set(checks["protocol"])
    return [
        Line2D([], [], marker=marker, ls="", ms=4, color=INK if kind in ("gradcam", "occlusion") else GREY, label=label)
        for kind, (marker, label) in MAPS.items()
        if kind in there
    ]
