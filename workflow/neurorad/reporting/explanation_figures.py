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
EVIDENCE, EVIDENCE_LEVELS = "#FF9A1F", (0.4, 0.6, 0.8)
RISK = "Risk of death"
"""How figures write `os`: what is explained is the risk of the Cox model."""


def draw_heat_maps(tables: Tables) -> Figure:
    """A row an encoder, a column a patient, of the first endpoint: FLAIR with the map over it, the tumour outlined."""
    explained = _explained(tables)
    first = str(explained[0]["endpoint"])
    shown = [maps for maps in explained if str(maps["endpoint"]) == first]
    figure, axes = _grid(shown)
    for panels, maps in zip(axes, shown, strict=True):
        for i, panel in enumerate(panels[: len(maps["patient"])]):
            _picture(panel, maps["t2f"][i])
            heat = _heat(panel, maps["map_plane"][i].astype(float))
            _outlines(panel, maps, i)
            text, colour = _agreement(tables.agreement, maps, i)
            panel.set_title(f"{_who(maps, i)}\n{text}", fontsize=6, color=colour)
    bar = figure.colorbar(heat, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label(
        "Grad-CAM, share of the scan's maximum (cyan: tumour outline; dashed blue: evidence against)", fontsize=7
    )
    finish(figure, tables.leakage)
    total = sum(len(maps["patient"]) for maps in shown)
    figure.set_label(f"{len(shown)} probes, {total} maps, of the patients with the highest and the lowest scores.")
    return figure


def draw_contours(tables: Tables) -> Figure:
    """A row an endpoint and objective of the study's first method: T1c with contours of the evidence for and against."""
    from matplotlib.lines import Line2D

    explained = _explained(tables)
    method = str(explained[0]["encoder"]).split("-")[0]
    mine = [maps for maps in explained if str(maps["encoder"]).split("-")[0] == method]
    seed = str(mine[0]["encoder"]).rsplit("-s", 1)[-1]
    shown = [maps for maps in mine if str(maps["encoder"]).endswith(f"-s{seed}")]
    figure, axes = _grid(shown)
    for panels, maps in zip(axes, shown, strict=True):
        for i, panel in enumerate(panels[: len(maps["patient"])]):
            _picture(panel, maps["t1c"][i])
            plane = maps["map_plane"][i].astype(float)
            levels = [level for level in EVIDENCE_LEVELS if level < plane.max()]
            if levels:
                panel.contour(
                    plane.T, levels=levels, colors=EVIDENCE, linewidths=[0.6 + 0.5 * level for level in levels]
                )
            _outlines(panel, maps, i)
            panel.set_title(f"{_who(maps, i)}\n{_call(maps, i)}", fontsize=6)
    handles = [
        Line2D([], [], color=EVIDENCE, lw=1.0, label="evidence for, at 40, 60 and 80 % of the scan's maximum"),
        Line2D([], [], color=COUNTER, lw=1.0, ls="--", label="evidence against, at half of the larger maximum"),
        Line2D([], [], color=OUTLINE, lw=1.0, label="tumour"),
    ]
    finish(figure, tables.leakage, handles, columns=1)
    figure.set_label(f"{len(shown)} probes of {encoder_label(str(shown[0]['encoder'])).split()[0]}, seed {seed}.")
    return figure


def _explained(tables: Tables) -> list[dict[str, np.ndarray]]:
    """What could be explained, by endpoint in their declared order, then by encoder."""
    explained = [maps for maps in tables.maps or [] if len(maps["patient"])]
    if not explained:
        raise NothingToDrawError("no probe could be explained")
    order = order_encoders(str(maps["encoder"]) for maps in explained)
    declared = [*endpoints()]

    def place(maps: dict[str, np.ndarray]) -> tuple[int, str, int]:
        name = str(maps["endpoint"])
        return declared.index(name) if name in declared else len(declared), name, order.index(str(maps["encoder"]))

    return sorted(explained, key=place)


def _grid(shown: list[dict[str, np.ndarray]]) -> tuple[Figure, np.ndarray]:
    columns = max(len(maps["patient"]) for maps in shown)
    figure = new_figure(0.7 + 1.62 * len(shown), width=max(3.6, 0.4 + 1.7 * columns))
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for panels, maps in zip(axes, shown, strict=True):
        for panel in panels:
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_visible(False)
        panels[0].set_ylabel(
            f"{encoder_label(str(maps['encoder']))}\n{endpoint_label(str(maps['endpoint']))}", fontsize=7.5
        )
    return figure, axes


def _outlines(panel: Axes, maps: dict[str, np.ndarray], i: int) -> None:
    against = maps["against_plane"][i].astype(float)
    if against.max() > 0.5:
        panel.contour(against.T, levels=[0.5], colors=COUNTER, linewidths=0.7, linestyles="dashed")
    if maps["tumour"][i].any():
        panel.contour(maps["tumour"][i].T, levels=[0.5], colors=OUTLINE, linewidths=0.8)


def _picture(panel: Axes, picture: np.ndarray) -> None:
    values = picture.astype(float)
    brain = values[values != 0]
    low, high = np.percentile(brain, [1, 99.5]) if brain.size else (0.0, 1.0)
    shown = np.where(values == 0, low, values).T
    # One pixel a voxel: the picture is as large as the plane, whatever the figure's size.
    panel.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="none")


def _heat(panel: Axes, plane: np.ndarray) -> AxesImage:
    alpha = np.clip(plane * 1.2, 0, 0.65).T
    return panel.imshow(plane.T, cmap="inferno", vmin=0, vmax=1, alpha=alpha, origin="lower", interpolation="none")


def endpoint_label(name: str) -> str:
    """How figures name an endpoint; `os` is the risk."""
    known = endpoints()
    return RISK if name == "os" else known[name].label if name in known else name


def _who(maps: dict[str, np.ndarray], i: int) -> str:
    return f"{site_label(str(maps['cohort'][i]))}, {maps['status'][i]}, score {maps['score'][i]:.2f}"


def _call(maps: dict[str, np.ndarray], i: int) -> str:
    above = bool(maps["score"][i] > 0)
    if str(maps["endpoint"]) == "os":
        return f"predicted: risk {'above' if above else 'below'} the median"
    return f"predicted: {'positive' if above else 'negative'}"


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
