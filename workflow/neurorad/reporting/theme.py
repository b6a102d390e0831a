"""One look for every figure: fonts, colours, labels, footer, and deterministic SVG, PNG and PDF."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurorad.encoder_names import OBJECTIVES, encoder_parts
from neurorad.files import atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Two columns of a journal page, inches."""

METHOD_COLOURS = {
    "byol": "#0072B2",
    "dino": "#D55E00",
    "mae": "#009E73",
    "moco": "#AA4499",
    "ensemble": "#8A6D00",
    "scratch": "#56789A",
    "random": "#777777",
    "intensity": "#8C564B",
    "clinical": "#333333",
    "radiomics": "#555522",
    "biomedclip": "#006D6D",
    "medblip": "#3D6B1F",
    "medicalnet": "#7A4FA3",
    "brainiac": "#A33F5F",
}
"""Okabe and Ito (2008) where they are dark enough to read on white."""

METHOD_LABELS = {
    "byol": "BYOL",
    "dino": "DINO",
    "mae": "MAE",
    "moco": "MoCo",
    "ensemble": "ensemble",
    "random": "random weights",
    "clinical": "age + sex",
    "scratch": "supervised",
    "intensity": "intensity + volume",
    "radiomics": "radiomics (needs segmentation)",
    "biomedclip": "BiomedCLIP",
    "medblip": "MedBLIP",
    "medicalnet": "MedicalNet",
    "brainiac": "BrainIAC",
}
OBJECTIVE_LABELS = {
    "base": "base",
    "balanced": "balanced",
    "dro": "+DRO",
    "excess": "+excess DRO",
    "worst": "worst group",
    "none": "",
    "full": "+ KPS + resection",
    "tuned": "end to end",
    "combat": "ComBat",
}
"""Of an objective of several parts (`dro-tuned`) each has its label."""
OBJECTIVE_MARKERS = {"base": "o", "balanced": "^", "dro": "D", "excess": "v", "worst": "P", "none": "s"}
OBJECTIVE_LINES = {
    "base": (0, (3, 1.5)),
    "balanced": (0, (1, 1)),
    "dro": "-",
    "excess": (0, (6, 1, 1, 1)),
    "worst": (0, (3, 1, 1, 1, 1, 1)),
}
PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#997700", "#222255", "#BB5566", "#888888")
"""For sites and groups: Paul Tol's `bright`, extended."""

COHORTS = (
    *("cuimc", "ucsf-pdgm", "upenn-gbm", "brats-gli-post", "brats-gli-pre"),
    *("brats-men", "brats-met", "brats-ped", "lumiere", "mu-glioma-post"),
)
SITE_COLOURS = dict(zip(COHORTS, PALETTE, strict=True))
"""The paper's cohorts keep their colour in every figure, whichever of them it shows; test sites lie furthest apart."""

GREY = "#8A8A8A"
INK = "#222222"
ALARM = "#B00020"
GUIDE: Mapping[str, Any] = {"color": GREY, "lw": 0.8, "ls": ":"}
"""A line that numbers are compared with: chance, no difference, equal weights."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "neurorad",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
}


DENSE = 500
"""A line, band or cloud of more points than this is stored as a picture inside the vector figure: nobody can tell such points
apart, and pages full of them do not open. Text, axes and everything else stay vectors."""
DPI = 300
"""Of the pictures inside vector figures."""


class NothingToDrawError(Exception):
    """The tables are sound but hold nothing for this figure; the message is the reason, which the figure then shows."""


@contextmanager
def theme() -> Iterator[None]:
    """Draw under the house's settings, and leave the caller's as they were; figures without pyplot need no display."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure (inches) with constrained layout, independent of pyplot's global list."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), layout=layout)


def encoder_label(name: str) -> str:
    """How figures name an encoder: method, objective and, beyond the first, the seed."""
    method, objective, seed = encoder_parts(name)
    said = ", ".join(OBJECTIVE_LABELS.get(part, part) for part in objective.split("-"))
    label = f"{METHOD_LABELS.get(method, method)} {said}".strip()
    return f"{label} (seed {seed})" if seed else label


def site_label(site: str) -> str:
    """How figures name a site or a transfer between sites."""
    return "all sites" if site == "all" else site.upper().replace("->", " → ")


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: the paper's cohorts have their own in every figure, others take what is left, sorted."""
    names = sorted(set(names))
    known = {name: SITE_COLOURS[name] for name in names if name in SITE_COLOURS}
    left = [colour for colour in PALETTE if colour not in known.values()] or list(PALETTE)
    others = [name for name in names if name not in known]
    return known | {name: left[i % len(left)] for i, name in enumerate(others)}


def order_encoders(names: Iterable[str]) -> list[str]:
    """Methods in the theme's order, then objectives, then seed; unknown ones after the known ones."""
    methods, objectives = list(METHOD_COLOURS), ["none", *OBJECTIVES]

    def key(name: str) -> tuple[int, str, int, str]:
        method, objective, _ = encoder_parts(name)
        known = methods.index(method) if method in methods else len(methods)
        rank = objectives.index(objective) if objective in objectives else len(objectives)
        return known, method, rank, name

    return sorted(set(names), key=key)


def count_range(counts: Iterable[float]) -> str:
    """`36`, or `34-36` where the rows of one panel differ, or `?` where nobody counted."""
    numbers = sorted({int(n) for n in pd.Series(counts, dtype=object).dropna()})
    if not numbers:
        return "?"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def counted(number: float, thing: str, things: str = "") -> str:
    """`1 scan`, `2 scans`; `things` where the plural is not `thing` and an s."""
    return f"{int(number)} {thing if int(number) == 1 else things or thing + 's'}"


def say_nothing(axes: Axes, text: str) -> None:
    """Fill a panel that has nothing to draw with the grey reason, so that it is never merely empty."""
    # Not by its ticks: those of a shared axis come back with the next panel.
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, style="italic", wrap=True)


def finish(figure: Figure, leakage: str, handles: Sequence[Artist] = (), columns: int = 4) -> None:
    """Write the foot of a figure: one legend for all panels, below it the leakage stamp if there is one.

    Constrained layout keeps no room for both, so the foot's height is counted in lines and taken from the panels.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = textwrap.wrap(leakage, int(figure.get_figwidth() * 15), max_lines=3, placeholder=" …")
    stamped = 0.06 + 0.12 * len(lines) if lines else 0.0
    rows = -(-len(handles) // columns)
    foot = stamped + (0.08 + 0.15 * rows if rows else 0.0)
    height = figure.get_figheight()
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.set(rect=(0, foot / height, 1, 1 - foot / height))
    if rows:
        legend = figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, stamped / height),
            ncols=columns,
            borderaxespad=0.3,
            handlelength=1.6,
            columnspacing=1.4,
        )
        legend.set_in_layout(False)
    if lines:
        figure.text(
            0.5,
            0.05 / height,
            "\n".join(lines),
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=ALARM,
            weight="bold",
            in_layout=False,
        )


def settle(figure: Figure) -> None:
    """Lay the panels out once and for all, on a grid of 1e-4 of the page.

    The solver of constrained layout visits its constraints in memory order, so its last digits differ between two runs.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(edge, 4) for edge in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def write_svg(figure: Figure, path: str | Path, title: str, description: str, source: str = "") -> None:
    """Write one SVG, the same bytes for the same numbers, with its title and description inside.

    Args:
        source: how the figure was made (`reporting.made`), if it is to say so.
    """
    metadata = {"Date": None, "Title": title, "Description": description, "Creator": "neurorad"}
    with theme():
        settle(figure)
        _paint_dense(figure)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="svg", dpi=DPI, metadata=metadata | ({"Source": source} if source else {}))
            svg = Path(temporary).read_text(encoding="utf-8")
            Path(temporary).write_text(_packed(_rounded(svg)), encoding="utf-8")


def _paint_dense(figure: Figure) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

    for line in figure.findobj(Line2D):
        line.set_rasterized(np.size(line.get_xdata()) > DENSE)
    for bands in figure.findobj(PolyCollection):
        bands.set_rasterized(sum(np.shape(path.vertices)[0] for path in bands.get_paths()) > DENSE)


def _rounded(svg: str) -> str:
    """Paths and places to 0.01 point, which no printer resolves; six digits are a third of a large figure's bytes."""
    number = re.compile(r"(\d\.\d\d)\d+")
    head, end, drawn = svg.partition("</metadata>")
    return head + end + re.sub(r'(?<=\s)(?:d|x|y)="[^"]*"', lambda found: number.sub(r"\1", found[0]), drawn)


def _packed(svg: str) -> str:
    """Grey pictures, which matplotlib stores with four channels, with one; the pixels are the same."""
    from PIL import Image

    def smaller(found: re.Match[str]) -> str:
        png = Image.open(io.BytesIO(base64.b64decode(found[1])))
        red, green, blue, alpha = png.convert("RGBA").split()
        if alpha.getextrema() != (255, 255) or not red.tobytes() == green.tobytes() == blue.tobytes():
            return found[0]
        stream = io.BytesIO()
        red.save(stream, format="PNG", optimize=True)
        return f'data:image/png;base64,{base64.b64encode(stream.getvalue()).decode("ascii")}"'

    return re.sub(r'data:image/png;base64,([^"]+)"', smaller, svg)


def write_figure(figure: Figure, stem: str | Path, title: str, description: str, source: str = "") -> None:
    """Write `stem.svg` as `write_svg` does, `stem.png` and `stem.pdf`."""
    write_svg(figure, f"{stem}.svg", title, description, source)
    with theme():
        with atomic(f"{stem}.png") as path:
            figure.savefig(path, format="png", dpi=200, metadata={"Software": None})
        with atomic(f"{stem}.pdf") as path:
            figure.savefig(
                path, format="pdf", dpi=DPI, metadata={"CreationDate": None, "Title": title, "Creator": "neurorad"}
            )
