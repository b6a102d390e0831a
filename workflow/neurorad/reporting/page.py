"""Style sheet and tables of the HTML report."""

from __future__ import annotations

from html import escape

import pandas as pd

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfb; --line: #d8d8d4; --soft: #f2f2ee; --alarm: #b00020;
  --fine: #1b6e3c; --grey: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e2; --paper: #16181a; --line: #3a3d40; --soft: #202326;
  --alarm: #ff8a95; --fine: #7fd3a0; --grey: #a0a0a0; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
.research { color: var(--grey); } .fine { color: var(--fine); }
.alarm { color: var(--alarm); border: 2px solid var(--alarm); padding: .5rem .8rem; font-weight: 600; }
figure { margin: 1.5rem 0; }
.sheet { background: #fff; border: 1px solid var(--line); padding: .5rem; overflow-x: auto; }
.sheet img { display: block; width: 100%; height: auto; min-width: 34rem; margin: 0 auto; }
figcaption { font-size: .88rem; margin-top: .4rem; } .answers { color: var(--grey); }
details { margin: .8rem 0; overflow-x: auto; } summary { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; font-size: .8rem; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .55rem; text-align: left; vertical-align: top; }
th { background: var(--soft); position: sticky; top: 0; } td.missing { color: var(--grey); }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media print { body { background: #fff; color: #000; font-size: 10pt; } figure { break-inside: avoid; }
  .sheet { border: 0; } main { max-width: none; padding: 0; } .sheet img { min-width: 0; } }
"""


def html_table(table: pd.DataFrame) -> str:
    """A table with every cell escaped; missing numbers are a grey dash, numbers have four significant digits."""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.itertuples(index=False, name=None))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if not isinstance(value, (list, dict)) and pd.isna(value):
        return '<td class="missing">–</td>'
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{escape(text)}</td>"
