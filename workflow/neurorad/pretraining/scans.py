"""The scans of a pretraining manifest: checked once, then read from the volume store ahead of the training."""

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurorad import volumes
from neurorad.contract import contract_differences
from neurorad.files import read_table, sha256
from neurorad.pretraining.arithmetic import KEPT_BYTES
from neurorad.pretraining.geometry import brain_share
from neurorad.problems import InputError

COLUMNS = ("cohort", "scan", "patient", "group", "volume", "sha256")

READ_WAITS = (1.0, 10.0, 60.0)
"""Seconds before reading again a volume that could not be read: shared file systems have bad minutes."""

AHEAD = 2
"""Batches read while the device is at work."""


class LostVolumeError(InputError):
    """A volume that was good when the run began cannot be read any more."""


@dataclass(frozen=True)
class Scans:
    """`names`, `patients`, `groups` (codes into `group_names`), `paths`: one a scan. `shape`: of every volume.

    `preprocessing`: the contract that all volumes share. `manifest_sha256`: of the manifest's bytes. `kept`, `shares`:
    volumes in memory, and where the brain of those read so far is.
    """

    names: list[str]
    patients: list[str]
    groups: list[int]
    group_names: list[str]
    paths: list[str]
    shape: tuple[int, ...]
    preprocessing: dict[str, Any]
    manifest_sha256: str
    kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    shares: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def patient_codes(self) -> Tensor:
        """`[N]`: equal numbers = one patient."""
        codes = {patient: code for code, patient in enumerate(sorted(set(self.patients)))}
        return torch.tensor([codes[patient] for patient in self.patients])

    @cached_property
    def group_codes(self) -> Tensor:
        """`[N]`: `groups`."""
        return torch.tensor(self.groups)

    def volume(self, scan: int, out: np.ndarray | None = None) -> np.ndarray:
        """`[4, D, H, W]` float16; read into `out`, unless it is kept in memory.

        Raises:
            LostVolumeError: it cannot be read, also not after `READ_WAITS`, or is not the one checked before.
        """
        if scan in self.kept:
            return self.kept[scan]
        for wait in (*READ_WAITS, None):
            try:
                voxels = volumes.load(self.paths[scan], out=out)
                break
            except volumes.ShapeError as problem:
                raise LostVolumeError(
                    f"scan {self.names[scan]}: {problem}, which it had; make the volume again"
                ) from problem
            except (volumes.VolumeError, OSError) as problem:
                if wait is None:
                    raise LostVolumeError(f"scan {self.names[scan]}: {problem}; make the volume again") from problem
                time.sleep(wait)
        if voxels.shape != self.shape or _is_empty(voxels):
            raise LostVolumeError(
                f"scan {self.names[scan]}: {self.paths[scan]} has changed since the run began; make the volume again"
            )
        return voxels

    def brain_share(self, scans: Sequence[int]) -> Tensor:
        """`[B, CELLS ** 3]` of `geometry.brain_share`, found when a scan is first asked for."""
        for scan in {*scans} - self.shares.keys():
            self.shares[scan] = brain_share(torch.from_numpy(self.volume(scan))[None])[0]
        return torch.stack([self.shares[scan] for scan in scans])

    def ahead(
        self, batches: Iterable[Sequence[int]], threads: int = 1, pin: bool = False
    ) -> Generator[Tensor, None, None]:
        """`[B, 4, D, H, W]` float16 of each batch in turn, read by other threads while the caller works on the ones
        before; with `pin`, in memory that a GPU copies from while it computes."""
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        upcoming = iter(batches)
        pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="volumes")

        def fetch(row: np.ndarray, scan: int) -> None:
            voxels = self.volume(scan, out=row)
            if voxels is not row:
                row[:] = voxels
            if scan not in self.shares:
                self.shares[scan] = brain_share(torch.from_numpy(row)[None])[0]

        try:
            while True:
                for chosen in islice(upcoming, AHEAD + 1 - len(waiting)):
                    voxels = torch.empty((len(chosen), *self.shape), dtype=torch.float16, pin_memory=pin)
                    rows = zip(voxels.numpy(), chosen, strict=True)
                    waiting.append((voxels, [pool.submit(fetch, row, scan) for row, scan in rows]))
                if not waiting:
                    return
                voxels, reading = waiting.popleft()
                for future in reading:
                    future.result()
                yield voxels
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def group_table(self) -> dict[str, dict[str, int]]:
        """Scans and patients of each group."""
        members = [[i for i, code in enumerate(self.groups) if code == group] for group in range(len(self.group_names))]
        return {
            name: {"scans": len(scans), "patients": len({self.patients[i] for i in scans})}
            for name, scans in zip(self.group_names, members, strict=True)
        }


def read_scans(manifest: str | Path, threads: int = 1) -> Scans:
    """Read a manifest (columns `COLUMNS`) and check every voxel of its volumes against the manifest's sha256.

    All are read once before the first step, so that a broken volume is known in minutes and not in the night.

    Raises:
        InputError: missing columns or cells, a scan twice, a damaged, altered or empty volume, or volumes whose
            preprocessing contracts or shapes differ.
    """
    table = _read_manifest(manifest)
    rows = list(table.itertuples())
    kept: dict[int, np.ndarray] = {}
    contract: dict[str, Any] = {}
    shape: tuple[int, ...] = ()
    room = KEPT_BYTES
    with ThreadPoolExecutor(max_workers=threads) as pool:
        checked: deque[Any] = deque()
        upcoming = iter(rows)
        for number, row in enumerate(rows):
            # A few at a time: a large study does not fit in memory.
            while len(checked) <= 2 * threads and (next_row := next(upcoming, None)) is not None:
                checked.append(pool.submit(_checked, manifest, next_row))
            voxels, preprocessing = checked.popleft().result()
            where = f"{manifest}: scan {row.scan} of {row.cohort}"
            contract, shape = contract or preprocessing, shape or voxels.shape
            differences = contract_differences(contract, preprocessing)
            if differences:
                raise InputError(f"{where}: preprocessed unlike the first scan ({'; '.join(differences)})")
            if voxels.shape != shape:
                raise InputError(f"{where}: shape {list(voxels.shape)}, the first scan has {list(shape)}")
            if voxels.nbytes <= room:
                kept[number] = voxels
                room -= voxels.nbytes
    group_names = sorted(table["group"].unique())
    return Scans(
        names=[f"{row.cohort}/{row.scan}" for row in rows],
        patients=table["patient"].tolist(),
        groups=[group_names.index(group) for group in table["group"]],
        group_names=group_names,
        paths=table["volume"].tolist(),
        shape=shape,
        preprocessing=contract,
        manifest_sha256=sha256(manifest),
        kept=kept,
    )


def _checked(manifest: str | Path, row: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """A manifest row's voxels and preprocessing contract."""
    where = f"{manifest}: scan {row.scan} of {row.cohort}"
    try:
        voxels, card = volumes.load_listed(row.volume, row.sha256, "the manifest")
    except volumes.VolumeError as problem:
        raise InputError(f"{where}: {problem}") from problem
    if not card.get("preprocessing"):
        raise InputError(f"{where}: the card of {row.volume} has no `preprocessing`; make the volume again")
    if _is_empty(voxels):
        raise InputError(f"{where}: every voxel of {row.volume} is 0; leave the scan out or make the volume again")
    return voxels, card["preprocessing"]


def _is_empty(voxels: np.ndarray) -> bool:
    """Every float16 is +0: looked at as bits, as numpy's own look at float16 takes longer than reading the file; the first
    sequence mostly answers."""
    return not any(sequence.view(np.uint16).any() for sequence in voxels)


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
