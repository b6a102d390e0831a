"""Where an encoder looked (Figure 6): slices with the Grad-CAM map and the outline of the tumour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import (
    GREY,
    NothingToDrawError,
    encoder_label,
    finish,
    new_figure,
    order_encoders,
    site_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

OUTLINE = "#00E5FF"
COUNTER = "#4AA8FF"
"""Contour of the counter-evidence: where it reaches half of the larger maximum of the two."""


def draw_gradcam(tables: Tables) -> Figure:
    """A row an encoder and endpoint, a column a patient: FLAIR with the map over it, the tumour outlined."""
    explained = [maps for maps in tables.maps if len(maps["patient"])]
    if not explained:
        raise NothingToDrawError("no probe could be explained")
    order = order_encoders(str(maps["encoder"]) for maps in explained)
    explained.sort(key=lambda maps: (order.index(str(maps["encoder"])), str(maps["endpoint"])))
    columns = max(len(maps["patient"]) for maps in explained)
    figure = new_figure(0.7 + 1.62 * len(explained), width=max(3.6, 0.4 + 1.7 * columns))
    axes = figure.subplots(len(explained), columns, squeeze=False)
    heat = None
    for panels, maps in zip(axes, explained, strict=True):
        for panel in panels:
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_visible(False)
        for i, panel in enumerate(panels[: len(maps["patient"])]):
            _picture(panel, maps["t2f"][i])
            heat = _heat(panel, maps["maps"][i, :, :, maps["slice"][i]].astype(float))
            against = maps["against"][i, :, :, maps["slice"][i]].astype(float)
            if against.max() > 0.5:
                panel.contour(against.T, levels=[0.5], colors=COUNTER, linewidths=0.7, linestyles="dashed")
            if maps["tumour"][i].any():
                panel.contour(maps["tumour"][i].T, levels=[0.5], colors=OUTLINE, linewidths=0.8)
            text, colour = _agreement(tables.agreement, maps, i)
            panel.set_title(f"{_who(maps, i)}\n{text}", fontsize=6, color=colour)
        panels[0].set_ylabel(f"{encoder_label(str(maps['encoder']))}\n{_label(maps)}", fontsize=7.5)
    bar = figure.colorbar(heat, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label(
        "Grad-CAM, share of the scan's maximum (cyan: tumour outline; dashed blue: evidence against)", fontsize=7
    )
    finish(figure, tables.leakage)
    total = sum(len(maps["patient"]) for maps in explained)
    figure.set_label(f"{len(explained)} probes, {total} maps, of the patients with the highest and the lowest scores.")
    return figure


def _picture(panel: Axes, picture: np.ndarray) -> None:
    values = picture.astype(float)
    brain = values[values != 0]
    low, high = np.percentile(brain, [1, 99.5]) if brain.size else (0.0, 1.0)
    panel.imshow(np.where(values == 0, low, values).T, cmap="gray", vmin=low, vmax=high, origin="lower")


def _heat(panel: Axes, plane: np.ndarray) -> AxesImage:
    return panel.imshow(plane.T, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(plane * 1.2, 0, 0.65).T, origin="lower")


def _label(maps: dict[str, np.ndarray]) -> str:
    known, endpoint = endpoints(), str(maps["endpoint"])
    return known[endpoint].label if endpoint in known else endpoint


def _who(maps: dict[str, np.ndarray], i: int) -> str:
    status = "positive" if maps["label"][i] else "negative"
    return f"{site_label(str(maps['cohort'][i]))}, {status}, score {maps['score'][i]:.2f}"


def _agreement(agreement: pd.DataFrame | None, maps: dict[str, np.ndarray], i: int) -> tuple[str, str]:
    if agreement is None:
        return "", "black"
    rows = agreement[
        (agreement["encoder"] == str(maps["encoder"]))
        & (agreement["endpoint"] == str(maps["endpoint"]))
        & (agreement["cohort"] == str(maps["cohort"][i]))
        & (agreement["scan"] == str(maps["scan"][i]))
    ]
    if rows.empty or pd.isna(rows["mass"].iloc[0]):
        return "mass in tumour not estimable", GREY
    row = rows.iloc[0]
    return f"in tumour {row['mass']:.0%} (centre prior {row['prior_mass']:.0%})", "black"
