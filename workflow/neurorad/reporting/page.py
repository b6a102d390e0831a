"""Building blocks of the HTML report: style, script, tables, and rows that the script can filter."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
STYLE = (HERE / "report.css").read_text(encoding="utf-8")
SCRIPT = (HERE / "report.js").read_text(encoding="utf-8")

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
"""Content Security Policy: nothing is loaded, and no script runs but the page's own."""

MOST_EMBEDDED = 4000
"""Rows of a figure's numbers that the page holds; the CSV beside the figure holds all."""


def html_page(title: str, header: str, nav: str, main: str, footer: str) -> str:
    """A whole page; all but `title` is HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the results</a>\n'
        f'<header>{header}</header>\n<div class="page">\n<nav aria-label="Contents">{nav}</nav>\n'
        f'<main id="main" tabindex="-1">\n{main}\n</main>\n</div>\n<footer>{footer}</footer>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def html_table(table: pd.DataFrame, caption: str) -> str:
    """A table with every cell escaped, in a region that can be scrolled with the keyboard; missing numbers are a grey
    dash, numbers have four significant digits."""
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in table.columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.itertuples(index=False, name=None))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if not isinstance(value, (list, dict)) and pd.isna(value):
        return '<td class="missing">–</td>'
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{escape(text)}</td>"


def details(summary: str, inner: str) -> str:
    """HTML that opens on its summary."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def embedded_rows(name: str, table: pd.DataFrame) -> str:
    """A table as JSON by column, texts as indices into their distinct values; numbers have six significant digits."""
    kept = table.head(MOST_EMBEDDED)
    content = {
        "columns": list(map(str, kept.columns)),
        "data": [_column(kept[column]) for column in kept.columns],
        "more": len(table) - len(kept),
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    # No text may end the element or open a comment.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="rows-{escape(name)}">{text}</script>'


def _column(values: pd.Series) -> Any:
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        texts = values.astype(object).where(values.notna(), None)
        at, of = pd.factorize(texts.map(lambda v: v if v is None else str(v)))
        return {"of": list(of), "at": at.tolist()}
    return [None if pd.isna(v) else int(v) if float(v).is_integer() else float(f"{float(v):.6g}") for v in values]
