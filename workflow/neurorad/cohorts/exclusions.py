"""Which scans were left out, where and why: one row a scan, and one a patient whose table row has no scan."""

import pandas as pd

EXCLUDED_COLUMNS = ["cohort", "patient", "scan", "stage", "reason"]


def excluded(
    scans: pd.DataFrame, volumes: pd.DataFrame, labels: pd.DataFrame, removed: pd.DataFrame, manifest: pd.DataFrame
) -> pd.DataFrame:
    """One cohort's rows of `EXCLUDED_COLUMNS`, sorted.

    Args:
        scans: `cohort patient scan problem`; a problem leaves the scan out at `inventory`.
        volumes: `cohort patient scan status reason`; one that was `failed` by eye leaves at `qc`, one of another status
            than ok at `volume`.
        labels: patients whose labels are unusable, `scan` empty: each of their scans is left out at `labels`, unless it
            is pretrained on, which needs no label. A patient of the table without scans keeps an empty `scan`.
        removed: scans that the leakage audit removed, of any cohort.
        manifest: the scans that are pretrained on, of any cohort.
    """
    cohorts = set(scans["cohort"])
    found = scans[scans["problem"] != ""].assign(stage="inventory", reason=lambda t: t["problem"])
    failed = volumes[volumes["status"] != "ok"]
    failed = failed.assign(stage=failed["status"].map({"failed": "qc"}).fillna("volume"))
    theirs = scans[["cohort", "patient", "scan"]]
    unlabelled = labels.drop(columns="scan").merge(theirs, on=["cohort", "patient"], how="left").fillna({"scan": ""})
    kept = set(zip(manifest["cohort"], manifest["scan"], strict=True))
    pretrained = [key in kept for key in zip(unlabelled["cohort"], unlabelled["scan"], strict=True)]
    unlabelled = unlabelled[[not known for known in pretrained]]
    parts = [found, failed, unlabelled, removed[removed["cohort"].isin(cohorts)]]
    filled = [part[EXCLUDED_COLUMNS] for part in parts if len(part)] or [pd.DataFrame(columns=EXCLUDED_COLUMNS)]
    return pd.concat(filled).sort_values(EXCLUDED_COLUMNS, ignore_index=True)
