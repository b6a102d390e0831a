"""Which patients are explained: by rule, never by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from neurorad.problems import InputError
from neurorad.seeds import seed_of


def chosen_scans(predictions: pd.DataFrame, available: pd.DataFrame, number: int) -> pd.DataFrame:
    """The scans with the highest and the lowest out-of-fold scores, in equal shares, among those with a known label.

    Args:
        predictions: cohort, patient, scan, label, score of one endpoint and one protocol.
        available: cohort, scan of the scans that have a volume.
        number: even; how many patients.

    Returns:
        Rows of `predictions`, highest score first, one scan a patient; equal scores by cohort and patient.

    Raises:
        InputError: `number` is odd or not positive, or fewer patients than that are left.
    """
    if number < 2 or number % 2:
        raise InputError(
            f"--patients {number}: must be even and at least 2, half of the highest and half of the lowest"
        )
    rows = predictions[predictions["label"].notna() & predictions["score"].notna()]
    rows = rows.merge(available[["cohort", "scan"]].drop_duplicates(), on=["cohort", "scan"])
    rows = rows.sort_values(["score", "cohort", "patient", "scan"], ascending=[False, True, True, True], kind="stable")
    rows = rows.drop_duplicates(["cohort", "patient"])
    if len(rows) < number:
        raise InputError(
            f"explain: only {len(rows)} patients have a known label, an out-of-fold score and a volume, {number} are "
            f"needed; lower --patients or give the volumes.tsv of every test cohort"
        )
    return pd.concat([rows.head(number // 2), rows.tail(number // 2)], ignore_index=True)


def masked_scans(predictions: pd.DataFrame, volumes: pd.DataFrame) -> pd.DataFrame:
    """The scans on which maps are checked: a known label and a tumour mask, one a patient, in the order of a hash.

    Returns:
        cohort, patient, scan, volume. The order knows neither label nor score, so any first part is a fair sample.
    """
    rows = predictions[predictions["label"].notna()].drop_duplicates(["cohort", "patient"])[
        ["cohort", "patient", "scan"]
    ]
    rows = rows.merge(volumes, on=["cohort", "scan"], validate="one_to_one")
    masked = [Path(row.volume).with_name(f"{row.scan}.tumour.npy").is_file() for row in rows.itertuples()]
    order = [seed_of(row.cohort, row.patient) for row in rows.itertuples()]
    rows = rows.assign(order=order)[masked].sort_values("order", ignore_index=True)
    return rows[["cohort", "patient", "scan", "volume"]]
