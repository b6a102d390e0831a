"""Reads numbers and texts back from a drawn figure."""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text


def texts(part: Figure | Axes) -> list[str]:
    return [text.get_text() for text in shown_texts(part) if text.get_text()]


def shown_texts(part: Figure | Axes) -> list[Text]:
    """Text artists that are drawn: no empty ones, no tick labels beyond an axis' end, nothing in axes that are off."""
    hidden = set()
    for axes in [part] if isinstance(part, Axes) else part.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                inside = low - 1e-9 <= tick.get_loc() <= high + 1e-9
                hidden |= {tick.label2} | ({tick.label1} if not inside else set())
            if not axes.axison:
                hidden |= set(axis.findobj(Text))
    return [t for t in part.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


def outside(figure: Figure) -> list[str]:
    """Texts that leave the canvas by more than half a pixel."""
    canvas = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
    return [
        text
        for text, box in boxes
        if min(box.x0 - canvas.x0, box.y0 - canvas.y0, canvas.x1 - box.x1, canvas.y1 - box.y1) < -0.5
    ]


def overlapping(figure: Figure, least: float = 1.0) -> list[tuple[str, str]]:
    """Pairs of upright or vertical texts whose boxes share more than `least` pixels in both directions."""
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown_texts(figure) if t.get_rotation() % 90 == 0]
    return [
        (a, b)
        for (a, one), (b, two) in combinations(boxes, 2)
        if min(one.x1, two.x1) - max(one.x0, two.x0) > least and min(one.y1, two.y1) - max(one.y0, two.y0) > least
    ]


def points(axes: Axes) -> list[Line2D]:
    """Lines that are one marker, such as an estimate."""
    return [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", None, "")]


def estimates(axes: Axes) -> pd.DataFrame:
    """What a forest panel shows: value, ci_low, ci_high (NaN without a bar), marker, filled, colour, y."""
    bars = {}
    for line in axes.lines:
        x, y = (np.asarray(data, float) for data in line.get_data())
        if len(x) == 2 and y[0] == y[1]:
            bars[round(y[0], 9)] = tuple(x)
    rows = []
    for point in points(axes):
        y = float(point.get_ydata()[0])
        low, high = bars.get(round(y, 9), (np.nan, np.nan))
        rows.append(
            {
                "value": float(point.get_xdata()[0]),
                "ci_low": low,
                "ci_high": high,
                "marker": point.get_marker(),
                "filled": to_hex(point.get_markerfacecolor()) != "#ffffff",
                "colour": to_hex(point.get_markeredgecolor()),
                "y": y,
            }
        )
    return pd.DataFrame(rows, columns=["value", "ci_low", "ci_high", "marker", "filled", "colour", "y"])


def panel(figure: Figure, beginning: str) -> Axes:
    """The one panel whose title begins so."""
    (found,) = [axes for axes in figure.axes if title(axes).startswith(beginning)]
    return found


def title(axes: Axes) -> str:
    return axes.get_title() or axes.get_title(loc="left")


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]
