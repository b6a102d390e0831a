"""The flow of scans: every box adds up, a scan leaves once, and a flow that cannot add up is refused."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from neurorad.endpoints import endpoints
from neurorad.problems import InputError
from neurorad.reporting.flow import STAGES, evaluated_labels, scan_flow
from neurorad.reporting.inputs import Tables
from neurorad.reporting.registry import figure

from .reading import texts


def flow_of(tables):
    return scan_flow(tables.scans, tables.volumes, tables.excluded, tables.manifest)


def scans(*names: str, cohort: str = "a", problem: str = "") -> pd.DataFrame:
    return pd.DataFrame([{"cohort": cohort, "scan": name, "patient": name, "problem": problem} for name in names])


def volumes(*names: str, status: str = "ok", **more: str) -> pd.DataFrame:
    return pd.DataFrame(
        [{"cohort": "a", "scan": name, "status": status, **more} for name in names],
        columns=["cohort", "scan", "status", *more],
    )


def excluded(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(
        [{"cohort": "a", "scan": scan, "stage": stage, "reason": reason} for scan, stage, reason in rows],
        columns=["cohort", "scan", "stage", "reason"],
    )


def manifest(*names: str) -> pd.DataFrame:
    return pd.DataFrame(
        [{"cohort": "a", "scan": name, "patient": name} for name in names], columns=["cohort", "scan", "patient"]
    )


def test_found_is_left_plus_pretraining_plus_evaluated_in_every_cohort(study):
    flow = flow_of(study)
    total = sum(flow.left.values()) + flow.pretraining + flow.evaluated
    assert list(flow.found.index) == sorted(set(study.scans["cohort"]))
    assert (flow.found == total).all()


def test_counts_are_those_of_a_brute_force_count(study):
    flow = flow_of(study)
    for cohort in flow.found.index:
        mine = study.scans[study.scans["cohort"] == cohort]
        assert flow.found[cohort] == len(mine)
        assert flow.pretraining[cohort] == (study.manifest["cohort"] == cohort).sum()
        for stage in STAGES:
            out = study.excluded[(study.excluded["cohort"] == cohort) & (study.excluded["stage"] == stage)]
            assert flow.left[stage][cohort] == len(out)
    assert sum(part.sum() for part in flow.left.values()) == len(study.excluded) > 0


def test_patients_are_counted_once_in_every_box(study):
    flow = flow_of(study)
    mine = study.scans[study.scans["cohort"] == "lumiere"]
    trained = study.manifest[study.manifest["cohort"] == "lumiere"]
    assert flow.patients["found"]["lumiere"] == mine["patient"].nunique() < len(mine)
    assert flow.patients["pretraining"]["lumiere"] == trained["patient"].nunique() < len(trained)
    left = set(study.excluded[study.excluded["stage"] == "inventory"]["scan"])
    assert flow.patients["inventory"].sum() == len(
        study.scans[~study.scans["scan"].isin(left)][["cohort", "patient"]].drop_duplicates()
    )


def test_reasons_of_a_stage_sum_to_what_left_there(study):
    flow = flow_of(study)
    assert {stage: int(flow.reasons[stage].sum()) for stage in STAGES} == {
        stage: int(flow.left[stage].sum()) for stage in STAGES
    }
    assert flow.reasons["inventory"].to_dict() == {"no t2f series found": 2}


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_scan_leaves_once_at_the_first_stage_that_refuses_it(order):
    rows = excluded(("s1", "leakage", "late"), ("s1", "volume", "middle"), ("s1", "labels", "early")).iloc[order]
    flow = scan_flow(scans("s1", "s2"), volumes("s1", "s2"), rows, manifest())
    assert {stage: int(flow.left[stage].sum()) for stage in STAGES} == {
        "inventory": 0,
        "labels": 1,
        "volume": 0,
        "qc": 0,
        "leakage": 0,
        "repeats": 0,
    }
    assert flow.reasons["labels"].to_dict() == {"early": 1}
    assert int(flow.evaluated.sum()) == 1


def test_problems_of_the_inventory_and_failed_volumes_count_without_a_row_in_excluded():
    found = pd.concat([scans("s1", problem="no t1c"), scans("s2", "s3")])
    made = pd.concat([volumes("s2", status="excluded", reason="blurred"), volumes("s3", reason="")])
    flow = scan_flow(found, made, excluded(), manifest("s3"))
    assert flow.reasons["inventory"].to_dict() == {"no t1c": 1}
    assert flow.reasons["volume"].to_dict() == {"blurred": 1}
    assert (int(flow.pretraining.sum()), int(flow.evaluated.sum())) == (1, 0)


def test_a_volume_that_failed_by_eye_leaves_at_quality_control_and_is_drawn_there():
    made = pd.concat([volumes("s1", status="failed", reason="failed by eye: cut"), volumes("s2", reason="")])
    tables = Tables(scans=scans("s1", "s2"), volumes=made, excluded=excluded(), manifest=manifest("s2"))
    flow = flow_of(tables)
    assert (int(flow.left["volume"].sum()), int(flow.left["qc"].sum())) == (0, 1)
    said = texts(figure("fig1_flow", tables))
    assert {"Left out: 1", "failed on the quality control page:", "1  failed by eye: cut"} < set(said)


def test_a_failed_volume_without_a_reason_leaves_with_its_status():
    flow = scan_flow(scans("s1"), volumes("s1", status="excluded"), excluded(), manifest())
    assert flow.reasons["volume"].to_dict() == {"excluded": 1}


@pytest.mark.parametrize("scan", ["", None, np.nan])
def test_a_patient_of_the_label_table_without_a_scan_counts_as_no_scan(scan):
    rows = excluded((scan, "labels", "no scan of this patient"))
    flow = scan_flow(scans("s1"), volumes("s1"), rows, manifest())
    assert (int(flow.found.sum()), int(flow.evaluated.sum())) == (1, 1)
    assert int(flow.left["labels"].sum()) == 0


def test_a_scan_that_only_excluded_knows_was_found_and_left():
    flow = scan_flow(scans("s1"), volumes("s1"), excluded(("s9", "inventory", "unreadable")), manifest("s1"))
    assert int(flow.found.sum()) == 2
    assert int(flow.left["inventory"].sum()) == 1


def test_equal_scan_names_in_two_cohorts_are_two_scans():
    both = pd.concat([scans("s1"), scans("s1", cohort="b")])
    made = pd.concat([volumes("s1"), volumes("s1").assign(cohort="b")])
    flow = scan_flow(both, made, excluded(), manifest("s1"))
    assert flow.pretraining.to_dict() == {"a": 1, "b": 0}
    assert flow.evaluated.to_dict() == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("tables", "hint"),
    [
        (
            (scans("s1"), volumes("s1"), excluded(("s1", "lunch", "x")), manifest()),
            "unknown stage lunch; known are inv",
        ),
        (
            (scans("s1", "s2"), volumes("s1"), excluded(), manifest()),
            "1 scans have neither a usable volume.*first a/s2",
        ),
        ((scans("s1"), volumes("s1"), excluded(("s1", "labels", "x")), manifest("s1")), "were left out or never found"),
        ((scans("s1"), volumes("s1"), excluded(), manifest("s7")), "were left out or never found, first a/s7"),
        ((scans("s1", "s1"), volumes("s1"), excluded(), manifest()), "scans: 1 scans are listed twice"),
        ((scans("s1"), volumes("s1", "s1"), excluded(), manifest()), "volumes: 1 scans are listed twice"),
        ((scans("s1"), volumes("s1"), excluded(), manifest("s1", "s1")), "manifest: 1 scans are listed twice"),
    ],
)
def test_a_flow_that_cannot_add_up_is_refused(tables, hint):
    with pytest.raises(InputError, match=hint):
        scan_flow(*tables)


def test_the_drawn_boxes_say_the_counts(drawn, study):
    flow = flow_of(study)
    said = texts(drawn("fig1_flow"))
    found, left = int(flow.found.sum()), {stage: int(flow.left[stage].sum()) for stage in STAGES}
    people = {name: int(counts.sum()) for name, counts in flow.patients.items()}
    assert f"Scans found: {found} ({people['found']} patients)" in said
    assert f"Complete scans: {found - left['inventory']} ({people['inventory']} patients)" in said
    assert f"Volumes: {found - left['inventory'] - left['volume']} ({people['volume']} patients)" in said
    assert f"Kept: {found - sum(left.values())} ({people['leakage']} patients)" in said
    assert f"Pretraining: {int(flow.pretraining.sum())} ({people['pretraining']} patients)" in said
    assert f"Evaluation only: {int(flow.evaluated.sum())} ({people['evaluated']} patients)" in said
    assert f"Left out: {left['volume']}" in said
    assert f"{STAGES['volume']}:" in said


def test_the_cohort_lines_of_a_box_sum_to_its_title(drawn):
    said = texts(drawn("fig1_flow"))
    totals, sums = [], []
    for line in said:
        if title := re.fullmatch(r".+: (\d+) \((\d+) patients\)", line):
            totals.append((int(title[1]), int(title[2])))
            sums.append((0, 0))
        elif pairs := re.findall(r"\S+ (\d+) \((\d+)\)", line):
            scans, patients = sums[-1]
            sums[-1] = scans + sum(int(n) for n, _ in pairs), patients + sum(int(n) for _, n in pairs)
    written = [(total, summed) for total, summed in zip(totals, sums, strict=True) if summed != (0, 0)]
    assert len(written) == 5
    assert all(total == summed for total, summed in written)


def test_the_labels_of_the_evaluated_patients_add_up_in_every_line(drawn, study):
    flow = flow_of(study)
    evaluated = len(flow.tested)
    assert evaluated == flow.patients["evaluated"].sum() > 0
    counts = evaluated_labels(flow, study.patients, study.decisions)
    assert (counts[["n", "left_open", "not_stated"]].sum(axis=1) == evaluated).all()
    mine = study.patients[study.patients["cohort"].isin(["ucsf-pdgm", "upenn-gbm", "cuimc"])]
    mine = mine[[key in flow.tested for key in zip(mine["cohort"], mine["patient"], strict=True)]]
    assert counts.loc["MGMT", "n"] == mine["mgmt"].notna().sum()
    assert counts.loc["MGMT", "left_open"] == mine["left_open"].eq("mgmt").sum() > 0
    said = texts(drawn("fig1_flow"))
    title = f"Labels of the {evaluated} evaluated patients: known + left open by a decision + not stated"
    below = " ".join(said[said.index(title) + 1 :])
    lines = {name: tuple(map(int, numbers)) for name, *numbers in re.findall(r"(\S+): (\d+) \+ (\d+) \+ (\d+)", below)}
    assert len(lines) == len(endpoints()) + 1
    assert all(sum(line) == evaluated for line in lines.values())
    assert lines["MGMT"] == tuple(counts.loc["MGMT", ["n", "left_open", "not_stated"]])


def test_a_patient_who_is_evaluated_and_has_no_row_of_labels_counts_as_not_stated(study):
    flow = flow_of(study)
    fewer = study.patients[study.patients["cohort"] != "cuimc"]
    counts = evaluated_labels(flow, fewer, study.decisions)
    assert counts.loc["MGMT", "not_stated"] >= flow.patients["evaluated"]["cuimc"]
    assert (counts[["n", "left_open", "not_stated"]].sum(axis=1) == len(flow.tested)).all()


def test_many_reasons_are_summed_in_a_last_line(study):
    study.excluded = pd.concat(
        [study.excluded, *(excluded((f"x{i}", "labels", f"reason {i}" * 9)).assign(cohort="lumiere") for i in range(7))]
    )
    said = texts(figure("fig1_flow", study))
    assert "3  for 3 other reasons" in said
    assert max(len(line) for line in said if line[0].isdigit()) < 80


def test_where_nothing_leaves_the_flow_is_one_box_and_its_split():
    tables = Tables(scans=scans("s1", "s2"), volumes=volumes("s1", "s2"), excluded=excluded(), manifest=manifest("s1"))
    said = texts(figure("fig1_flow", tables))
    assert said[0] == "Scans found, none left out: 2 (2 patients)"
    assert {"Pretraining: 1 (1 patient)", "Evaluation only: 1 (1 patient)"} < set(said)


def test_every_arrow_ends_at_a_box(study):
    # A box beside the flow that is higher than the flow's own.
    rows = [excluded((f"x{i}", "labels", f"reason {i}")).assign(cohort="lumiere") for i in range(7)]
    study.excluded = pd.concat([study.excluded, *rows])
    picture = figure("fig1_flow", study)
    boxes = [patch.get_bbox() for patch in picture.axes[0].patches if isinstance(patch, Rectangle)]
    heads = [text.xy for text in picture.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(heads) >= 8
    for x, y in heads:
        touched = [
            box
            for box in boxes
            if box.x0 - 1e-6 <= x <= box.x1 + 1e-6
            and min(abs(y - box.y1), abs(x - box.x0)) < 1e-6
            and y <= box.y1 + 1e-6
        ]
        assert touched, (x, y)


def test_every_line_of_text_lies_inside_its_box(drawn):
    figure = drawn("fig1_flow")
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, Rectangle)]
    lines = [text for text in axes.texts if text.get_text()]
    assert len(boxes) >= 5 and len(lines) > len(boxes)
    for line in lines:
        extent = line.get_window_extent()
        inside = [box for box in boxes if box.x0 <= extent.x0 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1]
        assert any(extent.x1 <= box.x1 for box in inside), line.get_text()
