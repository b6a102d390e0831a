"""The scans that are embedded, and what becomes of them without a network: tables alone, no torch is imported."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad import volumes
from neurorad.contract import contract_differences
from neurorad.files import read_table
from neurorad.problems import InputError

IDENTITY = ("cohort", "scan", "patient", "session")
EXTENT = {"GTR": 1.0, "STR": 0.5, "no GTR": 0.5, "biopsy": 0.0}
"""Extent of resection as patients.tsv writes it -> a number."""


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
        voxels, card = volumes.load_listed(row.volume, row.sha256, "volumes.tsv")
    except volumes.VolumeError as problem:
        raise InputError(f"{where}: {problem}") from problem
    differences = contract_differences(contract, card.get("preprocessing", {}))
    if differences:
        raise InputError(
            f"{where}: preprocessed unlike the encoder's training volumes (encoder against volume: "
            f"{'; '.join(differences)}); preprocess it with the settings of the encoder's card"
        )
    return voxels


def clinical(table: pd.DataFrame, patients: pd.DataFrame, full: bool = False) -> pd.DataFrame:
    """The baseline without images: e0 = age in years, e1 = 1 for M and 0 for F.

    With `full` also e2 = Karnofsky performance status / 100 and e3 = 1 where it is known, e4 = extent of resection
    (1 gross total, 0.5 less than that, 0 biopsy) and e5 = 1 where it is known; an unknown is 0 in both. Nothing is
    imputed from other patients, so no fold learns from another.

    Scans of patients without age or sex are left out; a cohort without any gives a table without rows.

    Raises:
        InputError: an age that is no number, a sex that is neither F nor M, an extent that is none, or a patient twice.
    """
    wanted = ["age", "sex", *(("kps", "resection") if full else ())]
    missing = [column for column in ("cohort", "patient", *wanted) if column not in patients]
    if missing:
        raise InputError(f"patients table: lacks the columns {', '.join(missing)}")
    if patients.duplicated(["cohort", "patient"]).any():
        raise InputError("patients table: a patient of a cohort has more than one row")
    for column, allowed in (("sex", {"F", "M"}), ("resection", EXTENT)):
        strange = sorted(set(patients[column].dropna()) - set(allowed)) if column in wanted else []
        if strange:
            said = ", ".join(sorted(allowed))
            raise InputError(f"patients table: {column} is {strange[0]!r} where {said} or empty is expected")
    for column in ("age", "kps"):
        if column in wanted and not pd.api.types.is_numeric_dtype(patients[column]):
            raise InputError(f"patients table: the column {column} holds text; it must hold numbers")
    known = patients.dropna(subset=["age", "sex"])[["cohort", "patient", *wanted]]
    joined = table[list(IDENTITY)].merge(known, on=["cohort", "patient"], how="inner", validate="many_to_one")
    values = [joined["age"].astype(float), joined["sex"] == "M"]
    if full:
        extent = joined["resection"].map(EXTENT).astype(float)
        values += [joined["kps"].astype(float) / 100, joined["kps"].notna(), extent, extent.notna()]
    return with_identity(joined, np.column_stack([column.fillna(0).to_numpy(float) for column in values]))


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


def one_contract(table: pd.DataFrame) -> dict[str, Any]:
    """The preprocessing of the first volume, which all others must share: for encoders that were not trained on volumes.

    Raises:
        InputError: its card is missing or says nothing of it.
    """
    row = next(table.itertuples())
    try:
        contract = volumes.load_card(row.volume).get("preprocessing", {})
    except (OSError, ValueError) as problem:
        raise InputError(
            f"scan {row.scan} of {row.cohort}: no card beside {row.volume}; make the volume again"
        ) from problem
    if not {"spacing_mm", "shape"} <= set(contract):
        raise InputError(f"scan {row.scan} of {row.cohort}: its card names no spacing and shape; make the volume again")
    return contract


def embed_each(
    table: pd.DataFrame, contract: Mapping[str, Any], function: Callable[[np.ndarray, Any], Any], width: int
) -> pd.DataFrame:
    """One scan after the other through `function(voxels [4, D, H, W] float32, row)`, which returns a vector, or None where
    the scan has nothing to embed: it is left out.

    Args:
        width: columns of the table if no scan is left.

    Raises:
        InputError: as `load_checked`; a volume on another grid than the contract's; vectors of different lengths.
    """
    kept, vectors = [], []
    for position, row in enumerate(table.itertuples()):
        voxels = load_checked(row, contract).astype(np.float32)
        if list(voxels.shape[1:]) != list(contract["shape"]):
            raise InputError(
                f"scan {row.scan} of {row.cohort}: has shape {list(voxels.shape[1:])}, its card says {contract['shape']}"
            )
        vector = function(voxels, row)
        if vector is not None:
            kept.append(position)
            vectors.append(vector)
    return with_identity(
        table.iloc[kept].reset_index(drop=True), np.stack(vectors) if vectors else np.empty((0, width))
    )


def tumour_mask(row: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """`[D, H, W]` boolean of the scan's tumour; None if the release ships no mask, or an empty one.

    Raises:
        InputError: a mask that is unreadable or on another grid than the volume.
    """
    path = Path(row.volume).with_suffix(".tumour.npy")
    where = f"scan {row.scan} of {row.cohort}"
    if not path.is_file():
        return None
    try:
        mask = np.load(path, allow_pickle=False) > 0
    except (OSError, ValueError) as problem:
        raise InputError(f"{where}: unreadable tumour mask ({problem}); make the volume again") from problem
    if mask.shape != tuple(shape):
        raise InputError(f"{where}: tumour mask {list(mask.shape)} is not on the volume's grid {list(shape)}")
    return mask if mask.any() else None


IN_MEMORY = 8 * 2**30
"""Bytes of volumes that are kept in memory while networks are trained; more than these are read again each epoch."""


def loader(table: pd.DataFrame, contract: Mapping[str, Any]) -> Callable[[str, str], np.ndarray]:
    """Cohort and scan -> `[4, D, H, W]` float16, each checked once against its sha256 and the contract.

    Raises, when asked:
        InputError: as `load_checked`, or a scan that the tables do not list.
    """
    rows = {(row.cohort, row.scan): row for row in table.itertuples()}
    kept: dict[tuple[str, str], np.ndarray] = {}
    checked: set[tuple[str, str]] = set()

    def load(cohort: str, scan: str) -> np.ndarray:
        key = (cohort, scan)
        if key in kept:
            return kept[key]
        if key not in rows:
            raise InputError(
                f"--volumes: has no usable volume of scan {scan} of {cohort}; give those the folds were drawn of"
            )
        voxels = volumes.load(rows[key].volume) if key in checked else load_checked(rows[key], contract)
        checked.add(key)
        if (len(kept) + 1) * voxels.nbytes <= IN_MEMORY:
            kept[key] = voxels
        return voxels

    return load
