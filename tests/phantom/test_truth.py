"""truth.json against scikit-learn, lifelines and large samples; and no other stage may know it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

import neurorad
from neurorad.cli import main
from neurorad.phantom.plan import plan
from neurorad.phantom.render import HEAD_SIZE, Study
from neurorad.phantom.truth import auc, c_index, truth

SITES = ("ucsf-pdgm", "upenn-gbm", "cuimc")
CUT = {"ki67": 10, "grade": 4}


@pytest.fixture(scope="module")
def whole(shipped):
    """The shipped study at its own size, on paper."""
    study = Study(shipped, 0, 2.0, plan(shipped, 0, 1))
    return study, truth(study)


def test_auc_is_that_of_scikit_learn_with_and_without_ties():
    random = np.random.default_rng(0)
    for decimals in (9, 0):
        labels, scores = random.integers(0, 2, 300), random.normal(size=300).round(decimals)
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(np.ones(5), random.normal(size=5)) is None
    assert auc(np.zeros(5), random.normal(size=5)) is None


def test_c_index_is_that_of_lifelines():
    random = np.random.default_rng(0)
    days, event, risk = random.exponential(500, 200), random.integers(0, 2, 200), random.normal(size=200).round(1)
    assert c_index(days, event, risk) == pytest.approx(concordance_index(days, -risk, event), abs=1e-12)
    assert c_index(days, np.zeros(200), risk) is None


def test_the_stated_auc_of_each_site_is_that_of_the_latent_on_the_released_labels(whole):
    study, told = whole
    merged = study.plan.released.join(study.plan.patients.filter(like="latent_"))
    checked = 0
    assert tuple(told["endpoints"]) == SITES
    for site, rows in told["endpoints"].items():
        own = merged[merged["cohort"] == site]
        for name, row in rows.items():
            known = own[own[name].notna()]
            labels = known[name] >= CUT.get(name, 1)
            assert (row["n"], row["n_positive"]) == (len(known), labels.sum())
            assert row["prevalence"] == pytest.approx(labels.mean())
            if labels.nunique() == 2:
                assert row["auc"] == pytest.approx(roc_auc_score(labels, known[f"latent_{row['latent']}"]))
                checked += 1
            else:
                assert row["auc"] is None
    assert checked >= 14
    assert set(told["endpoints"]["upenn-gbm"]) == {"idh1", "mgmt"}
    assert set(told["endpoints"]["ucsf-pdgm"]) == {"idh1", "mgmt", "1p19q", "grade"}
    assert len(told["endpoints"]["cuimc"]) == 10


def test_the_stated_c_index_of_each_site_is_that_of_lifelines(whole):
    study, told = whole
    for site, row in told["survival"].items():
        own = study.plan.patients[study.plan.patients["cohort"] == site]
        days, event, risk = own["os_days"].to_numpy(), own["event"].to_numpy(), own["log_hazard"].to_numpy()
        pairs = [(a, b) for a in range(len(own)) for b in range(len(own)) if event[a] and days[a] < days[b]]
        ahead = [1.0 if risk[a] > risk[b] else 0.5 if risk[a] == risk[b] else 0.0 for a, b in pairs]
        assert row["c_index"] == pytest.approx(np.mean(ahead))
        # lifelines also counts a death and a censoring on one day as a pair.
        same_day = sum(
            event[a] and not event[b] and days[a] == days[b] for a in range(len(own)) for b in range(len(own))
        )
        allowed = 1e-12 + same_day / len(pairs)
        assert abs(row["c_index"] - concordance_index(days, -risk, event)) <= allowed < 0.01
        assert (row["n"], row["n_events"]) == (len(own), event.sum())
        assert row["c_index"] > 0.6


def test_the_expected_auc_is_reached_in_a_large_study(large, shipped, whole):
    """Phi(d / sqrt 2) for two unit normals d apart, within 4 standard errors (Hanley and McNeil 1982)."""
    for name, entry in whole[1]["effects"].items():
        if name == "ki67":
            assert "expected_auc" not in entry
            continue
        expected = 0.5 * (1 + math.erf(abs(shipped["effects"][name]["effect"]) / 2))
        assert entry["expected_auc"] == pytest.approx(expected, abs=1e-12)
        labels = large.patients[name] >= CUT.get(name, 1)
        found = roc_auc_score(labels, large.patients[f"latent_{entry['latent']}"])
        p, n = labels.sum(), (~labels).sum()
        q1, q2 = expected / (2 - expected), 2 * expected**2 / (1 + expected)
        error = math.sqrt(
            (expected * (1 - expected) + (p - 1) * (q1 - expected**2) + (n - 1) * (q2 - expected**2)) / (p * n)
        )
        assert error < 0.02
        assert abs(found - expected) < 4 * error, name


def test_an_endpoint_is_at_chance_on_a_latent_that_is_not_its_own(large):
    gbm = large.patients[large.patients["kind"] == "gbm"]
    assert roc_auc_score(gbm["egfr"], gbm["latent_frontal"]) == pytest.approx(0.5, abs=0.03)
    assert roc_auc_score(gbm["egfr"], gbm["latent_oedema"]) > 0.75


def test_every_patient_scan_and_fault_is_told(whole):
    study, told = whole
    people = study.plan.patients
    assert [(p["cohort"], p["patient"]) for p in told["patients"]] == list(
        zip(people["cohort"], people["patient"], strict=True)
    )
    assert [p["latents"]["size"] for p in told["patients"]] == people["latent_size"].tolist()
    assert [p["log_hazard"] for p in told["patients"]] == people["log_hazard"].tolist()
    assert [s["scan"] for s in told["scans"]] == study.plan.scans["scan"].tolist()
    assert {f["kind"] for f in told["faults"]} == {
        "missing sequence",
        "truncated file",
        "label typo",
        "double patient",
        "longitudinal patient",
    }
    assert told["hazard"] == study.recipe["survival"]


def test_scanners_and_parameters_are_those_of_the_site(whole):
    study, told = whole
    cohorts, scanners = study.recipe["cohorts"], study.recipe["scanners"]
    for row in told["scans"]:
        assert row["scanner"] in cohorts[row["person"].split("/")[0]]["scanners"]
        nominal = study.recipe["protocols"][scanners[row["scanner"]]["protocol"]]
        for sequence, run in row["protocol"].items():
            for key in {"tr", "te", "ti"} & set(nominal[sequence]):
                assert abs(run[key] - nominal[sequence][key]) <= 0.04 * nominal[sequence][key] + 0.5
    used = {row["scanner"] for row in told["scans"] if row["cohort"] == "cuimc"}
    assert len(used) > 1
    by_person = {}
    for row in told["scans"]:
        assert by_person.setdefault(row["person"], row["scanner"]) == row["scanner"]


def test_transforms_are_told_of_scans_on_scanner_grids_only(whole):
    for row in whole[1]["scans"]:
        native = row["cohort"] in ("cuimc", "lumiere")
        assert ("to_t1c" in row) == ("t1c_to_person" in row) == native
        if native:
            np.testing.assert_array_equal(row["to_t1c"]["t1c"], np.eye(4))
            for matrix in row["to_t1c"].values():
                turn = np.array(matrix)[:3, :3]
                np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
            # A person of the template's size lies smaller in the scanner, equally in every direction.
            turn = np.array(row["t1c_to_person"])[:3, :3]
            np.testing.assert_allclose(turn @ turn.T, np.eye(3) / HEAD_SIZE**2, atol=1e-9)


def test_the_verb_writes_the_same_truth_as_strict_json(tmp_path, whole):
    path = tmp_path / "truth.json"
    main(["phantom", "--truth", str(path), "--seed", "0"])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    written = json.loads(path.read_text(), parse_constant=refuse)
    assert written == json.loads(json.dumps(whole[1]))
    first = path.read_bytes()
    main(["phantom", "--truth", str(path), "--seed", "0"])
    assert path.read_bytes() == first


def test_no_other_stage_reads_the_truth():
    """The package never names it outside the phantom; of the rules only its own makes it."""
    package = Path(neurorad.__file__).parent
    root = package.parents[1]
    named = re.compile(r"truth\.json|phantom[./]truth|phantom_truth|rules\.phantom_truth")
    code = [path for path in package.rglob("*.py") if path.parent.name != "phantom"]
    rules = [path for path in (package.parent / "rules").glob("*.smk") if path.name != "phantom.smk"]
    assert len(code) > 20
    assert len(rules) > 5
    assert [str(path) for path in code + rules if named.search(path.read_text(encoding="utf-8"))] == []
    # Of the phantom's modules only the plan is known elsewhere: the check before a run counts its scans.
    importing = re.compile(r"neurorad\.phantom(?:\.(\w+))?|phantom import")
    found = {(path.parent.name, one) for path in code for one in importing.findall(path.read_text(encoding="utf-8"))}
    assert found <= {("doctor", "plan")}
    own = (package.parent / "rules" / "phantom.smk").read_text(encoding="utf-8")
    assert named.search(own), "the pattern finds what it looks for"
    assert own.count("truth.json") == 1
    assert re.findall(r".*truth\.json.*", (root / "Snakefile").read_text(encoding="utf-8")) == [
        '        ["results/phantom/truth.json"] if "phantom" in config else [],'
    ]
