"""The whole study on one page that needs no network: figures, tables, exclusions and the leakage audit."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from neurorad import __version__
from neurorad.problems import InputError
from neurorad.reporting.marker_figures import PROTOCOL, auc_differences, verdict
from neurorad.reporting.page import STYLE, html_table
from neurorad.reporting.registry import FIGURES, caption
from neurorad.reporting.theme import encoder_label
from neurorad.reporting.training_pages import STEM

TRAINING = "fig2_training"
"""Its chapter shows the training page of every encoder as well."""

CHAPTERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "Who was scanned",
        "Every number below rests on these scans and labels.",
        ("fig1_flow", "fig2d_cohorts"),
        ("supplementary_1_cohorts", "supplementary_2_labels", "supplementary_3_decisions"),
    ),
    (
        "How the encoders were trained",
        "Each method with and without Group-DRO.",
        (TRAINING,),
        ("supplementary_4_presets",),
    ),
    (
        "Molecular markers",
        "Linear probes on frozen embeddings.",
        ("fig3a_rivals", "fig3b_common_markers", "fig3c_uncommon_markers", "fig3d_differences"),
        ("probe", "comparison"),
    ),
    (
        "May a probe be acted on, and for whom",
        "Calibration, utility, uncertainty and subgroups of the same predictions.",
        ("supp1_calibration", "supp2_subgroups"),
        ("reliability",),
    ),
    (
        "Overall survival",
        "Risk from frozen embeddings.",
        ("fig4a_survival", "fig4a_prognosis", "fig4b_kaplan_meier", "fig5_marker_survival"),
        ("survival",),
    ),
    (
        "Do embeddings know the site",
        "Less is better only if the markers are still found.",
        ("fig4c_sites", "fig4c_invariance"),
        ("invariance",),
    ),
    (
        "All test patients, and those provably never pretrained on",
        "The same out-of-fold scores, counted on everybody and on the patients whom the leakage audit calls clean.",
        (),
        ("clean",),
    ),
    ("Where the encoder looked", "", ("fig6_gradcam", "fig6_map_checks"), ("map_checks",)),
    (
        "The paper's numbers beside this study's",
        "Each number of the paper that is known here, the rule that makes it again, what this study found, and where the "
        "paper contradicts itself.",
        (),
        ("claims",),
    ),
    (
        "Departures from the analysis plan",
        "What differs from the plan as it was locked, and planned numbers that this study does not have.",
        (),
        ("deviations",),
    ),
)
"""Title, sentence, figures and tables of each chapter, in the paper's order."""

MOST_ROWS = 400
"""Rows of a table shown on the page; the whole table is its file."""


@dataclass(frozen=True)
class Picture:
    """A figure as it was written: the SVG's bytes, and the description inside it (caption and counts)."""

    svg: bytes
    description: str


def read_figure(path: Path) -> Picture:
    """Read an SVG made by `neurorad figure`.

    Raises:
        InputError: the file has no description, so it was not made by this program.
    """
    svg = path.read_bytes()
    found = re.search(rb"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    if found is None:
        raise InputError(f"{path}: not a figure made by `neurorad figure`; make it again")
    return Picture(svg, unescape(found[1].decode("utf-8")).strip())


def report_html(
    figures: Mapping[str, Picture],
    tables: Mapping[str, pd.DataFrame],
    excluded: pd.DataFrame,
    audit: Mapping[str, Any],
    config: str,
) -> str:
    """The page. Chapters follow the paper; figures and tables that no chapter knows come at the end.

    Args:
        figures, tables: by name (file stem).
        excluded: cohort, patient, scan, stage, reason.
        audit: `leakage_audit.json`; `stamp` is empty when leakage is excluded.
        config: text of the study's config.yaml.
    """
    stamp = str(audit["stamp"])
    known_figures = {name for _, _, names, _ in CHAPTERS for name in names}
    known_figures |= {name for name in figures if name.startswith(STEM)}
    known_tables = {name for _, _, _, names in CHAPTERS for name in names}
    chapters = [
        *CHAPTERS,
        ("More", "", tuple(sorted(set(figures) - known_figures)), tuple(sorted(set(tables) - known_tables))),
    ]
    body = [
        _head(figures, tables, stamp, config),
        *(_chapter(*chapter, figures, tables) for chapter in chapters),
        _excluded(excluded),
        _audit(audit),
        _details("Settings of this run (config.yaml)", f"<pre>{escape(config)}</pre>"),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>NeuroRAD report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(figures: Mapping[str, Picture], tables: Mapping[str, pd.DataFrame], stamp: str, config: str) -> str:
    settings = yaml.safe_load(config) or {}
    title = settings.get("title", "NeuroRAD report") if isinstance(settings, dict) else "NeuroRAD report"
    state = (
        f'<p class="alarm">{escape(stamp)}</p>'
        if stamp
        else '<p class="fine">No overlap between pretraining and test patients was left by the leakage audit.</p>'
    )
    probe = tables.get("probe")
    encoders = sorted(probe["encoder"].astype(str).unique()) if probe is not None else []
    within = probe[probe["protocol"] == PROTOCOL] if probe is not None else None
    sites = sorted(set(within["site"].astype(str))) if within is not None else []
    facts = [
        f"Made by neurorad {escape(__version__)}.",
        f"Encoders: {escape(', '.join(encoders))}." if encoders else "",
        f"Sites: {escape(', '.join(sites))}." if sites else "",
        f"{len(figures)} figures, {len(tables)} tables.",
    ]
    return (
        f"<header><h1>{escape(str(title))}</h1><p class='research'>Research use only. Not a medical device; no number "
        f"here may guide the care of a patient.</p>{state}{_plan(tables)}<p>{' '.join(filter(None, facts))}</p>"
        f"{_answer(tables)}</header>"
    )


def _plan(tables: Mapping[str, pd.DataFrame]) -> str:
    """The stamp of the analysis plan that stands in the tables; several, if tables of different plans were given."""
    held = [table["plan"].dropna().astype(str) for table in tables.values() if "plan" in table]
    stamps = sorted({text for column in held for text in column}) or ["no table says"]
    return f"<p>Analysis plan: {escape('; '.join(stamps))}.</p>"


def _answer(tables: Mapping[str, pd.DataFrame]) -> str:
    comparison = tables.get("comparison")
    if comparison is None or not (comparison["metric"] == "auc_difference").any():
        return "<p><strong>Does +DRO help?</strong> No paired comparison was given, so this report cannot say.</p>"
    return f"<p><strong>Does +DRO help?</strong> {escape(verdict(auc_differences(comparison)))}</p>"


def _chapter(
    title: str,
    sentence: str,
    names: tuple[str, ...],
    table_names: tuple[str, ...],
    figures: Mapping[str, Picture],
    tables: Mapping[str, pd.DataFrame],
) -> str:
    parts = [_figure(name, figures[name]) for name in names if name in figures]
    if TRAINING in names:
        parts += [_page(name, figures[name]) for name in figures if name.startswith(STEM)]
    parts += [_table(name, tables[name]) for name in table_names if name in tables]
    if not parts:
        return ""
    lead = f"<p>{escape(sentence)}</p>" if sentence else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(parts)}</section>"


def _figure(name: str, picture: Picture) -> str:
    """The SVG as a data address: isolated, so that neither ids nor scripts of one picture reach the page."""
    data = base64.b64encode(picture.svg).decode("ascii")
    entry = FIGURES.get(name)
    title = entry.title if entry else _page_title(name)
    answers = f" <span class='answers'>(answers the paper's {escape(entry.answers)})</span>" if entry else ""
    text = escape(picture.description)
    # Alternative text is short; the caption beside it says the rest.
    alt = escape(f"{title}. {picture.description.removeprefix(caption(name)).strip()}" if entry else title)
    return (
        f'<figure id="{escape(name)}"><div class="sheet"><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></div>'
        f"<figcaption><strong>{escape(title)}.</strong> {text}{answers}</figcaption></figure>"
    )


def _page(name: str, picture: Picture) -> str:
    """The training page of one encoder, folded: a study has many."""
    return _details(_page_title(name), _figure(name, picture))


def _page_title(name: str) -> str:
    """Of a training page; another figure that the registry does not know keeps its name."""
    return f"Training of {encoder_label(name.removeprefix(STEM))}" if name.startswith(STEM) else name


def _table(name: str, table: pd.DataFrame) -> str:
    # The plan's stamp is the same in every row, and stands in the page's head.
    shown = table.head(MOST_ROWS).drop(columns="plan", errors="ignore")
    cut = f", the first {MOST_ROWS} shown; all are in tables/{name}.csv" if len(table) > MOST_ROWS else ""
    return _details(f"Table {name}: {len(table)} rows{cut}", html_table(shown))


def _excluded(excluded: pd.DataFrame) -> str:
    if excluded.empty:
        return "<section><h2>Scans left out</h2><p>None.</p></section>"
    counts = excluded.groupby(["cohort", "stage", "reason"], dropna=False).size().rename("entries").reset_index()
    columns = [column for column in ("cohort", "patient", "scan", "stage", "reason") if column in excluded]
    return (
        f"<section><h2>Scans left out</h2><p>{len(excluded)} entries, by reason:</p>{html_table(counts)}"
        f"{_details('Every one', html_table(excluded[columns].head(5 * MOST_ROWS)))}</section>"
    )


def _audit(audit: Mapping[str, Any]) -> str:
    rows = []
    for key, value in sorted(audit.items()):
        if isinstance(value, list):
            rows.append((key, f"{len(value)} entries"))
        elif isinstance(value, dict):
            rows.append((key, ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) or "none"))
        else:
            rows.append((key, "none" if value == "" else str(value)))
    lists = [
        _details(f"{key}: {len(value)} entries", html_table(pd.DataFrame(value).head(MOST_ROWS)))
        for key, value in sorted(audit.items())
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    table = html_table(pd.DataFrame(rows, columns=["item", "value"]))
    return f"<section><h2>Leakage audit</h2>{table}{''.join(lists)}</section>"


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, (list, dict)) else str(value)


def _details(summary: str, inner: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
