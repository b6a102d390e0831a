"""What the maps are worth (Figure 6, beside its pictures): overlap with the tumour, faithfulness, randomised models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.endpoints import endpoints
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
    "random": ("x", "random order"),
}
CASCADE = ("layer4", "layer3", "layer2", "layer1", "stem")
SHOWN = (("mass_in_tumour", "share of the map in the tumour"), ("deletion_fall", "fall of the logit by deletion"))


def draw_map_checks(tables: Tables) -> Figure:
    """A line of panels an endpoint: mass in the tumour, deletion, and likeness to maps of randomised models."""
    checks = tables.checks.dropna(subset=["value"])
    if checks.empty:
        raise NothingToDrawError("no map could be checked")
    names = [name for name in endpoints() if name in set(checks["endpoint"])]
    encoders = order_encoders(checks["encoder"])
    figure = new_figure(0.9 + (0.9 + 0.2 * len(encoders)) * len(names))
    axes = figure.subplots(len(names), 3, squeeze=False, width_ratios=[1, 1, 1.1])
    for line, endpoint in zip(axes, names, strict=True):
        mine = checks[checks["endpoint"] == endpoint]
        for panel, (metric, label) in zip(line, SHOWN, strict=False):
            _dots(panel, mine[mine["metric"] == metric], encoders)
            panel.set_xlabel(label)
        line[0].set_title(f"{endpoints()[endpoint].label}: is it the tumour?", loc="left")
        line[1].set_title("Does the logit hang on it?", loc="left")
        line[1].set_yticklabels([])
        _cascade(line[2], mine, encoders)
    finish(figure, tables.leakage, _handles(checks))
    counts = checks[checks["metric"].isin([metric for metric, _ in SHOWN])].groupby("metric")["n"].max()
    figure.set_label(
        f"Patients with a tumour mask: at most {int(counts.get('mass_in_tumour', 0))} for overlap and "
        f"{int(counts.get('deletion_fall', 0))} for deletion and randomised models."
    )
    return figure


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
    panel.set_ylabel("likeness to the map")
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
