"""Tables of the page: every cell escaped, missing numbers visible, digits that can be read."""

import re

import numpy as np
import pandas as pd
import pytest

from neurorad.reporting.page import STYLE, html_table

EVIL = "<script>alert(1)</script>"


def cells(table: pd.DataFrame) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html_table(table, "t"))


def test_headers_and_cells_are_escaped():
    page = html_table(pd.DataFrame({f"a{EVIL}": [EVIL, 'x" onload="y']}), f'c{EVIL}"')
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    assert "x&quot; onload=&quot;y" in page


@pytest.mark.parametrize("value", [np.nan, None, pd.NA, pd.NaT])
def test_what_is_missing_is_a_grey_dash(value):
    assert html_table(pd.DataFrame({"a": [value]}, dtype=object), "t").count('<td class="missing">–</td>') == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (3.0, "3"), (1e-9, "1e-09"), (7, "7"), ("0.123456", "0.123456"), ([1, 2], "[1, 2]")],
)
def test_numbers_have_four_significant_digits_and_texts_stay(value, text):
    assert cells(pd.DataFrame({"a": pd.Series([value], dtype=object)})) == [text]


def test_every_row_and_column_is_there_in_order():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert cells(table) == ["1", "x", "2", "y"]
    assert re.findall(r'<th scope="col">(.*?)</th>', html_table(table, "t")) == ["a", "b"]


def test_the_style_has_a_dark_and_a_printed_form_and_loads_nothing():
    assert "@media (prefers-color-scheme: dark)" in STYLE
    assert "@media print" in STYLE
    assert "color-scheme: dark" in STYLE
    assert not re.search(r"url\(|@import|https?:", STYLE)
    names = set(re.findall(r"var\((--[a-z]+)\)", STYLE))
    by_system = STYLE.split("prefers-color-scheme: dark")[1].split("} }")[0]
    by_choice = STYLE.split('\n:root[data-theme="dark"] {')[1].split("}")[0]
    printed = STYLE.split("@media print {")[1].split("}")[0]
    for part in (STYLE, by_system, by_choice, printed):
        assert names == {name for name in names if f"{name}:" in part}
    assert set(re.findall(r"--[a-z]+: #\w+", by_system)) == set(re.findall(r"--[a-z]+: #\w+", by_choice))


def test_the_style_has_as_many_opening_as_closing_braces():
    assert STYLE.count("{") == STYLE.count("}") > 20
