"""The page of maps: what it holds is what was given, it is safe and small, and it works in a browser."""

import base64
import gzip
import json
import re

import numpy as np
import pytest

from neurorad.explanation.viewer import LONGEST, Viewed, page
from tests.browser import CHROMIUM, Page

SHAPE = (20, 24, 16)


def scan(name: str = "1: ucsf-pdgm, positive", shape=SHAPE) -> Viewed:
    random = np.random.default_rng(len(name))
    voxels = random.normal(0, 1, (4, *shape)).astype(np.float16)
    voxels[:, :3] = 0
    rise, fall, tumour = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    rise[8:12, 10:14, 6:9] = 1.0
    fall[14:16, 4:6, 3:5] = 0.5
    tumour[7:13, 9:15, 7:10] = True
    return Viewed(name, [("site", "ucsf-pdgm")], voxels, rise, fall, tumour)


def data(text: str) -> dict:
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_what_is_packed_is_what_was_given():
    given = scan()
    (found,) = data(page("Title", "Rule.", "", [given]))["scans"]
    assert found["shape"] == list(SHAPE)
    arrays = np.frombuffer(gzip.decompress(base64.b64decode(found["voxels"])), np.uint8).reshape(7, *SHAPE)
    assert np.array_equal(arrays[4], 255 * given.rise) and np.array_equal(arrays[6] > 0, given.tumour)
    assert arrays[5].max() == 127
    assert (arrays[:4][given.voxels == 0] == 0).all() and (arrays[:4][given.voxels != 0] >= 12).all()
    order = np.argsort(given.voxels[1].ravel()[given.voxels[1].ravel() != 0], kind="stable")
    assert (np.diff(arrays[1].ravel()[given.voxels[1].ravel() != 0][order].astype(int)) >= 0).all()
    assert found["centre"] == [7, 9, 7], "the slices with most tumour"


def test_large_volumes_are_thinned():
    (found,) = data(page("T", "R", "", [scan(shape=(100, 193, 100))]))["scans"]
    assert max(found["shape"]) <= LONGEST and found["shape"] == [34, 65, 34]


def test_text_cannot_become_code():
    text = page("<b>T</b>", "R", "S", [scan("</script><script>alert(1)</script>")])
    assert "<b>T</b>" not in text and "</script><script>alert" not in text
    assert data(text)["scans"][0]["name"] == "</script><script>alert(1)</script>"
    assert not re.search(r"(?:src|href)=|https?://", text)


def test_the_same_scans_give_the_same_page():
    assert page("T", "R", "S", [scan()]) == page("T", "R", "S", [scan()])


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_keys_and_controls_change_the_picture(tmp_path):
    (tmp_path / "viewer.html").write_text(
        page("T", "R", "STAMPED", [scan("one"), scan("two, other")]), encoding="utf-8"
    )
    with Page(tmp_path / "profile") as browser:
        browser.open(tmp_path / "viewer.html")
        assert browser.js('get("stamp").textContent') == "STAMPED"
        picture = 'get("view").toDataURL()'
        assert browser.js('get("slice").value') == "7" and browser.js('get("place").textContent') == "8 of 16"
        seen = {browser.js(picture)}
        for change in (
            "ArrowUp",
            "m",
            "2",
            'get("against").click()',
            'get("tumour").click()',
            'get("opacity").value = 0.2; draw()',
            'get("plane").value = "0"; level()',
        ):
            browser.press(change) if len(change) < 8 else browser.js(change)
            if change == "m":
                browser.press("ArrowUp")
                browser.press("m")
            seen.add(browser.js(picture))
        assert len(seen) >= 6, "each control shows another picture"
        browser.press("n")
        browser.wait("document.body.dataset.drawn")
        assert browser.js('get("patient").selectedOptions[0].text') == "two, other"
        assert browser.js("performance.getEntriesByType('resource').length") == 0, "nothing is fetched"
