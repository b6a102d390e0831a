"""The pages of quality control and of maps in headless Chromium, as met without a mouse, a network or a wide screen."""

from pathlib import Path

import pandas as pd
import pytest

from neurorad.explanation.viewer import page as viewer_page
from tests.browser import CHROMIUM, Page
from tests.explanation.test_viewer import scan
from tests.imaging.test_qc import cohort
from tests.imaging.test_qc import written as qc_page

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
CONTROLS = {
    "qc": "sort show who export SUMMARY list pass fail clear comment stage-after stage-before stage-atlas flicker",
    "viewer": "patient sequence plane slice map against tumour opacity",
}
"""Ids of the controls in reading order; the summary is that of the scans without a volume."""


def written(kind: str, folder: Path) -> Path:
    if kind == "viewer":
        path = folder / "viewer.html"
        path.write_text(viewer_page("Maps", "Rule.", "STAMPED", [scan("one"), scan("two")]), encoding="utf-8")
        return path
    volumes = cohort(folder / "volumes", 30)
    volumes.loc[9, "brain_ml"] = 2600
    lost = {"cohort": "a", "scan": "lost", "volume": "", "sha256": "", "status": "excluded", "reason": "no t1c"}
    return qc_page(folder, pd.concat([volumes, pd.DataFrame([lost])], ignore_index=True))


@pytest.fixture(scope="module", params=["qc", "viewer"])
def opened(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with Page(folder / "profile") as page:
        page.watch()
        page.open(written(request.param, folder))
        page.kind = request.param
        yield page


def test_nothing_is_asked_of_the_network_and_nothing_said(opened):
    assert opened.asked() == [] and opened.said() == []


def test_axe_finds_nothing_serious(opened):
    assert opened.serious() == []


def test_tab_reaches_every_control_in_reading_order(opened):
    assert opened.reached_by_tab() == CONTROLS[opened.kind].split()


def test_a_narrow_window_needs_no_scrolling_sideways_and_hides_nothing(opened):
    opened.command("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    assert opened.js("document.documentElement.scrollWidth") <= 400
    canvas = {"qc": "mosaic", "viewer": "view"}[opened.kind]
    assert opened.js(f"document.getElementById('{canvas}').getBoundingClientRect().width") > 300
    opened.command("Emulation.clearDeviceMetricsOverride")


def test_on_paper_it_is_dark_on_light_without_controls(opened):
    opened.command("Emulation.setEmulatedMedia", media="print")
    assert opened.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.js("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    shown = "[...document.querySelectorAll('button, select, input')].filter(e => e.getClientRects().length).length"
    assert opened.js(shown) == 0
    opened.command("Emulation.setEmulatedMedia", media="")
    assert opened.js(shown) > 0


@pytest.mark.parametrize("opened", ["qc"], indirect=True)
def test_the_list_of_scans_tells_a_screen_reader_where_the_reader_is(opened):
    chosen = "document.querySelector('[role=option][aria-selected=true] .name').textContent"
    opened.js("document.getElementById('list').focus()")
    assert opened.js(chosen) == "s0009"
    opened.press("ArrowDown")
    assert opened.js(chosen) == opened.js("document.getElementById('name').textContent") != "s0009"
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert opened.js(f"{active}.querySelector('.name').textContent") == opened.js(chosen)


@pytest.mark.parametrize("opened", ["qc"], indirect=True)
def test_a_sorting_order_is_chosen_with_the_keyboard_beyond_the_first_step(opened):
    opened.js("document.getElementById('sort').focus()")
    opened.press("ArrowDown", "ArrowDown")
    assert opened.js("document.activeElement.id + document.getElementById('sort').value") == "sort2"


@pytest.mark.parametrize("opened", ["viewer"], indirect=True)
def test_the_slider_moves_with_the_keyboard(opened):
    opened.js("document.getElementById('slice').focus()")
    opened.press("ArrowRight")
    assert opened.js("document.getElementById('place').textContent") == "9 of 16"
