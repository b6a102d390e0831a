"""`snakemake --report` of a finished study, made without a network: every figure is there under its caption."""

import json
import re
import shutil
import subprocess
import zipfile
from html import unescape
from pathlib import Path

import pytest

from neurorad.reporting.registry import CAPTIONS, FIGURES, caption
from tests.browser import CHROMIUM, Page
from tests.workflow.small_study import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ISOLATED = ["unshare", "--map-root-user", "--net"]
"""Runs a command without any network."""


@pytest.fixture(scope="module")
def archive(study, tmp_path_factory) -> Path:
    if not shutil.which("unshare") or subprocess.run([*ISOLATED, "true"], check=False).returncode:
        pytest.skip("needs the right to a network namespace")
    path = tmp_path_factory.mktemp("report") / "whole.zip"
    made = subprocess.run(
        [*ISOLATED, *command(study, "--report", str(path))], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-4000:]
    return path


@pytest.fixture(scope="module")
def results(archive) -> dict[str, dict]:
    """File -> what the report says of it."""
    with zipfile.ZipFile(archive) as held:
        page = held.read("whole/report.html").decode("utf-8")
    start = re.search(r"var results = (?=\{)", page).end()
    return json.JSONDecoder().raw_decode(page[start:])[0]


def plain(text: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", text)).split())


def test_every_figure_is_there_with_its_caption_and_under_the_papers_number(study, results):
    drawn = {path.stem for path in (study / "results" / "figures").glob("*.svg")}
    assert drawn >= {"fig1_flow", "fig3d_differences", "fig6a_heat_maps", "training_byol-dro-s0"}
    for name in drawn:
        entry = results[f"results/figures/{name}.svg"]
        captioned = name if name in FIGURES else "training_pages"
        assert plain(entry["caption"]) == plain(caption(captioned)), name


def test_the_studys_own_report_is_there(results):
    assert plain(results["results/report.html"]["caption"]) == plain((CAPTIONS / "report.rst").read_text())


def test_the_files_are_those_of_the_study(archive, study, results):
    with zipfile.ZipFile(archive) as held:
        for path, entry in results.items():
            assert held.read(f"whole/{entry['data_uri']}") == (study / path).read_bytes()


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_it_is_read_without_a_network(archive, tmp_path):
    with zipfile.ZipFile(archive) as held:
        held.extractall(tmp_path)
    with Page(tmp_path / "profile") as page:
        page.watch()
        page.command("Page.navigate", url=(tmp_path / "whole" / "report.html").as_uri())
        page.wait("document.body && document.body.innerText.includes('Figure 3D')")
        assert page.asked() == []
        assert [event for event in page.said() if event["method"] == "Runtime.exceptionThrown"] == []
