"""Volumes to embeddings: one row of numbers a scan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad import volumes
from neurorad.encoder import Encoder, contract_differences
from neurorad.files import read_table
from neurorad.problems import InputError

IDENTITY = ("cohort", "scan", "patient", "session")


def read_usable(path: str | Path) -> pd.DataFrame:
    """The rows of a `volumes.tsv` with status ok.

    Raises:
        InputError: no such file, missing columns, or no usable volume.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; volumes are made by the imaging stage")
    table = read_table(path, text=("cohort", "scan", "patient", "session", "volume", "sha256"))
    missing = [column for column in (*IDENTITY, "volume", "sha256", "status") if column not in table]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
    usable = table[table["status"] == "ok"].reset_index(drop=True)
    if usable.empty:
        raise InputError(f"{path}: no volume has status ok; nothing can be embedded")
    return usable


def load_checked(row: Any, contract: Mapping[str, Any]) -> np.ndarray:
    """`[4, D, H, W]` float16 of one row of `volumes.tsv`.

    Raises:
        InputError: damaged, not the listed volume, or preprocessed unlike the encoder's training volumes.
    """
    where = f"scan {row.scan} of {row.cohort}"
    try:
        voxels = volumes.load(row.volume, check=True)
        card = volumes.load_card(row.volume)
    except (volumes.VolumeError, OSError) as problem:
        raise InputError(f"{where}: {problem}; make the volume again") from problem
    if card["sha256"] != row.sha256:
        raise InputError(f"{where}: {row.volume} is not the volume that volumes.tsv lists; make volumes.tsv again")
    differences = contract_differences(contract, card.get("preprocessing", {}))
    if differences:
        raise InputError(
            f"{where}: preprocessed unlike the encoder's training volumes (encoder against volume: "
            f"{'; '.join(differences)}); preprocess it with the settings of the encoder's card"
        )
    return voxels


@torch.no_grad()
def embed(
    encoder: Encoder, table: pd.DataFrame, contract: Mapping[str, Any], device: torch.device, batch_size: int = 4
) -> pd.DataFrame:
    """Whole volumes through the encoder in evaluation mode, in float32.

    Args:
        table: rows of `read_usable`.
        contract: the `preprocessing` of the encoder's card; every volume must have the same.

    Returns:
        `IDENTITY` and e0 ... e{d-1}, in the order of `table`.
    """
    encoder = encoder.to(device).eval()
    rows = list(table.itertuples())
    features = []
    for begin in range(0, len(rows), batch_size):
        batch = np.stack([load_checked(row, contract) for row in rows[begin : begin + batch_size]])
        features.append(encoder(torch.from_numpy(batch).to(device).float()).cpu().numpy())
    return with_identity(table, np.concatenate(features))


def clinical(table: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """The baseline without images: e0 = age in years, e1 = 1 for M and 0 for F.

    Scans of patients without age or sex are left out; a cohort without any gives a table without rows.

    Raises:
        InputError: an age that is no number, a sex that is neither F nor M, or a patient twice.
    """
    missing = [column for column in ("cohort", "patient", "age", "sex") if column not in patients]
    if missing:
        raise InputError(f"patients table: lacks the columns {', '.join(missing)}")
    if patients.duplicated(["cohort", "patient"]).any():
        raise InputError("patients table: a patient of a cohort has more than one row")
    strange = sorted(set(patients["sex"].dropna()) - {"F", "M"})
    if strange:
        raise InputError(f"patients table: sex is {strange[0]!r} where F, M or empty is expected")
    if not pd.api.types.is_numeric_dtype(patients["age"]):
        raise InputError("patients table: the column age holds text; ages are numbers in years")
    known = patients.dropna(subset=["age", "sex"])[["cohort", "patient", "age", "sex"]]
    joined = table[list(IDENTITY)].merge(known, on=["cohort", "patient"], how="inner", validate="many_to_one")
    values = np.stack([joined["age"].to_numpy(float), (joined["sex"] == "M").to_numpy(float)], axis=1)
    return with_identity(joined, values)


def ensemble(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The members' embeddings of the same scans side by side, each row scaled to length 1 (Euclidean).

    This is the feature of the paper's published code, which its text does not mention. Rows follow the first table.

    Raises:
        InputError: fewer than two members, or members that did not embed the same scans.
    """
    if len(tables) < 2:
        raise InputError("--embeddings: an ensemble joins two encoders or more")
    who = tables[0][list(IDENTITY)].reset_index(drop=True)
    parts = []
    for table in tables:
        if table.duplicated(["cohort", "scan"]).any() or len(table) != len(who):
            raise InputError("--embeddings: the members did not embed the same scans; make them from the same volumes")
        joined = who.merge(table, on=list(IDENTITY), how="left", indicator="found")
        if (joined["found"] != "both").any():
            raise InputError("--embeddings: the members did not embed the same scans; make them from the same volumes")
        features = [column for column in table if column[:1] == "e" and column[1:].isdigit()]
        parts.append(joined[sorted(features, key=lambda column: int(column[1:]))].to_numpy(np.float64))
    values = np.concatenate(parts, axis=1)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return with_identity(who, np.divide(values, length, out=np.zeros_like(values), where=length > 0))


def with_identity(table: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """`[n, d]` numbers as float32 columns e0 ... beside the identity of each row."""
    numbers = pd.DataFrame(values.astype(np.float32), columns=[f"e{i}" for i in range(values.shape[1])])
    return pd.concat([table[list(IDENTITY)].reset_index(drop=True), numbers], axis=1)
