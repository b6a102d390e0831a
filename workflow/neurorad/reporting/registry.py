"""Every figure by name: how it is drawn, from which files, and which figure of the paper it answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurorad.problems import InputError
from neurorad.reporting import (
    calibration_figures,
    cohort_figures,
    explanation_figures,
    flow,
    map_check_figures,
    marker_figures,
    site_figures,
    stress_figures,
    survival_figures,
    training_figures,
)
from neurorad.reporting.inputs import Tables, require
from neurorad.reporting.theme import NothingToDrawError, finish, new_figure, say_nothing, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = Path(__file__).resolve().parents[2] / "report"
"""One caption a figure, `NAME.rst`, and those of the training pages and of the report; which Snakemake's own report shows as well."""


@dataclass(frozen=True)
class Entry:
    """A figure: `draw` takes the tables and returns it; `needs` are the flags it cannot do without, `also` those that
    add to it; `answers` is the paper's figure."""

    draw: Callable[[Tables], Figure]
    needs: tuple[str, ...]
    title: str
    answers: str
    also: tuple[str, ...] = ()


FIGURES: dict[str, Entry] = {
    "fig1_flow": Entry(
        flow.draw_flow,
        ("scans", "volumes", "excluded", "manifest"),
        "Flow of scans",
        "Figure 1",
        ("patients", "decisions"),
    ),
    "fig2d_cohorts": Entry(cohort_figures.draw_cohorts, ("scans", "patients"), "Cohorts", "Figure 2D", ("decisions",)),
    "fig2_training": Entry(
        training_figures.draw_training, ("history",), "Pretraining", "Figure 2", ("groups", "manifest")
    ),
    "fig3a_rivals": Entry(marker_figures.draw_rivals, ("probe",), "All encoders", "Figure 3A", ("rivals",)),
    "fig3b_common_markers": Entry(marker_figures.draw_common_markers, ("probe",), "Common markers", "Figure 3B"),
    "fig3c_uncommon_markers": Entry(marker_figures.draw_uncommon_markers, ("probe",), "Uncommon markers", "Figure 3C"),
    "fig3d_differences": Entry(marker_figures.draw_differences, ("comparison",), "+DRO minus base", "Figure 3D"),
    "supp1_calibration": Entry(
        calibration_figures.draw_calibration, ("reliability",), "Calibration and utility", "beyond Figure 3"
    ),
    "supp2_subgroups": Entry(
        calibration_figures.draw_subgroups, ("reliability",), "Subgroups and conformal sets", "beyond Figure 3"
    ),
    "supp3_stress": Entry(stress_figures.draw_stress, ("stress",), "Shifted volumes", "beyond Figure 3"),
    "fig4a_survival": Entry(survival_figures.draw_survival, ("survival",), "Survival", "Figure 4A"),
    "fig4b_kaplan_meier": Entry(
        survival_figures.draw_risk_groups, ("curves",), "Risk groups", "Figure 4B", ("survival",)
    ),
    "fig4c_sites": Entry(
        site_figures.draw_sites, ("coordinates",), "Sites in the embedding", "Figure 4C", ("invariance",)
    ),
    "fig4c_invariance": Entry(
        site_figures.draw_invariance, ("invariance",), "What encoders know of the site", "beyond Figure 4C"
    ),
    "fig4a_prognosis": Entry(survival_figures.draw_prognosis, ("survival",), "Prognosis over time", "beyond Figure 4A"),
    "fig5_marker_survival": Entry(
        survival_figures.draw_marker_survival, ("curves",), "Markers and survival", "Figure 5", ("survival",)
    ),
    "fig6a_heat_maps": Entry(
        explanation_figures.draw_heat_maps, ("maps",), "Where the encoders looked", "Figure 6A", ("agreement",)
    ),
    "fig6b_contours": Entry(explanation_figures.draw_contours, ("maps",), "Evidence for and against", "Figure 6B"),
    "fig6_map_checks": Entry(map_check_figures.draw_map_checks, ("checks",), "What the maps are worth", "Figure 6"),
}


def figure(name: str, tables: Tables) -> Figure:
    """Draw one figure under the house's theme; where the tables hold nothing for it, it says so.

    Raises:
        InputError: unknown name, or a table it needs was not given.
    """
    if name not in FIGURES:
        raise InputError(f"no figure is called {name}; figures: {', '.join(FIGURES)}")
    require(tables, *FIGURES[name].needs)
    with theme():
        try:
            return FIGURES[name].draw(tables)
        except NothingToDrawError as reason:
            empty = new_figure(1.6, width=5.0)
            say_nothing(empty.subplots(), f"nothing to draw: {reason}")
            finish(empty, tables.leakage)
            empty.set_label(f"Nothing to draw: {reason}.")
            return empty


def caption(name: str) -> str:
    """The caption's text on one line, without reStructuredText marks."""
    text = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", text.replace("``", "").replace("**", "")).strip()
