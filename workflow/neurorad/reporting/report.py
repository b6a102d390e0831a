"""The whole study on one page that needs no network: figures with their numbers, tables, exclusions, audit, provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import yaml

from neurorad import __version__
from neurorad.problems import InputError
from neurorad.reporting.chapters import ABOUT, BEYOND, CHAPTERS, STORY, TRAINING, Chapter
from neurorad.reporting.head import head
from neurorad.reporting.page import details, embedded_rows, html_page, html_table
from neurorad.reporting.registry import FIGURES
from neurorad.reporting.theme import counted, encoder_label
from neurorad.reporting.training_pages import STEM

MOST_ROWS = 400
"""Rows of a table shown on the page; the whole table is its file."""


@dataclass(frozen=True)
class Picture:
    """A figure as it was written: the SVG's bytes, the caption with its counts and how it was made (both from inside the
    SVG), and the numbers it shows."""

    svg: bytes
    description: str
    made: Mapping[str, Any] = field(default_factory=dict)
    rows: pd.DataFrame | None = None


@dataclass(frozen=True)
class Parts:
    """What the page is made of; figures and tables by name (file stem).

    Attributes:
        excluded: cohort, patient, scan, stage, reason.
        audit: `leakage_audit.json`; `stamp` is empty when leakage is excluded.
        config: text of the study's config.yaml.
        date: of this page, as in 2026-01-31.
        pages: other pages of the study: address relative to this one -> what it is.
        appendix: title -> a table or a text, such as checklists.
    """

    figures: Mapping[str, Picture]
    tables: Mapping[str, pd.DataFrame]
    excluded: pd.DataFrame
    audit: Mapping[str, Any]
    config: str
    date: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)
    appendix: Mapping[str, pd.DataFrame | str] = field(default_factory=dict)


def read_figure(path: Path, rows: pd.DataFrame | None = None) -> Picture:
    """Read an SVG made by `neurorad figure`.

    Raises:
        InputError: the file has no description, so it was not made by this program.
    """
    from neurorad.reporting.made import read_made

    svg = path.read_bytes()
    found = re.search(rb"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    if found is None:
        raise InputError(f"{path}: not a figure made by `neurorad figure`; make it again")
    source = re.search(rb"<dc:source>(.*?)</dc:source>", svg, re.DOTALL)
    made = read_made(unescape(source[1].decode("utf-8")).strip()) if source else {}
    return Picture(svg, unescape(found[1].decode("utf-8")).strip(), made, rows)


def report_html(parts: Parts) -> str:
    """The page. Chapters follow the paper; figures and tables that no chapter knows come after them."""
    known_figures = {name for chapter in CHAPTERS for name in chapter.figures}
    known_figures |= {name for name in parts.figures if name.startswith(STEM)}
    known_tables = {name for chapter in CHAPTERS for name in chapter.tables}
    more = Chapter(
        "More",
        "Figures and tables that no chapter names.",
        tuple(sorted(set(parts.figures) - known_figures)),
        tuple(sorted(set(parts.tables) - known_tables)),
    )
    groups = [
        ("The paper's story", [_chapter(chapter, parts) for chapter in STORY]),
        ("What the paper lacks", [_chapter(chapter, parts) for chapter in (*BEYOND, more)]),
        (
            "Quality and provenance",
            [
                _beside(
                    parts,
                    ".html",
                    "Quality control and viewers",
                    "Every volume and map can be looked at on these pages",
                ),
                _beside(
                    parts,
                    ".md",
                    "Model cards and data sheets",
                    "Each encoder and each cohort has one, with terms of use",
                ),
                _excluded(parts.excluded),
                _audit(parts.audit),
                *(_chapter(chapter, parts) for chapter in ABOUT),
                *_appendix(parts),
                _provenance(parts),
            ],
        ),
    ]
    entries = [(title, [section for section in sections if section]) for title, sections in groups]
    main = "\n".join(section.html for _, sections in entries for section in sections)
    return html_page(
        title=_title(parts.config),
        header=head(_title(parts.config), parts.tables, parts.excluded, parts.audit, parts.config, parts.date),
        nav=_contents(entries),
        main=main,
        footer=f"NeuroRAD {escape(__version__)}. Research use only. This page holds all it shows and loads nothing.",
    )


def _title(config: str) -> str:
    settings = yaml.safe_load(config) or {}
    return str(settings.get("title", "NeuroRAD report")) if isinstance(settings, dict) else "NeuroRAD report"


@dataclass(frozen=True)
class _Section:
    """A section of the page: its title, and address and name of the figures in it."""

    title: str
    html: str
    figures: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def _section(title: str, inner: str, figures: tuple[tuple[str, str], ...] = ()) -> _Section:
    address = _Section(title, "").address
    html = f'<section aria-labelledby="{address}"><h2 id="{address}">{escape(title)}</h2>{inner}</section>'
    return _Section(title, html, figures)


def _contents(entries: list[tuple[str, list[_Section]]]) -> str:
    def line(section: _Section) -> str:
        below = "".join(f'<li><a href="#{escape(name)}">{escape(title)}</a></li>' for name, title in section.figures)
        return (
            f'<li><a href="#{section.address}">{escape(section.title)}</a>{f"<ol>{below}</ol>" if below else ""}</li>'
        )

    return "".join(
        f"<p><strong>{escape(title)}</strong></p><ol>{''.join(map(line, sections))}</ol>"
        for title, sections in entries
        if sections
    )


def _chapter(chapter: Chapter, parts: Parts) -> _Section | None:
    shown = [name for name in chapter.figures if name in parts.figures]
    inner = [_figure(name, parts.figures[name]) for name in shown]
    if TRAINING in chapter.figures:
        pages = [name for name in parts.figures if name.startswith(STEM)]
        inner += [details(_figure_title(name), _figure(name, parts.figures[name])) for name in pages]
    inner += [_table(name, parts.tables[name]) for name in chapter.tables if name in parts.tables]
    if not inner:
        return None
    titles = tuple((name, _figure_title(name)) for name in shown)
    return _section(chapter.title, f"<p>{escape(chapter.sentence)}</p>{''.join(inner)}", titles)


def _figure_title(name: str) -> str:
    if name.startswith(STEM):
        return f"Training of {encoder_label(name.removeprefix(STEM))}"
    entry = FIGURES.get(name)
    return f"{entry.answers[0].upper()}{entry.answers[1:]}: {entry.title}" if entry else name


def _figure(name: str, picture: Picture) -> str:
    """The SVG as a data address: isolated, so that neither ids nor scripts of one picture reach the page."""
    # Base64 would take a quarter more; no character that HTML or the address could read as its own is left as it is.
    data = quote(picture.svg, safe=" +,-./:;=")
    title, text, safe = _figure_title(name), escape(picture.description), escape(name)
    take = [
        ("svg", "SVG"),
        ("png", "PNG, 300 dpi"),
        *([("csv", "CSV of its numbers")] if picture.rows is not None else []),
    ]
    buttons = "".join(
        f'<button type="button" data-take="{kind}" data-of="{safe}" aria-label="Save {escape(title)} as {label}" hidden>'
        f"{label}</button>"
        for kind, label in take
    )
    explore = ""
    if picture.rows is not None:
        explore = (
            f'<details data-of="{safe}" hidden><summary>Explore the numbers ({len(picture.rows)} rows)</summary></details>'
            + embedded_rows(name, picture.rows)
        )
    return (
        f'<figure id="{safe}"><h3>{escape(title)}</h3>'
        f'<div class="sheet" tabindex="0" role="group" aria-label="{escape(title)}">'
        f'<img decoding="async" alt="{text}" src="data:image/svg+xml,{data}"></div>'
        f"<figcaption>{text}</figcaption>"
        f'<div class="take">{buttons}</div>{explore}{_how_made(name, picture)}</figure>'
    )


def _how_made(name: str, picture: Picture) -> str:
    if not picture.made:
        return ""
    inputs = pd.DataFrame(picture.made["inputs"], columns=["flag", "file", "sha256"])
    inputs["sha256"] = inputs["sha256"].str[:16]
    return details(
        "How was this made",
        f"<p>By the rule <code>figure_{escape(name)}</code>, which calls <code>neurorad figure {escape(name)}</code> "
        f"(NeuroRAD {escape(picture.made['version'])}, code {escape(picture.made['code'])}) on the files below. "
        f"<code>neurorad trace results/figures/{escape(name)}.svg</code> walks on from them to the scans. Beside this page "
        f"lie <code>figures/{escape(name)}</code> as .svg, .png, .pdf and .csv.</p>"
        + html_table(inputs, f"{_figure_title(name)}: {counted(len(inputs), 'file')} that it was drawn from"),
    )


def _table(name: str, table: pd.DataFrame) -> str:
    # The plan's stamp is the same in every row, and stands in the page's head.
    shown = table.head(MOST_ROWS).drop(columns="plan", errors="ignore")
    cut = f", the first {MOST_ROWS} shown; all are in tables/{name}.csv" if len(table) > MOST_ROWS else ""
    text = f"Table {name}: {len(table)} rows{cut}"
    return details(text, html_table(shown, text))


def _beside(parts: Parts, kind: str, title: str, sentence: str) -> _Section | None:
    """Links to the pages that end in `kind`."""
    shown = {link: what for link, what in parts.pages.items() if link.endswith(kind)}
    if not shown:
        return None
    links = "".join(f'<li><a href="{escape(link)}">{escape(what)}</a></li>' for link, what in shown.items())
    return _section(title, f"<p>{escape(sentence)}; they lie beside this page:</p><ul>{links}</ul>")


def _excluded(excluded: pd.DataFrame) -> _Section:
    if excluded.empty:
        return _section("Scans left out", "<p>None.</p>")
    counts = excluded.groupby(["cohort", "stage", "reason"], dropna=False).size().rename("entries").reset_index()
    columns = [column for column in ("cohort", "patient", "scan", "stage", "reason") if column in excluded]
    return _section(
        "Scans left out",
        f"<p>{len(excluded)} entries, by reason:</p>{html_table(counts, 'Scans left out, by reason')}"
        + details("Every one", html_table(excluded[columns].head(5 * MOST_ROWS), "Every scan left out")),
    )


def _audit(audit: Mapping[str, Any]) -> _Section:
    rows = []
    for key, value in sorted(audit.items()):
        if isinstance(value, list):
            rows.append((key, f"{len(value)} entries"))
        elif isinstance(value, dict):
            rows.append((key, ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) or "none"))
        else:
            rows.append((key, "none" if value == "" else str(value)))
    lists = [
        details(f"{key}: {len(value)} entries", html_table(pd.DataFrame(value).head(MOST_ROWS), key))
        for key, value in sorted(audit.items())
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    table = html_table(pd.DataFrame(rows, columns=["item", "value"]), "What the audit of leakage found")
    return _section("Leakage audit", table + "".join(lists))


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, (list, dict)) else str(value)


def _provenance(parts: Parts) -> _Section:
    codes = {name: picture.made["code"] for name, picture in parts.figures.items() if picture.made}
    text = (
        f"<p>Made by NeuroRAD {escape(__version__)}. <code>provenance/ro-crate-metadata.json</code> lists every file of the "
        "study with its sha256 and the software that made it; <code>neurorad verify</code> hashes them again, and "
        "<code>neurorad trace FILE</code> walks from any file back to the scans.</p>"
    )
    if codes:
        table = pd.DataFrame(sorted(codes.items()), columns=["figure", "fingerprint of the code that drew it"])
        text += details("Code of each figure", html_table(table, "Code of each figure"))
    return _section(
        "Provenance", text + details("Settings of this run (config.yaml)", f"<pre>{escape(parts.config)}</pre>")
    )


def _appendix(parts: Parts) -> list[_Section]:
    return [
        _section(title, html_table(part, title) if isinstance(part, pd.DataFrame) else f"<pre>{escape(part)}</pre>")
        for title, part in parts.appendix.items()
    ]
