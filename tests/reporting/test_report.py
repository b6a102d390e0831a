"""The report is one page without any outside file, holds everything it was given, and hides nothing unpleasant."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pandas as pd
import pytest
import yaml

from neurorad.problems import InputError
from neurorad.reporting.chapters import CHAPTERS
from neurorad.reporting.marker_figures import verdict
from neurorad.reporting.numbers import rows_behind
from neurorad.reporting.page import MOST_EMBEDDED, POLICY, SCRIPT
from neurorad.reporting.registry import FIGURES, caption
from neurorad.reporting.report import MOST_ROWS, Parts, Picture, read_figure
from neurorad.reporting.report import report_html as html_of
from neurorad.reporting.tables import TABLES, table

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "link", "hr", "input"}


def report_html(**parts) -> str:
    return html_of(Parts(**parts))


class Page(HTMLParser):
    """Tags, attributes and text; `errors` are closing tags that close nothing or the wrong one."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.errors, self.tags, self.said = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.said)


def picture(name: str) -> Picture:
    return Picture(f"<svg>{name}</svg>".encode(), f"{caption(name)} 12 of 34 estimates.")


@pytest.fixture
def parts(study) -> dict:
    return {
        "figures": {name: picture(name) for name in FIGURES},
        "tables": {name: table(name, study) for name in TABLES},
        "excluded": study.excluded,
        "audit": {"stamp": study.audit["stamp"], "overlaps": [{"a": "brats-gli-pre", "b": "ucsf-pdgm", "patients": 2}]},
        "config": "title: A small study\nseed: 1\n",
    }


def test_tags_balance(parts):
    page = Page(report_html(**parts))
    assert page.errors == []
    assert page.open == []
    assert len(page.tags) > 100


def test_nothing_is_loaded_from_outside_and_only_its_own_script_runs(parts):
    text = report_html(**parts)
    page = Page(text)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [s for s in scripts if s.get("type") != "application/json"] == [{}]
    assert text.count(f"<script>{SCRIPT}</script>") == 1
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not re.search(
        r"""(src|href|action|data)\s*=\s*["']?\s*(https?:|//|file:)|url\(|@import""", text.replace(SCRIPT, ""), re.I
    )
    assert not re.search(r"https?:|fetch|XMLHttp|import|WebSocket|eval|innerHTML", SCRIPT)
    assert all(image["src"].startswith("data:image/svg+xml,") for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_every_figure_is_there_once_with_its_own_bytes(parts):
    page = Page(report_html(**parts))
    shown = {
        f["id"]: unquote_to_bytes(i["src"].split(",", 1)[1])
        for f, i in zip(page.all("figure"), page.all("img"), strict=True)
    }
    assert shown == {name: figure.svg for name, figure in parts["figures"].items()}


def test_every_table_is_there_with_its_number_of_rows(parts):
    text = Page(report_html(**parts)).text
    for name, made in parts["tables"].items():
        assert f"Table {name}: {len(made)} rows" in text


def test_chapters_hold_every_known_figure_and_table_once():
    assert sorted(name for chapter in CHAPTERS for name in chapter.figures) == sorted(FIGURES)
    assert sorted(name for chapter in CHAPTERS for name in chapter.tables) == sorted([*TABLES, "claims", "deviations"])


def test_chapters_follow_the_paper_and_what_no_chapter_knows_comes_last(parts):
    parts["figures"]["my_own"] = Picture(b"<svg/>", "My own.")
    parts["tables"]["also_mine"] = pd.DataFrame({"a": [1]})
    page = Page(report_html(**parts))
    order = [figure["id"] for figure in page.all("figure")]
    assert order == [*(name for chapter in CHAPTERS for name in chapter.figures), "my_own"]
    assert "Table also_mine: 1 rows" in page.text
    assert page.text.index("no chapter names") < page.text.index("Table also_mine")


def test_the_alternative_text_of_an_image_is_its_caption(parts):
    page = Page(report_html(**parts))
    for figure, image in zip(page.all("figure"), page.all("img"), strict=True):
        assert image["alt"] == f"{caption(figure['id'])} 12 of 34 estimates."
        assert image["alt"] in page.text


def test_landmarks_headings_and_tables_can_be_walked_through(parts):
    page = Page(report_html(**parts))
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(name) for name in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert next(attributes for tag, attributes in page.tags if tag == "a")["href"] == "#main"
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert all(attributes.get("scope") == "col" for attributes in page.all("th"))
    assert tags.count("caption") == tags.count("table")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a") if a["href"].startswith("#")} <= {f"#{name}" for name in ids}


def test_the_numbers_of_a_figure_are_in_the_page_as_they_are(parts, study):
    name = "fig3b_common_markers"
    rows = rows_behind(name, FIGURES[name].needs, study)
    rows.loc[0, "note"] = f'{EVIL}, "quoted" & more'
    parts["figures"][name] = dataclasses.replace(picture(name), rows=rows)
    text = report_html(**parts)
    (block,) = re.findall(rf'id="rows-{name}">(.*?)</script>', text)
    assert "<" not in block
    held = json.loads(block)
    assert held["columns"] == list(rows.columns) and held["more"] == 0
    for column, stored in zip(rows.columns, held["data"], strict=True):
        values = [None if i < 0 else stored["of"][i] for i in stored["at"]] if isinstance(stored, dict) else stored
        for found, expected in zip(values, rows[column], strict=True):
            if pd.isna(expected):
                assert found is None
            elif isinstance(expected, str):
                assert found == expected
            else:
                assert found == pytest.approx(expected, rel=1e-5)


def test_a_figure_with_very_many_numbers_says_where_the_rest_is(parts):
    rows = pd.DataFrame({"x": range(MOST_EMBEDDED + 7)})
    parts["figures"]["fig4c_sites"] = dataclasses.replace(picture("fig4c_sites"), rows=rows)
    (block,) = re.findall(r'id="rows-fig4c_sites">(.*?)</script>', report_html(**parts))
    assert json.loads(block)["more"] == 7 and len(json.loads(block)["data"][0]) == MOST_EMBEDDED


def test_how_a_figure_was_made_is_told_beside_it(parts):
    made = {"version": "9.9", "code": "abcdef", "inputs": [["probe", "results/evaluation/probe/a.parquet", "1" * 64]]}
    parts["figures"]["fig3a_rivals"] = dataclasses.replace(picture("fig3a_rivals"), made=made)
    text = Page(report_html(**parts)).text
    for said in (
        "figure_fig3a_rivals",
        "neurorad trace results/figures/fig3a_rivals.svg",
        "NeuroRAD 9.9",
        "code abcdef",
    ):
        assert said in " ".join(text.split())
    assert "results/evaluation/probe/a.parquet" in text and "1" * 16 in text


def test_other_pages_and_the_appendix_appear_when_they_are_given(parts):
    assert "Quality control and viewers" not in report_html(**parts)
    parts["pages"] = {"volumes/cuimc/qc.html": "cuimc: every volume", "provenance/model_cards/a.md": "a: model card"}
    parts["appendix"] = {"Claim ledger": pd.DataFrame({"claim": [EVIL]}), "Notes": f"a text {EVIL}"}
    page = Page(report_html(**parts))
    assert "volumes/cuimc/qc.html" in [link["href"] for link in page.all("a")]
    assert "provenance/model_cards/a.md" in [link["href"] for link in page.all("a")]
    for title in ("Quality control and viewers", "Model cards and data sheets", "Claim ledger", "Notes"):
        assert title in page.text
    assert page.text.count(EVIL) == 2


def test_of_finished_encoders_the_head_claims_no_pretraining_and_names_no_folder(parts):
    parts["config"] = (
        "pretraining: {methods: [byol], objectives: [dro], seeds: [0], preset: demo, freeze: /home/me/enc}\n"
    )
    head = " ".join(Page(report_html(**parts)).text.split("Who was scanned")[0].split())
    assert "Pretrained on not known here: finished encoders were given" in head
    assert "/home/me" not in head and "preset demo" not in head


def test_the_head_says_what_was_run_on_what_and_when(parts):
    parts |= {"date": "2031-02-03", "config": "phantom: {seed: 0}\nevaluation: {folds: 5}\n"}
    head = " ".join(Page(report_html(**parts)).text.split("Who was scanned")[0].split())
    for said in (
        "2031-02-03",
        "Synthetic data.",
        "Pretrained on 53 scans of 50 patients",
        "Tested on 87 scans",
        "folds 5",
    ):
        assert said in head
    assert "Not estimable 10 of 320 AUCs" in head


@pytest.mark.parametrize(
    "where", ["label", "cohort", "reason", "stamp", "audit", "config", "title", "figure", "description", "table"]
)
def test_html_in_names_and_reasons_is_shown_and_not_run(parts, where):
    match where:
        case "label":
            parts["tables"]["supplementary_2_labels"].loc[0, "label"] = EVIL
        case "cohort":
            parts["excluded"].loc[0, "cohort"] = EVIL
            parts["tables"]["probe"].loc[0, ["site", "encoder"]] = EVIL
        case "reason":
            parts["excluded"].loc[0, "reason"] = EVIL
        case "stamp":
            parts["audit"]["stamp"] = EVIL
        case "audit":
            parts["audit"] |= {EVIL: {EVIL: EVIL}, "more": [{EVIL: EVIL}]}
        case "config":
            parts["config"] += f"x: '{EVIL}'\n"
        case "title":
            parts["config"] = yaml.safe_dump({"title": EVIL})
        case "figure":
            parts["figures"][EVIL] = Picture(b"<svg/>", "x")
        case "description":
            parts["figures"]["fig1_flow"] = Picture(b"<svg/>", f'{caption("fig1_flow")} "{EVIL}')
        case "table":
            parts["tables"][EVIL] = pd.DataFrame({EVIL: [EVIL]})
    text = report_html(**parts)
    page = Page(text)
    assert EVIL not in text.replace(SCRIPT, "")
    assert page.errors == []
    assert EVIL in page.text
    assert not any("onload" in attributes for _, attributes in page.tags)


def test_a_script_inside_a_figure_stays_inside_its_image(parts):
    parts["figures"]["fig1_flow"] = Picture(f"<svg>{EVIL}</svg>".encode(), "x")
    assert EVIL not in report_html(**parts)


def test_the_stamp_is_said_at_the_top_as_an_alarm(parts):
    page = Page(report_html(**parts))
    assert {"class": "alarm"} in page.all("p")
    assert page.text.index(parts["audit"]["stamp"]) < page.text.index("Every number below rests")
    assert "No overlap between pretraining and test patients" not in page.text


def test_without_a_stamp_the_page_says_that_no_overlap_is_left(parts):
    parts["audit"]["stamp"] = ""
    page = Page(report_html(**parts))
    assert {"class": "alarm"} not in page.all("p")
    assert "No overlap between pretraining and test patients was left" in page.text


def test_what_a_table_calls_not_estimable_the_page_calls_so(parts, study):
    lost = study.probe[study.probe["value"].isna()]
    parts["tables"] = {"probe": lost}
    text = Page(report_html(**parts)).text
    assert text.count("not estimable: fewer than 5 positive patients") == len(lost) > 0
    assert text.count("–") >= 3 * len(lost)


def test_the_plan_of_the_tables_is_said_once_at_the_top(parts):
    assert "Analysis plan: no table says." in Page(report_html(**parts)).text
    parts["tables"] = {name: rows.assign(plan="plan 1a2b locked 2026-01-02") for name, rows in parts["tables"].items()}
    text = Page(report_html(**parts)).text
    assert text.count("plan 1a2b locked 2026-01-02") == 1
    parts["tables"]["probe"]["plan"] = "plan not locked"
    assert "Analysis plan: plan 1a2b locked 2026-01-02; plan not locked." in Page(report_html(**parts)).text


def test_the_answer_is_the_verdict_of_the_comparison(parts, study):
    assert verdict(study.comparison) in Page(report_html(**parts)).text
    parts["tables"]["comparison"] = study.comparison.assign(metric="c_index_difference")
    assert "No paired comparison of AUCs could be made, so this report cannot say" in Page(report_html(**parts)).text
    del parts["tables"]["comparison"]
    assert "No paired comparison of AUCs could be made, so this report cannot say" in Page(report_html(**parts)).text


def test_exclusions_are_counted_by_reason_even_where_a_reason_is_missing(parts):
    parts["excluded"].loc[0, "reason"] = None
    page = Page(report_html(**parts))
    assert f"{len(parts['excluded'])} entries, by reason" in page.text
    counts = parts["excluded"].groupby(["cohort", "stage", "reason"], dropna=False).size()
    section = report_html(**parts).split(">Scans left out</h2>")[1].split("<details>")[0]
    assert sum(int(n) for n in re.findall(r"<td>(\d+)</td></tr>", section)) == counts.sum() == len(parts["excluded"])
    assert section.count("<tr>") == len(counts) + 1


def test_nothing_left_out_is_said(parts):
    parts["excluded"] = parts["excluded"].head(0)
    assert "None." in Page(report_html(**parts)).text


def test_a_long_table_is_cut_and_says_where_the_rest_is(parts):
    parts["tables"] = {"probe": pd.concat([parts["tables"]["probe"]] * 3)}
    number = len(parts["tables"]["probe"])
    text = report_html(**parts)
    assert number > MOST_ROWS
    assert f"Table probe: {number} rows, the first {MOST_ROWS} shown; all are in tables/probe.csv" in text
    assert text.split("<summary>Table probe")[1].split("</table>")[0].count("<tr>") == MOST_ROWS + 1


def test_the_audit_and_the_settings_are_shown(parts):
    parts["audit"] |= {"scans": {"kept": 3, "removed": 2}, "n": 5, "empty": {}}
    text = Page(report_html(**parts)).text
    for said in ("kept: 3, removed: 2", "overlaps: 1 entries", "brats-gli-pre", "seed: 1", "A small study"):
        assert said in text


def test_it_says_research_use_only_and_which_encoders_and_sites(parts):
    text = Page(report_html(**parts)).text
    assert "Research use only" in text
    assert "Sites cuimc, ucsf-pdgm, upenn-gbm" in text
    assert "byol-base-s0, byol-dro-s0" in text


def test_an_empty_config_and_no_tables_still_make_a_page(parts):
    page = Page(report_html(figures={}, tables={}, excluded=parts["excluded"].head(0), audit={"stamp": ""}, config=""))
    assert page.errors == []
    assert "NeuroRAD report" in page.text
    assert page.all("figure") == []


def test_the_dark_style_is_in_the_page(parts):
    assert "prefers-color-scheme: dark" in report_html(**parts)


def test_the_same_parts_in_another_order_give_the_same_page(parts):
    expected = report_html(**parts)
    turned = {key: dict(reversed(parts[key].items())) for key in ("figures", "tables", "audit")}
    assert report_html(**{**parts, **turned}) == expected


def test_written_figures_bring_their_caption_and_counts(written, drawn):
    for name in FIGURES:
        read = read_figure(written / f"{name}.svg")
        assert read.description == f"{caption(name)} {drawn(name).get_label()}".strip()
        assert read.svg == (written / f"{name}.svg").read_bytes()


def test_a_figure_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "x.svg").write_text("<svg></svg>")
    with pytest.raises(InputError, match="x.svg: not a figure made by `neurorad figure`"):
        read_figure(tmp_path / "x.svg")
