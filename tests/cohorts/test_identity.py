"""No patient on both sides, whatever the release calls him."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorad.cohorts.crosswalks import Crosswalk
from neurorad.cohorts.identity import ALIKE, DOUBTFUL, audit, calibrated
from neurorad.cohorts.label_tables import read_labels
from neurorad.cohorts.labels import aliases

ROLES = {"gli": ["pretrain"], "mu": ["pretrain"], "ucsf": ["test"]}
RELEASES = {"gli": "brats-gli-pre", "mu": "mu-glioma-post", "ucsf": "ucsf-pdgm", "upenn": "upenn-gbm"}


def scans(*rows):
    table = pd.DataFrame(rows, columns=["cohort", "patient", "scan", "sha256"])
    return table.assign(session="", volume=table["scan"], group=table["cohort"])


def run(table, aliases=(), crosswalks=(), thumbnails=None, max_scans=None, roles=ROLES):
    named = pd.DataFrame(aliases, columns=["cohort", "patient", "alias"])
    return audit(table, roles, RELEASES, named, crosswalks, thumbnails, max_scans)


def test_a_study_with_nothing_to_pretrain_on_has_an_empty_manifest_with_its_columns():
    alone = scans(("ucsf", "UCSF-PDGM-0004", "u", "d"))
    manifest, removed, patients, report = run(alone, roles={"ucsf": ["test"]})
    assert list(manifest.columns) == ["cohort", "scan", "patient", "group", "volume", "sha256"]
    assert manifest.empty
    assert removed.empty
    assert patients["status"].tolist() == ["clean"]
    assert report["scans"]["test"] == 1


def test_every_time_point_of_an_aliased_patient_leaves_pretraining():
    table = scans(
        ("gli", "BraTS-GLI-00097", "g-0", "a"),
        ("gli", "BraTS-GLI-00097", "g-1", "b"),
        ("gli", "BraTS-GLI-00001", "g-2", "c"),
        ("ucsf", "UCSF-PDGM-0004", "u", "d"),
    )
    manifest, removed, _, report = run(table, [("ucsf", "UCSF-PDGM-0004", "BraTS2021_00097")])
    assert manifest["scan"].tolist() == ["g-2"]
    assert removed["scan"].tolist() == ["g-0", "g-1"]
    assert report["stamp"] == ""


def test_identity_is_transitive_through_crosswalks():
    table = scans(("mu", "M1", "m", "a"), ("mu", "M2", "m2", "b"), ("ucsf", "U1", "u", "c"))
    pairs = [("mu/M1", "elsewhere/7"), ("elsewhere/7", "ucsf/U1")]
    manifest, *_ = run(table, crosswalks=[Crosswalk(tuple(pairs), ())])
    assert manifest["scan"].tolist() == ["m2"]


def test_equal_voxels_under_unlinked_ids_are_caught():
    manifest, removed, *_ = run(scans(("mu", "M1", "m", "same"), ("ucsf", "U1", "u", "same")))
    assert manifest.empty
    assert "same voxels" in removed["reason"].item()


def test_a_documented_overlap_without_a_crosswalk_is_stamped():
    table = scans(("gli", "BraTS-GLI-00001", "g", "a"), ("ucsf", "U1", "u", "b"))
    assert run(table)[3]["stamp"].startswith("LEAKAGE NOT EXCLUDED")
    assert run(table)[2]["status"].tolist() == ["unproven"]
    covered = [Crosswalk((), ("brats-gli-pre", "ucsf-pdgm"))]
    assert run(table, crosswalks=covered)[3]["stamp"] == ""
    assert run(table, crosswalks=covered)[2]["status"].tolist() == ["clean"]


def test_a_test_cohort_that_overlaps_nothing_leaves_the_manifest_as_it_was():
    table = scans(("mu", "M1", "m", "a"), ("ucsf", "U1", "u", "b"))
    more = pd.concat([table, scans(("ucsf", "U2", "u2", "c"))], ignore_index=True)
    pd.testing.assert_frame_equal(run(table)[0], run(more)[0])


def test_a_pretraining_patient_whom_a_mapping_places_at_a_tested_site_without_an_id_is_counted_in_the_stamp():
    table = scans(("gli", "BraTS-GLI-00001", "g", "a"), ("gli", "BraTS-GLI-00002", "h", "b"), ("ucsf", "U1", "u", "c"))
    unlinked = (("brats-gli/00002", "ucsf-pdgm"), ("brats-gli/00009", "ucsf-pdgm"), ("brats-gli/00001", "upenn-gbm"))
    mapping = Crosswalk((), ("brats-gli-pre", "ucsf-pdgm", "upenn-gbm"), unlinked)
    manifest, _, patients, report = run(table, crosswalks=[mapping])
    assert len(manifest) == 2
    assert report["unresolved"] == {"ucsf-pdgm": ["brats-gli/00002"]}
    assert "1 pretraining patients are of ucsf-pdgm under ids that nobody gives" in report["stamp"]
    assert patients["status"].tolist() == ["unproven"]
    # The release's own table names all its patients who are in BraTS: those who are not named are not of that release.
    _, _, patients, report = run(table, [("ucsf", "U1", "BraTS2021_00500")], [mapping])
    assert report["unresolved"] == {}
    assert report["stamp"] == ""
    assert patients["status"].tolist() == ["clean"]


def brain(seed: int, size: int = 24) -> np.ndarray:
    """A thumbnail: what all brains have in common, what is this patient's own, and background."""
    common = np.random.default_rng(99).normal(0, 1, (4, size, size, size))
    own = np.random.default_rng(seed).normal(0, 0.5, (4, size, size, size))
    inside = np.zeros((size, size, size), bool)
    inside[4:-4, 4:-4, 4:-4] = True
    return np.where(inside, common + own, 0).astype(np.float16)


def again(picture: np.ndarray, seed: int) -> np.ndarray:
    """The same exam, noisier and in another scale of grey."""
    noise = np.random.default_rng(seed).normal(0, 0.25, picture.shape)
    return np.where(picture != 0, 1.1 * picture.astype(np.float32) + noise + 0.1, 0).astype(np.float16)


def test_an_exam_under_ids_that_nothing_links_is_found_by_its_looks_with_all_time_points_of_its_patient():
    people = [("mu", f"M{i}", f"m{i}", f"a{i}") for i in range(8)] + [("mu", "M3", "m3-later", "b")]
    table = scans(*people, ("ucsf", "U1", "u1", "c"), ("ucsf", "U2", "u2", "d"))
    pictures = np.stack([*(brain(i) for i in range(8)), brain(50), again(brain(3), 1), brain(77)])
    manifest, removed, _, report = run(table, thumbnails=pictures)
    assert removed["scan"].tolist() == ["m3", "m3-later"]
    (pair,) = report["likeness"]["pairs"]
    assert pair["scans"] == ["mu m3", "ucsf u1"]
    assert pair["likeness"] >= ALIKE
    assert pair["verdict"] == "same"
    (reason,) = set(removed["reason"])
    written = re.fullmatch(r"looks the same as ucsf u1 \(correlation (\d\.\d\d), test\)", reason)
    assert float(written[1]) == pytest.approx(pair["likeness"], abs=0.006)
    assert len(manifest) == 7
    assert run(table)[1].empty


def test_a_scan_that_looks_doubtful_stays_and_its_test_patient_is_unproven():
    people = [("mu", f"M{i}", f"m{i}", f"a{i}") for i in range(8)]
    table = scans(*people, ("ucsf", "U1", "u1", "c"), ("ucsf", "U2", "u2", "d"))
    between = (0.5 * brain(3).astype(np.float32) + 0.5 * brain(60).astype(np.float32)).astype(np.float16)
    covered = [Crosswalk((), ("brats-gli-pre", "ucsf-pdgm"))]
    pictures = np.stack([*(brain(i) for i in range(8)), between, brain(77)])
    manifest, removed, patients, report = run(table, crosswalks=covered, thumbnails=pictures)
    (pair,) = report["likeness"]["pairs"]
    assert DOUBTFUL <= pair["likeness"] < ALIKE
    assert pair["verdict"] == "doubtful"
    assert len(manifest) == 8
    assert removed.empty
    assert patients["status"].tolist() == ["unproven", "clean"]
    assert patients["why"].tolist() == [f"resembles mu m3 (correlation {pair['likeness']:.2f})", ""]


def test_known_pairs_lower_the_threshold_of_their_own_test_cohort_only():
    """Ten of twelve copies of UCSF are linked by id; an eleventh as unlike as they are is then found by its looks."""
    people = [("mu", f"M{i}", f"m{i}", f"a{i}") for i in range(12)]
    tests = [("ucsf", f"U{i}", f"u{i}", f"c{i}") for i in range(11)] + [("upenn", "P11", "p11", "z")]
    table = scans(*people, *tests)
    pictures = [brain(i).astype(np.float32) for i in range(12)]
    copies = [0.47 * pictures[i] + 0.53 * brain(100 + i) for i in range(12)]
    pictures = np.stack([*pictures, *copies]).astype(np.float16)
    links = [Crosswalk(tuple((f"mu/M{i}", f"ucsf/U{i}") for i in range(10)), ())]
    roles = {**ROLES, "upenn": ["test"]}
    manifest, removed, _, report = run(table, crosswalks=links, thumbnails=pictures, roles=roles)
    found = report["likeness"]["alike_from"]
    assert (found["ucsf"]["how"], found["ucsf"]["known"]) == ("calibrated", 10)
    assert found["ucsf"]["found"] >= 9
    assert DOUBTFUL <= found["ucsf"]["likeness"] < ALIKE
    assert found["upenn"] == {"likeness": ALIKE, "how": "stated", "known": 0, "found": 0}
    assert removed["scan"].tolist() == sorted(f"m{i}" for i in range(11))
    assert manifest["scan"].tolist() == ["m11"]
    assert run(table, thumbnails=pictures, roles=roles)[1].empty
    # The next test cohort, with known pairs of its own, decides nothing here.
    alone = run(table[table["cohort"] != "upenn"], crosswalks=links, thumbnails=pictures[:-1])
    assert alone[0].to_csv() == manifest.to_csv()


@given(st.lists(st.floats(-1, 1), max_size=40))
def test_a_threshold_is_never_raised_nor_lowered_to_where_different_patients_begin(known):
    found = calibrated(known)
    assert DOUBTFUL <= found["likeness"] <= ALIKE
    assert found["found"] == sum(one >= found["likeness"] for one in known)
    if len(known) < 3:
        assert found["likeness"] == ALIKE
    elif min(known) > DOUBTFUL:
        assert found["found"] >= 0.9 * len(known)


def test_a_new_test_cohort_renames_no_patient_of_the_manifest():
    table = scans(("mu", "M1", "m", "a"), ("ucsf", "U1", "u", "b"))
    # UPENN's table knows M1 under a name that sorts first, but has no scan of that patient.
    more = pd.concat([table, scans(("upenn", "P2", "p", "c"))], ignore_index=True)
    aliases = [("upenn", "P1", "aaa")]
    links = [Crosswalk((("alias/aaa", "mu/M1"),), ())]
    roles = {**ROLES, "upenn": ["test"]}
    assert run(table)[0].to_csv() == run(more, aliases, links, roles=roles)[0].to_csv()


def test_only_the_first_time_points_of_a_person_are_kept_whatever_the_order_and_the_cohort():
    rows = [("mu", "M1", f"m-{t}", f"a{t}", f"Timepoint_{t}") for t in (10, 2, 1)]
    rows += [("gli", "BraTS-GLI-00009", "g", "g", "100"), ("ucsf", "U1", "u", "b", ""), ("mu", "M2", "n", "c", "")]
    table = pd.DataFrame(rows, columns=["cohort", "patient", "scan", "sha256", "session"])
    table = table.assign(volume=table["scan"], group=table["cohort"])
    links = [Crosswalk((("mu/M1", "brats-gli/00009"),), ("brats-gli-pre", "ucsf-pdgm"))]
    manifest, removed, _, report = run(table, crosswalks=links, max_scans=3)
    assert manifest["scan"].tolist() == ["g", "m-1", "m-2", "n"]
    assert removed.to_numpy().tolist() == [["mu", "M1", "m-10", "repeats", "beyond the first 3 scans of its patient"]]
    counted = {"pretraining": 4, "removed": 0, "later_time_points": 1, "test": 1, "counted_twice": 0}
    assert report["scans"] == counted
    shuffled = run(table.iloc[::-1].reset_index(drop=True), crosswalks=links, max_scans=3)
    assert shuffled[0].to_csv() == manifest.to_csv()
    assert len(run(table, crosswalks=links)[0]) == 5


def test_a_new_test_cohort_changes_no_byte_of_the_manifest_and_no_likeness(tmp_path):
    table = scans(*(("mu", f"M{i}", f"m{i}", f"a{i}") for i in range(6)), ("ucsf", "U1", "u1", "c"))
    pictures = np.stack([*(brain(i) for i in range(6)), again(brain(2), 1)])
    more = pd.concat([table, scans(("ucsf", "U9", "u9", "z"))], ignore_index=True)
    before, after = run(table, thumbnails=pictures), run(more, thumbnails=np.concatenate([pictures, [brain(60)]]))
    assert before[0].to_csv() == after[0].to_csv()
    assert before[3]["likeness"]["pairs"] == after[3]["likeness"]["pairs"]


def test_the_real_table_of_ucsf_links_its_exams_to_brats_2021(shared):
    raw, rules = read_labels(shared / "tables" / "UCSF-PDGM-metadata_v5.csv", "ucsf-pdgm")
    linked = aliases(raw, rules, "ucsf")
    assert raw.loc[raw["BraTS21 ID"] != "", "BraTS21 Segmentation Cohort"].value_counts().to_dict() == {
        "Training": 262,
        "Validation": 36,
    }
    assert len(linked) == linked["alias"].nunique() == 298
    twice = linked.groupby("patient")["alias"].agg(sorted)
    assert twice[twice.map(len) > 1].to_dict() == {
        "UCSF-PDGM-0429": ["BraTS2021_00557", "BraTS2021_00639"],
        "UCSF-PDGM-0433": ["BraTS2021_00626", "BraTS2021_00758"],
    }
    # The paper's set-up: every BraTS case to pretrain on, UCSF to test on.
    table = scans(
        *(("gli", f"BraTS-GLI-{alias[-5:]}", alias, f"g{alias}") for alias in linked["alias"]),
        ("gli", "BraTS-GLI-99999", "nobody", "x"),
        *(("ucsf", patient, f"u{patient}", f"u{patient}") for patient in linked["patient"].unique()),
    )
    manifest, removed, _, report = audit(table, ROLES, RELEASES, linked, ())
    assert manifest["scan"].tolist() == ["nobody"]
    assert len(removed) == 298
    assert report["stamp"] == ""
    nothing = linked.iloc[:0]
    assert audit(table, ROLES, RELEASES, nothing, ())[3]["stamp"].startswith("LEAKAGE NOT EXCLUDED")


def test_the_setup_of_the_paper_without_any_crosswalk_is_stamped_and_no_test_patient_is_clean(shared):
    ucsf, _ = read_labels(shared / "tables" / "UCSF-PDGM-metadata_v5.csv", "ucsf-pdgm")
    upenn, _ = read_labels(shared / "tables" / "UPENN-GBM_clinical_info_v2.1.csv", "upenn-gbm")
    table = scans(
        *(("gli", f"BraTS-GLI-{n:05d}", f"g{n}", f"g{n}") for n in range(1251)),
        *(("mu", f"PatientID_{n:04d}", f"m{n}", f"m{n}") for n in range(203)),
        *(("ucsf", name, f"s{name}", f"s{name}") for name in ucsf["ID"]),
        *(("upenn", name[:15], f"s{name}", f"s{name}") for name in upenn["ID"]),
    )
    roles = {**ROLES, "upenn": ["test"]}
    manifest, removed, patients, report = run(table, roles=roles)
    assert len(manifest) == 1251 + 203
    assert removed.empty
    assert report["stamp"].startswith("LEAKAGE NOT EXCLUDED: no crosswalk for brats-gli-pre x upenn-gbm")
    assert "brats-gli-pre x ucsf-pdgm" in report["stamp"]
    assert set(patients["status"]) == {"unproven"}
    assert len(patients) == 501 + 630
