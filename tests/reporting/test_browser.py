"""The report in headless Chromium: it opens fast, asks the network for nothing, can be filtered, and axe finds no serious fault."""

import base64
import dataclasses
from pathlib import Path

import pytest

from neurorad.reporting.numbers import rows_behind
from neurorad.reporting.registry import FIGURES
from neurorad.reporting.report import Parts, Picture, report_html
from neurorad.reporting.tables import TABLES, table
from tests.browser import CHROMIUM, Page

from .planted import planted_study

pytestmark = [pytest.mark.skipif(not CHROMIUM, reason="needs chromium"), pytest.mark.slow]
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"><rect width="400" height="300" fill="#0072b2"/></svg>'


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    study = planted_study()
    parts = Parts(
        figures={
            name: Picture(SVG, f"Caption of {name}, 36 patients.", rows=rows_behind(name, entry.needs, study))
            for name, entry in FIGURES.items()
            if all(getattr(study, need, None) is not None for need in entry.needs)
        },
        tables={
            name: table(name, study) for name in ("probe", "comparison", "supplementary_1_cohorts") if name in TABLES
        },
        excluded=study.excluded,
        audit=study.audit,
        config="phantom: {seed: 0}\n",
        date="2031-02-03",
        pages={"volumes/cuimc/qc.html": "cuimc: every volume, for quality control"},
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(dataclasses.replace(parts)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(written, tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as opened:
        opened.watch()
        opened.seconds = opened.open(written)
        yield opened


def test_it_opens_in_seconds_without_a_message_or_a_request(page):
    assert page.seconds < 20
    assert page.asked() == [] and page.said() == []


def test_the_numbers_can_be_filtered_and_missing_ones_are_said(page):
    page.js("document.querySelector('#fig3c_uncommon_markers details[data-of]').open = true")
    page.wait("document.querySelector('#fig3c_uncommon_markers table.numbers')")
    choose = """(() => { const box = [...document.querySelectorAll('#fig3c_uncommon_markers .filters label')]
      .find(l => l.textContent.startsWith('%s')).querySelector('select');
      box.value = [...box.options].find(o => o.textContent === '%s').value;
      box.dispatchEvent(new Event('change')); })()"""
    page.js(choose % ("endpoint", "tert"))
    page.js(choose % ("site", "cuimc"))
    shown = page.js("document.querySelector('#fig3c_uncommon_markers .numbers').textContent")
    assert page.js("document.querySelectorAll('#fig3c_uncommon_markers .numbers tbody tr').length") == 10
    assert shown.count("not estimable") >= 10
    all_rows = len(rows_behind("fig3c_uncommon_markers", ("probe",), planted_study()))
    assert f"10 of {all_rows} rows; 10 not estimable" in page.js(
        "document.querySelector('#fig3c_uncommon_markers [role=status]').textContent"
    )


def test_the_csv_that_it_saves_has_every_row(page):
    count = page.js("csv(read('fig4a_survival')).trim().split('\\n').length")
    assert count == 1 + len(rows_behind("fig4a_survival", FIGURES["fig4a_survival"].needs, planted_study()))


def test_a_picture_can_be_saved_as_svg_and_png(page):
    image = "document.querySelector('#fig3a_rivals img')"
    assert page.js(f"picture({image}).then(blob => blob.text())").startswith("<svg")
    size = page.js(f"bitmap({image}).then(b => createImageBitmap(b)).then(b => [b.width, b.height])")
    assert size == [1250, 938] or size == [1250, 937]


def test_the_reader_chooses_the_theme(page):
    before = page.js("getComputedStyle(document.body).backgroundColor")
    page.js("document.getElementById('theme').click()")
    assert page.js("getComputedStyle(document.body).backgroundColor") != before
    page.js("document.getElementById('theme').click()")
    assert page.js("getComputedStyle(document.body).backgroundColor") == before


def test_a_narrow_window_scrolls_figures_and_not_the_page(page):
    page.command("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    assert page.js("document.documentElement.scrollWidth") <= 400
    hint = "getComputedStyle(document.querySelector('figcaption'), '::before').content"
    assert "sideways" in page.js(hint)
    page.command("Emulation.clearDeviceMetricsOverride")


def test_it_prints(page):
    assert base64.b64decode(page.command("Page.printToPDF")["data"]).startswith(b"%PDF")


def test_axe_finds_nothing_serious_in_light_and_dark(page):
    for theme in ("light", "dark"):
        page.js(f"document.documentElement.dataset.theme = '{theme}'")
        assert page.serious() == [], theme
