"""Who is who: names of one patient joined across cohorts, and the pretraining manifest that no test patient is in.

A patient is a connected component (union-find) of names: (cohort, patient) as the releases spell them, aliases
from the releases' own tables, and pairs from crosswalk files. Every patient with a scan in a test cohort leaves
pretraining with all time points; so does every patient of whom a scan looks like a test scan.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neurorad.cohorts.crosswalks import Crosswalk, Name, name_of
from neurorad.cohorts.doubles import double_scans
from neurorad.cohorts.groups import later_time_points
from neurorad.likeness import residuals

ALIKE, DOUBTFUL = 0.7, 0.55
"""Likeness from which two scans are taken for one patient's, and from which they are listed to be looked at.

Measured with volumes of 3 mm: the phantom's patient under two ids (other noise, field and TR) 0.90, the most alike of 1,645
pairs of different patients 0.58. With six patients of BraTS 2021 and volumes of 2 mm, each against a copy that went through
the whole pipeline again: on another grid (turned by up to 6 degrees, moved by up to 8 mm) with noise 0.94 to 0.99; resampled
to slices of 4 mm 0.91 to 0.97; with a bias of 30 per cent and a skull strip 3 mm further in 0.79 to 0.90; different patients
at most 0.21. Seven pretraining scans of 4 mm are enough to tell: the phantom's patient 0.80, others at most 0.20.
"""
MANIFEST_COLUMNS = ("cohort", "scan", "patient", "group", "volume", "sha256")

MIN_KNOWN, MISSED = 3, 0.1
"""From so many known pairs of a test cohort on, its `ALIKE` is lowered until at most this share of them is missed."""

DOCUMENTED_OVERLAPS = (
    ("brats-gli-pre", "upenn-gbm", "BraTS 2021 mapping to TCIA: 447 UPENN-GBM cases"),
    ("brats-gli-pre", "ucsf-pdgm", "BraTS 2021 mapping to TCIA: 299 UCSF-PDGM cases"),
    ("brats-gli-post", "ucsf-pdgm", "62 UCSF-PDGM patients are in UCSF-ALPTDG, part of BraTS 2024 post-treatment"),
    ("brats-gli-post", "mu-glioma-post", "about 400 cases of BraTS 2024 post-treatment are MU-Glioma-Post"),
    ("brats-gli-post", "upenn-gbm", "follow-ups of BraTS 2021 patients"),
)
"""Pairs of releases that are known to share patients, and who says so."""

OWN_TABLES = {"ucsf-pdgm": "brats-gli-pre"}
"""Releases whose own table says which of their patients are in another release (the column `BraTS21 ID`)."""


def components(pairs: Iterable[tuple[Name, Name]], names: Iterable[Name]) -> dict[Name, Name]:
    """Union-find: each name to the smallest name of its component."""
    parent: dict[Name, Name] = {name: name for name in names}

    def root(name: Name) -> Name:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {name: root(name) for name in parent}


def audit(
    scans: pd.DataFrame,
    roles: dict[str, list[str]],
    releases: dict[str, str],
    aliases: pd.DataFrame,
    crosswalks: Sequence[Crosswalk],
    thumbnails: np.ndarray | None = None,
    max_scans: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Decide which scans may be pretrained on.

    Args:
        scans: every usable scan: `cohort patient scan session group volume sha256` (sha256 of the stored voxels).
        roles: cohort -> its roles, `pretrain`, `test` or both.
        releases: cohort -> release name.
        aliases: `cohort patient alias`.
        crosswalks: which names are one patient.
        thumbnails: `[n, 4, ...]`, one a row of `scans`; without them nothing is compared by its looks.
        max_scans: time points of a person that are kept, from the first; None: all.

    Returns:
        The manifest (`cohort scan patient group volume sha256`, sorted; `patient` is one name a person), the scans removed
        (`cohort patient scan stage reason`), the test patients (`cohort patient person status why`; `clean`: no
        overlap of the cohort is unproven, and no scan to pretrain on looks doubtful), and the audit as plain data.
    """
    scans = scans.reset_index(drop=True)
    scans["name"] = [name_of(c, p) for c, p in zip(scans["cohort"], scans["patient"], strict=True)]
    pairs = [
        (name_of(cohort, patient), name_of("alias", alias))
        for cohort, patient, alias in aliases[["cohort", "patient", "alias"]].itertuples(index=False)
    ]
    pairs += [pair for crosswalk in crosswalks for pair in crosswalk.pairs]
    scans["person"] = scans["name"].map(components(pairs, scans["name"]))

    is_test = np.array(["test" in roles[cohort] for cohort in scans["cohort"]], bool)
    is_train = np.array(["pretrain" in roles[cohort] for cohort in scans["cohort"]], bool)
    tested, trained = scans[is_test], scans[is_train]
    alike, alike_from = look_alikes(scans, is_train, is_test, thumbnails)
    reasons = _reasons(trained, tested, alike)
    out = _among(trained, reasons)
    kept = trained[~out]
    removed = [(*row, "leakage", reasons[row[0], row[2]]) for row in _keyed(trained[out])]
    later = kept[later_time_points(kept, max_scans)] if max_scans else kept.iloc[:0]
    removed += [(*row, "repeats", f"beyond the first {max_scans} scans of its patient") for row in _keyed(later)]
    manifest = kept.drop(index=later.index)

    own_tables = {releases[cohort] for cohort in aliases["cohort"].unique()} & set(OWN_TABLES)
    open_overlaps = unproven(roles, releases, own_tables, crosswalks)
    stamps = [f"no crosswalk for {a} x {b}" for a, b, _ in open_overlaps]
    unlinked = unresolved(manifest, roles, releases, own_tables, crosswalks)
    stamps += [
        f"{len(names)} pretraining patients are of {release} under ids that nobody gives"
        for release, names in unlinked.items()
    ]
    doubles = double_scans(manifest, None if thumbnails is None else thumbnails[manifest.index], ALIKE)
    doubtful = alike[_among(alike, set(zip(manifest["cohort"], manifest["scan"], strict=True)))]
    report: dict[str, Any] = {
        "stamp": f"LEAKAGE NOT EXCLUDED: {'; '.join(stamps)}" if stamps else "",
        "unproven": [{"between": [a, b], "why": why} for a, b, why in open_overlaps],
        "resolved": int(trained[trained["person"].isin(set(tested["person"]))]["person"].nunique()),
        "unresolved": unlinked,
        "overlaps": [
            {"cohort": c, "patient": p, "scan": s, "reason": reason}
            for c, p, s, stage, reason in sorted(removed)
            if stage == "leakage"
        ],
        "likeness": {
            "compared": thumbnails is not None,
            "alike_from": alike_from,
            "doubtful_from": DOUBTFUL,
            "pairs": _told_alike(alike),
        },
        "scans": {
            "pretraining": len(manifest),
            "removed": len(removed) - len(later),
            "later_time_points": len(later),
            "test": len(tested),
            "counted_twice": _counted_twice(doubles),
        },
        "double_scans": _told_doubles(doubles),
        "patients": {"pretraining": manifest["person"].nunique(), "test": tested["person"].nunique()},
    }
    test_patients = _test_patients(tested, releases, open_overlaps, unlinked, doubtful)
    report["patients"]["clean"] = int((test_patients["status"] == "clean").sum())
    # A name that only an alias or a test scan has is no name here: a new test cohort would change it.
    manifest = manifest.assign(patient=manifest.groupby("person")["name"].transform("min"))
    return (
        manifest[list(MANIFEST_COLUMNS)].sort_values(["cohort", "scan"], ignore_index=True),
        pd.DataFrame(sorted(removed), columns=["cohort", "patient", "scan", "stage", "reason"]),
        test_patients,
        report,
    )


def _told_alike(alike: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "scans": [f"{r.cohort} {r.scan}", f"{r.test_cohort} {r.test_scan}"],
            "likeness": round(r.likeness, 3),
            "verdict": "known" if r.known else "same" if r.same else "doubtful",
        }
        for r in alike.itertuples(index=False)
    ]


def _told_doubles(doubles: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "scans": [f"{r.cohort} {r.scan}", f"{r.other_cohort} {r.other_scan}"],
            "why": "same voxels" if r.same_voxels else f"looks the same (correlation {r.likeness:.2f})",
            "ids": "one patient" if r.same_patient else "not linked",
        }
        for r in doubles.itertuples(index=False)
    ]


def _counted_twice(doubles: pd.DataFrame) -> int:
    """Scans that the manifest would have fewer if every exam stood in it once."""
    pairs = [(f"{r.cohort}/{r.scan}", f"{r.other_cohort}/{r.other_scan}") for r in doubles.itertuples(index=False)]
    exams = components(pairs, ())
    return len(exams) - len(set(exams.values()))


def _among(table: pd.DataFrame, keys: Collection[tuple[str, str]]) -> np.ndarray:
    """Which rows' cohort and scan are among `keys`; of an empty table none (as a list, that would choose columns)."""
    return np.array([key in keys for key in zip(table["cohort"], table["scan"], strict=True)], bool)


def _keyed(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(table[["cohort", "patient", "scan"]].itertuples(index=False, name=None))


def _reasons(trained: pd.DataFrame, tested: pd.DataFrame, alike: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Why a pretraining scan may not be pretrained on, by cohort and scan."""
    by_person: dict[str, set[str]] = defaultdict(set)
    for row in tested.itertuples(index=False):
        by_person[row.person].add(f"{row.cohort} {row.patient}")
    by_voxels = {row.sha256: f"{row.cohort} {row.scan}" for row in tested.itertuples(index=False)}
    by_looks: dict[tuple[str, str], str] = {}
    for r in alike[alike["same"]].itertuples(index=False):  # the most alike first
        by_looks.setdefault((r.cohort, r.scan), f"{r.test_cohort} {r.test_scan} (correlation {r.likeness:.2f}, test)")
    reasons, because = {}, {}
    for row in trained.itertuples(index=False):
        if row.person in by_person:
            reasons[row.cohort, row.scan] = f"same patient as {', '.join(sorted(by_person[row.person]))} (test)"
        elif row.sha256 in by_voxels:
            because[row.person] = f"same voxels as {by_voxels[row.sha256]} (test)"
        elif (row.cohort, row.scan) in by_looks:
            because.setdefault(row.person, f"looks the same as {by_looks[row.cohort, row.scan]}")
    # What a scan betrays holds for all time points of the patient.
    for row in trained.itertuples(index=False):
        if row.person in because:
            reasons[row.cohort, row.scan] = because[row.person]
    return reasons


def look_alikes(
    scans: pd.DataFrame, is_train: np.ndarray, is_test: np.ndarray, thumbnails: np.ndarray | None
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Pairs of a pretraining and a test scan with a likeness of at least `DOUBTFUL`, the most alike first.

    What all scans have in common is taken from the pretraining scans alone, and each test cohort has a threshold of its
    own, so that a new test cohort changes nothing that is decided on the others.

    Returns:
        `cohort scan test_cohort test_scan likeness known same`: `known`, the ids say that it is one person; `same`, the
        likeness reaches the test cohort's threshold. And for each test cohort its threshold (`calibrated`).
    """
    columns = ["cohort", "scan", "test_cohort", "test_scan", "likeness", "known", "same"]
    train, test = np.flatnonzero(is_train), np.flatnonzero(is_test)
    if thumbnails is None or not len(train) or not len(test):
        return pd.DataFrame(columns=columns).astype({"known": bool, "same": bool}), {}
    mean = thumbnails[train].mean(axis=0, dtype=np.float32)
    tested = residuals(thumbnails[test], mean)
    person, cohort, scan = (scans[name].to_numpy() for name in ("person", "cohort", "scan"))
    rows: list[tuple[int, int, float]] = []
    best: dict[str, dict[str, float]] = {name: {} for name in sorted(set(cohort[test]))}
    # In blocks: 7,400 x 1,600 thumbnails fit in memory, their float32 copies and products need not.
    for start in range(0, len(train), 512):
        block = train[start : start + 512]
        found = residuals(thumbnails[block], mean) @ tested.T
        apart = cohort[block][:, None] != cohort[test][None, :]
        for i, k in np.argwhere(apart & (person[block][:, None] == person[test][None, :])):
            mine = best[cohort[test[k]]]
            mine[person[test[k]]] = max(mine.get(person[test[k]], -1.0), float(found[i, k]))
        rows += [(block[i], test[k], float(found[i, k])) for i, k in np.argwhere(apart & (found >= DOUBTFUL))]
    alike_from = {name: calibrated(list(known.values())) for name, known in best.items()}
    pairs = pd.DataFrame(
        [
            (cohort[a], scan[a], cohort[b], scan[b], r, person[a] == person[b], r >= alike_from[cohort[b]]["likeness"])
            for a, b, r in rows
        ],
        columns=columns,
    ).astype({"known": bool, "same": bool})
    return pairs.sort_values(
        ["likeness", "cohort", "scan", "test_cohort", "test_scan"], ascending=[False, *[True] * 4], ignore_index=True
    ), alike_from


def calibrated(known: Sequence[float]) -> dict[str, Any]:
    """From which likeness on two scans are one person's, given the likeness of each person who is known to be on both sides.

    With at least `MIN_KNOWN` of them the threshold is `ALIKE`, lowered until at most the share `MISSED` lies below it, but
    never under `DOUBTFUL`, where different patients begin. It is not raised: a copy that was made in another way may look
    less alike than those that are known.

    Returns:
        `likeness` in [-1, 1], `how`: `stated` or `calibrated`, `known` and of these `found` by looks alone.
    """
    enough = len(known) >= MIN_KNOWN
    threshold = min(ALIKE, max(DOUBTFUL, float(np.quantile(known, MISSED, method="lower")))) if enough else ALIKE
    return {
        "likeness": threshold,
        "how": "calibrated" if enough else "stated",
        "known": len(known),
        "found": sum(one >= threshold for one in known),
    }


def unresolved(
    manifest: pd.DataFrame,
    roles: dict[str, list[str]],
    releases: dict[str, str],
    own_tables: Collection[str],
    crosswalks: Sequence[Crosswalk],
) -> dict[str, list[Name]]:
    """Tested release -> patients of the manifest that a crosswalk places there without an id.

    A release whose own table is at hand names all its patients who are elsewhere; the others are not of that release.
    """
    open_releases = {releases[cohort] for cohort, role in roles.items() if "test" in role} - set(own_tables)
    placed = dict(entry for crosswalk in crosswalks for entry in crosswalk.unresolved)
    found: dict[str, list[Name]] = defaultdict(list)
    for name in sorted(set(manifest["name"]) & set(placed)):
        if placed[name] in open_releases:
            found[placed[name]].append(name)
    return dict(sorted(found.items()))


def _test_patients(
    tested: pd.DataFrame,
    releases: dict[str, str],
    open_overlaps: list[tuple[str, str, str]],
    unlinked: dict[str, list[Name]],
    doubtful: pd.DataFrame,
) -> pd.DataFrame:
    """Which test patients are provably in no pretraining scan."""
    why = {test: f"no crosswalk for {train} x {test}" for train, test, _ in open_overlaps}
    why |= dict.fromkeys(unlinked, "pretraining holds patients of this release under unknown ids")
    people = tested[["cohort", "patient", "person"]].drop_duplicates(["cohort", "patient"])
    scanned = dict(zip(zip(tested["cohort"], tested["scan"], strict=True), tested["patient"], strict=True))
    resembles: dict[tuple[str, str], str] = {}
    for r in doubtful.itertuples(index=False):
        patient = scanned[r.test_cohort, r.test_scan]
        resembles.setdefault((r.test_cohort, patient), f"resembles {r.cohort} {r.scan} (correlation {r.likeness:.2f})")
    keys = zip(people["cohort"], people["patient"], strict=True)
    looks = pd.Series([resembles.get(key, "") for key in keys], people.index, dtype=object)
    reasons = people["cohort"].map(releases).map(why).fillna(looks)
    people = people.assign(status=np.where(reasons == "", "clean", "unproven"), why=reasons)
    return people.sort_values(["cohort", "patient"], ignore_index=True)


def unproven(
    roles: dict[str, list[str]],
    releases: dict[str, str],
    own_tables: Collection[str],
    crosswalks: Sequence[Crosswalk],
) -> list[tuple[str, str, str]]:
    """Documented overlaps between a pretraining and a test cohort that nothing at hand resolves."""
    covered = [set(crosswalk.covers) for crosswalk in crosswalks]
    found = []
    for one, other, why in DOCUMENTED_OVERLAPS:
        for train, test in ((one, other), (other, one)):
            trains = any(releases[c] == train and "pretrain" in role for c, role in roles.items())
            tests = any(releases[c] == test and "test" in role for c, role in roles.items())
            own_table = other in own_tables and OWN_TABLES[other] == one
            if trains and tests and not own_table and not any({one, other} <= cover for cover in covered):
                found.append((train, test, why))
    return found
