"""What DRO is robust over: a group for each scan to pretrain on, and how many time points of a patient are kept."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neurorad.problems import InputError

COLUMN = "column:"


def group_of(
    scans: pd.DataFrame, groups: str, diseases: Mapping[str, str], tables: Sequence[pd.DataFrame]
) -> pd.Series:
    """Group of each scan, "" where nothing is known.

    Args:
        scans: `cohort scan patient`.
        groups: `cohort`, `disease` (of the cohort), `cohort_x_disease` or `column:NAME`.
        diseases: cohort -> GLI, MEN, MET or PED.
        tables: for `column:NAME`, tables of scans (`cohort scan ...`) and of patients (`cohort patient ...`), as text. A
            scan's own value counts before its patient's.

    Raises:
        InputError: no table has the column.
    """
    cohort, disease = scans["cohort"], scans["cohort"].map(diseases)
    if not groups.startswith(COLUMN):
        return {"cohort": cohort, "disease": disease, "cohort_x_disease": cohort + " " + disease}[groups]
    name = groups.removeprefix(COLUMN)
    having = [table for table in tables if name in table]
    if not having:
        known = sorted({column for table in tables for column in table})
        raise InputError(f"pretraining: groups: no table has a column {name!r}; there are {', '.join(known)}")
    found = pd.Series("", index=scans.index)
    for key in ("patient", "scan"):  # the scan's last: it overwrites
        parts = [table for table in having if (key == "scan") == ("scan" in table)]
        if parts:
            told = pd.concat(parts).fillna("").drop_duplicates(["cohort", key]).set_index(["cohort", key])[name]
            values = told.reindex(pd.MultiIndex.from_frame(scans[["cohort", key]])).fillna("").astype(str).to_numpy()
            found = found.mask(values != "", values)
    return found


def merge_tiny(
    manifest: pd.DataFrame, diseases: Mapping[str, str], min_patients: int, groups: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join groups of fewer than `min_patients` patients, over which a worst-group loss would follow single patients.

    The tiny groups of one disease become `other DISEASE`. If that is still tiny, it joins the largest group of its disease;
    where there is none, `other`. A group with several diseases counts as the one that most of its patients have.

    Args:
        manifest: `cohort scan patient group` of the scans to pretrain on; `patient` is one name a person.
        groups: the config's `groups`, for the message.

    Returns:
        The manifest with its groups, and for the audit `patients` of each group and what was `merged` into what.

    Raises:
        InputError: a scan without a group.
    """
    empty = manifest[manifest["group"].fillna("") == ""]
    if len(empty):
        one = empty.iloc[0]
        raise InputError(
            f"pretraining: groups: {groups}: scan {one['scan']} of {one['cohort']} has no value (nor have {len(empty) - 1} "
            "others); fill the cohort's table, or choose other groups"
        )
    people = manifest.assign(disease=manifest["cohort"].map(diseases)).drop_duplicates(["group", "patient"])
    size = people.groupby("group")["patient"].nunique()
    disease = people.groupby("group")["disease"].agg(lambda each: each.value_counts().sort_index().idxmax())
    tiny = sorted(size.index[size < min_patients])
    merged: dict[str, str] = {}
    for family in sorted(set(disease[tiny])):
        mine = [group for group in tiny if disease[group] == family]
        joined = people[people["group"].isin(mine)]["patient"].nunique()
        large = size[[group for group in size.index if group not in tiny and disease[group] == family]]
        if joined >= min_patients:
            target = f"other {family}"
        else:
            target = "other" if large.empty else large.sort_index().idxmax()
        merged |= dict.fromkeys(mine, target)
    if len(merged) == 1 and set(merged.values()) == {"other"}:
        merged = {}  # nothing to join it with: it keeps its name
    manifest = manifest.assign(group=manifest["group"].replace(merged))
    counts = manifest.groupby("group")["patient"].nunique()
    return manifest, {"by": groups, "patients": {g: int(n) for g, n in counts.items()}, "merged": merged}


def later_time_points(scans: pd.DataFrame, most: int) -> pd.Series:
    """True for the scans of a person after the first `most`, by session (numbers by value), then cohort and scan.

    `scans`: `cohort scan session person`. Sessions of private cohorts are pseudonyms, so which are first there is arbitrary,
    but always the same.
    """
    padded = scans["session"].fillna("").map(lambda text: re.sub(r"\d+", lambda number: number[0].zfill(9), str(text)))
    order = scans.assign(session=padded).sort_values(["person", "session", "cohort", "scan"])
    return (order.groupby("person").cumcount() >= most).reindex(scans.index)
