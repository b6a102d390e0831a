"""Verbs of the reporting stage: figure, table, report."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    from neurorad.analysis_plan import NOT_LOCKED
    from neurorad.reporting.inputs import add_flags
    from neurorad.reporting.registry import FIGURES
    from neurorad.reporting.tables import TABLES

    figure = verbs.add_parser(
        "figure",
        help="draw one figure of the paper, as SVG, PNG and PDF, with its numbers as CSV",
        description="Draws NAME from the files given by flag (needed, in brackets):\n"
        + "\n".join(f"  {name} ({' '.join('--' + need for need in entry.needs)})" for name, entry in FIGURES.items()),
        epilog="example: neurorad figure fig3b_common_markers --out results/figures/fig3b_common_markers\n"
        "         --probe results/evaluation/probe/*.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figure.add_argument("name", metavar="NAME")
    figure.add_argument("--out", required=True, type=Path, metavar="STEM", help="writes STEM.svg, .png, .pdf and .csv")
    add_flags(figure)
    figure.set_defaults(run=run_figure)

    pages = verbs.add_parser(
        "training-pages",
        help="draw how each encoder was trained, one page an encoder, as SVG",
        description="Losses and weights of the groups, entropy, rank, spread and learning rate of every encoder, against the\n"
        "base run of its method and seed. Writes OUT/training_ENCODER.svg.",
        epilog="example: neurorad training-pages --out results/figures --history results/encoders/*/history.csv\n"
        "         --groups results/encoders/*/groups.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pages.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    add_flags(pages)
    pages.set_defaults(run=run_training_pages)

    table = verbs.add_parser(
        "table",
        help="write one table of the paper, as CSV",
        description="Writes NAME from the files given by flag (needed, in brackets):\n"
        + "\n".join(f"  {name} ({' '.join('--' + need for need in needs)})" for name, (_, needs) in TABLES.items()),
        epilog="example: neurorad table supplementary_2_labels --out results/tables/supplementary_2_labels.csv\n"
        "         --patients results/cohorts/*/patients.tsv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    table.add_argument("name", metavar="NAME")
    table.add_argument("--out", required=True, type=Path, metavar="CSV")
    table.add_argument("--plan", default=NOT_LOCKED, metavar="TEXT", help="the analysis plan's stamp, for every row")
    table.add_argument(
        "--declared", type=json.loads, default={}, metavar="JSON", help="the plan's primary and secondary analyses"
    )
    add_flags(table)
    table.set_defaults(run=run_table)

    report = verbs.add_parser(
        "report",
        help="write the whole study as one self-contained HTML page",
        description="Joins figures and tables, made by `figure` and `table`, into one page without any outside file.",
        epilog="example: neurorad report --figures results/figures/*.svg results/figures/*.csv --tables results/tables/*.csv\n"
        "         --excluded results/cohorts/*/excluded.tsv --audit results/cohorts/leakage_audit.json\n"
        "         --config config.yaml --out results/report.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "--figures",
        required=True,
        type=Path,
        nargs="+",
        metavar="FILE",
        help="SVG, and the CSV of its numbers beside it",
    )
    report.add_argument("--tables", required=True, type=Path, nargs="+", metavar="CSV")
    report.add_argument("--excluded", required=True, type=Path, nargs="+", metavar="TSV")
    report.add_argument("--audit", required=True, type=Path, metavar="JSON")
    report.add_argument("--config", required=True, type=Path, metavar="YAML")
    report.add_argument("--pages", type=Path, nargs="*", default=[], metavar="HTML", help="other pages, to link to")
    report.add_argument(
        "--appendix", type=Path, nargs="*", default=[], metavar="FILE", help="CSV, TSV or text, at the end of the page"
    )
    report.add_argument("--out", required=True, type=Path, metavar="HTML")
    report.set_defaults(run=run_report)


def run_figure(args: argparse.Namespace) -> None:
    """Draw a figure as SVG, PNG and PDF, with the table behind it."""
    from neurorad.files import write_table
    from neurorad.reporting.inputs import read_tables
    from neurorad.reporting.made import how_made
    from neurorad.reporting.numbers import patients_behind, rows_behind
    from neurorad.reporting.registry import FIGURES, caption, figure
    from neurorad.reporting.theme import write_figure

    tables = read_tables(args)
    drawn = figure(args.name, tables)
    entry = FIGURES[args.name]
    rows, counts = rows_behind(args.name, entry.needs, tables), str(drawn.get_label())
    if "patients" not in counts:
        counts = f"{counts} {patients_behind(rows)}".strip()
    write_figure(drawn, args.out, entry.title, f"{caption(args.name)} {counts}", how_made(args))
    write_table(f"{args.out}.csv", rows)


def run_training_pages(args: argparse.Namespace) -> None:
    """A page of training curves an encoder."""
    from neurorad.reporting.inputs import read_tables, require
    from neurorad.reporting.registry import caption
    from neurorad.reporting.theme import encoder_label, theme, write_svg
    from neurorad.reporting.training_pages import STEM, draw_pages

    tables = read_tables(args)
    require(tables, "history")
    with theme():
        for encoder, page in draw_pages(tables):
            title = f"Training of {encoder_label(encoder)}"
            write_svg(page, args.out / f"{STEM}{encoder}.svg", title, f"{caption('training_pages')} {page.get_label()}")


def run_table(args: argparse.Namespace) -> None:
    """Write one table of the paper or its supplement as CSV, each row with its place in the plan."""
    from neurorad.analysis_plan import with_plan
    from neurorad.files import write_table
    from neurorad.reporting.inputs import read_tables
    from neurorad.reporting.tables import table

    write_table(args.out, with_plan(table(args.name, read_tables(args)), args.plan, args.declared))


def run_report(args: argparse.Namespace) -> None:
    """Join figures, tables and provenance in one self-contained page."""
    from neurorad.files import read_table, write_text
    from neurorad.reporting.inputs import given, read_audit, read_source
    from neurorad.reporting.report import Parts, read_figure, report_html

    numbers = {path.stem: read_table(given(path)) for path in args.figures if path.suffix == ".csv"}
    parts = Parts(
        figures={p.stem: read_figure(given(p), numbers.get(p.stem)) for p in args.figures if p.suffix == ".svg"},
        tables={path.stem: read_table(given(path)) for path in args.tables},
        excluded=read_source("excluded", args.excluded),
        audit=read_audit(args.audit),
        config=given(args.config).read_text(encoding="utf-8"),
        date=_today(),
        pages={os.path.relpath(given(page), args.out.parent): _page_title(page) for page in args.pages},
        appendix={_title(path): _appendix(given(path)) for path in args.appendix},
    )
    write_text(args.out, report_html(parts))


def _today() -> str:
    """The day in UTC; SOURCE_DATE_EPOCH goes before it, as in every tool that makes the same bytes again."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.date().isoformat()


def _page_title(page: Path) -> str:
    """What a page is, by its name and that of its folder."""
    match page.parent.name, page.name:
        case cohort, "qc.html":
            return f"{cohort}: every volume, for quality control"
        case endpoint, "viewer.html":
            return f"{page.parent.parent.name}, {endpoint}: maps on the scans"
        case "model_cards" | "data_sheets" as kind, _:
            return f"{page.stem}: {kind.removesuffix('s').replace('_', ' ')}"
        case _:
            return _title(page)


def _title(path: Path) -> str:
    words = path.stem.replace("_", " ").replace("-", " ")
    return words[:1].upper() + words[1:]


def _appendix(path: Path) -> pd.DataFrame | str:
    from neurorad.files import read_table

    return read_table(path) if path.suffix in (".csv", ".tsv") else path.read_text(encoding="utf-8")
