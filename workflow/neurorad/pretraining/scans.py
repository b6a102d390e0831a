"""The scans of a pretraining manifest, checked and held in memory."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neurorad import volumes
from neurorad.encoder import contract_differences
from neurorad.files import read_table, sha256
from neurorad.problems import InputError

COLUMNS = ("cohort", "scan", "patient", "group", "volume", "sha256")


@dataclass(frozen=True)
class Scans:
    """`voxels` `[N, 4, D, H, W]` float16; `names`, `patients`, `groups` (codes into `group_names`): one a scan.

    `preprocessing`: the contract that all volumes share. `manifest_sha256`: of the manifest's bytes.
    """

    voxels: Tensor
    names: list[str]
    patients: list[str]
    groups: list[int]
    group_names: list[str]
    preprocessing: dict[str, Any]
    manifest_sha256: str

    @cached_property
    def patient_codes(self) -> Tensor:
        """`[N]`: equal numbers = one patient."""
        codes = {patient: code for code, patient in enumerate(sorted(set(self.patients)))}
        return torch.tensor([codes[patient] for patient in self.patients])

    def group_table(self) -> dict[str, dict[str, int]]:
        """Scans and patients of each group."""
        members = [[i for i, code in enumerate(self.groups) if code == group] for group in range(len(self.group_names))]
        return {
            name: {"scans": len(scans), "patients": len({self.patients[i] for i in scans})}
            for name, scans in zip(self.group_names, members, strict=True)
        }


def read_scans(manifest: str | Path) -> Scans:
    """Read a manifest (columns `COLUMNS`) and its volumes; every voxel is checked against the manifest's sha256.

    Raises:
        InputError: missing columns or cells, a scan twice, a damaged or altered volume, or volumes whose
            preprocessing contracts differ.
    """
    table = _read_manifest(manifest)
    arrays, contract = [], None
    for row in table.itertuples():
        where = f"{manifest}: scan {row.scan} of {row.cohort}"
        try:
            voxels = volumes.load(row.volume, check=True)
            card = volumes.load_card(row.volume)
        except (volumes.VolumeError, OSError) as problem:
            raise InputError(f"{where}: {problem}; make the volume again") from problem
        if card["sha256"] != row.sha256:
            raise InputError(
                f"{where}: {row.volume} is not the volume that the manifest lists; make the manifest again"
            )
        if not card.get("preprocessing"):
            raise InputError(f"{where}: the card of {row.volume} has no `preprocessing`; make the volume again")
        contract = contract or card["preprocessing"]
        differences = contract_differences(contract, card["preprocessing"])
        if differences:
            raise InputError(f"{where}: preprocessed unlike the first scan ({'; '.join(differences)})")
        if arrays and voxels.shape != tuple(arrays[0].shape):
            raise InputError(f"{where}: shape {list(voxels.shape)}, the first scan has {list(arrays[0].shape)}")
        arrays.append(torch.from_numpy(voxels))
    group_names = sorted(table["group"].unique())
    return Scans(
        voxels=torch.stack(arrays),
        names=[f"{row.cohort}/{row.scan}" for row in table.itertuples()],
        patients=table["patient"].tolist(),
        groups=[group_names.index(group) for group in table["group"]],
        group_names=group_names,
        preprocessing=contract,
        manifest_sha256=sha256(manifest),
    )


def _read_manifest(manifest: str | Path) -> pd.DataFrame:
    if not Path(manifest).is_file():
        raise InputError(f"{manifest}: no such file; the manifest is made by the leakage audit")
    table = read_table(manifest, text=COLUMNS)
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise InputError(f"{manifest}: lacks the columns {', '.join(missing)}")
    if table.empty:
        raise InputError(f"{manifest}: lists no scan; nothing can be pretrained")
    empty = [column for column in COLUMNS if table[column].isna().any()]
    if empty:
        raise InputError(f"{manifest}: empty cells in {', '.join(empty)}; every scan needs a patient and a group")
    twice = [name for name, count in Counter(zip(table["cohort"], table["scan"], strict=True)).items() if count > 1]
    if twice:
        raise InputError(f"{manifest}: scan {twice[0][1]} of {twice[0][0]} is listed twice")
    return table
