"""From volumes to maps: each scan is read once and passes the encoder once, whatever the number of endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad import volumes
from neurorad.contract import contract_differences
from neurorad.encoder import Encoder
from neurorad.explanation.agreement import centre_prior, mass_in_mask, pointing_hit, telling_slice
from neurorad.explanation.gradcam import Layer, gradcam, look
from neurorad.explanation.probes import Probe
from neurorad.problems import InputError

LAYERS = ("layer2", "layer3", "layer4")
"""Stages of the ResNet. layer4 is the usual choice in 2D; on brain volumes it has so few voxels that every map is a
blob near the centre, so layer3 is the default."""

T1C, T2F = volumes.SEQUENCES.index("t1c"), volumes.SEQUENCES.index("t2f")

AGREEMENT = ("mass", "hit", "prior_mass", "prior_hit", "tumour_share")


@dataclass(frozen=True)
class Seen:
    """One scan that passed the encoder.

    row: cohort, patient, scan, volume. voxels: `[4, D, H, W]`. tumour: `[D, H, W]`, all false without a mask. brain:
    `[D, H, W]`. weights: `[E, d]` of the models that never saw its patient, 0 where it has no label. layer: of a batch of
    one.
    """

    row: Any
    voxels: np.ndarray
    tumour: np.ndarray
    brain: np.ndarray
    weights: torch.Tensor
    layer: Layer

    @property
    def key(self) -> tuple[str, str]:
        """Cohort and scan."""
        return self.row.cohort, self.row.scan


def load_scan(row: Any, contract: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Volume `[4, D, H, W]` and tumour mask `[D, H, W]` (all false where the release has none) of a volumes.tsv row.

    Raises:
        InputError: unreadable, altered, preprocessed unlike the encoder's volumes, or a mask on another grid.
    """
    where = f"scan {row.scan} of {row.cohort}"
    try:
        voxels = volumes.load(row.volume, check=True)
    except (volumes.VolumeError, OSError) as problem:
        raise InputError(f"{where}: {problem}; make the volume again") from problem
    differences = contract_differences(contract, volumes.load_card(row.volume).get("preprocessing", {}))
    if differences:
        raise InputError(f"{where}: preprocessed unlike the encoder's volumes: {'; '.join(differences)}")
    path = Path(row.volume).with_name(f"{row.scan}.tumour.npy")
    if not path.is_file():
        return voxels, np.zeros(voxels.shape[1:], dtype=bool)
    mask = np.load(path, allow_pickle=False) > 0
    if mask.shape != voxels.shape[1:]:
        raise InputError(
            f"{where}: tumour mask {list(mask.shape)} is not on the volume's grid {list(voxels.shape[1:])}"
        )
    return voxels, mask


def weights_of(scans: pd.DataFrame, probes: Sequence[Probe]) -> np.ndarray:
    """`[n, E, d]` float32: for each scan the models that never saw its patient; 0 where the patient has no label."""
    found = np.zeros((len(scans), len(probes), probes[0].weights.shape[1]), np.float32)
    for e, probe in enumerate(probes):
        places = probe.patients[["cohort", "scan"]].reset_index(names="place")
        place = scans[["cohort", "scan"]].merge(places, how="left")["place"].to_numpy(float)
        known = np.isfinite(place)
        found[known, e] = probe.weights[place[known].astype(int)]
    return found


def look_at(
    encoder: Encoder,
    layer: str,
    probes: Sequence[Probe],
    scans: pd.DataFrame,
    contract: Mapping[str, Any],
    device: torch.device,
    batch: int,
) -> Iterator[list[Seen]]:
    """Every scan once, `batch` of them at a time, in the order of `scans` (cohort, patient, scan, volume).

    Raises:
        InputError: of `load_scan`, or the layer's map has one voxel, which points nowhere.
    """
    weights = torch.from_numpy(weights_of(scans, probes))
    rows = list(scans.itertuples())
    for begin in range(0, len(rows), batch):
        part = rows[begin : begin + batch]
        read = [load_scan(row, contract) for row in part]
        voxels = torch.from_numpy(np.stack([volume for volume, _ in read])).to(device)
        mine = weights[begin : begin + batch].to(device)
        seen = look(encoder, getattr(encoder.network, layer), mine, voxels)
        if max(seen.activation.shape[2:]) == 1:
            raise InputError(f"--layer {layer}: its map has one voxel on these volumes; take an earlier layer")
        found = []
        for i, (row, (volume, tumour)) in enumerate(zip(part, read, strict=True)):
            one = slice(i, i + 1)
            alone = Layer(seen.activation[one], seen.gradient[:, one], seen.grid, seen.score[one])
            found.append(Seen(row, volume, tumour, (volume != 0).any(axis=0), mine[i], alone))
        yield found


def shown(seen: Seen, endpoint: int) -> tuple[dict[str, Any], dict[str, float | str]]:
    """What `maps.npz` keeps of one scan and one endpoint (its place among the scores), and a row of `AGREEMENT`.

    Arrays: `maps` `[D, H, W]` float16, 1 at the maximum; `against`, the counter-evidence as a share of the larger maximum
    of the two; of the slice `slice` the planes `[D, H]` of both (`map_plane`, `against_plane`), `t1c`, `t2f`, `tumour`.
    """
    part = Layer(seen.layer.activation, seen.layer.gradient[endpoint : endpoint + 1], seen.layer.grid, seen.layer.score)
    cam, against = (gradcam(part, way)[0, 0].cpu().numpy() for way in (False, True))
    level, tiny = telling_slice(cam, seen.tumour, seen.brain), np.finfo(np.float32).tiny
    maps = (cam / max(cam.max(), tiny)).astype(np.float16)
    counter = (against / max(cam.max(), against.max(), tiny)).astype(np.float16)
    arrays = {"maps": maps, "against": counter, "slice": level}
    arrays |= {"map_plane": maps[:, :, level], "against_plane": counter[:, :, level]}
    arrays |= {"t1c": seen.voxels[T1C, :, :, level], "t2f": seen.voxels[T2F, :, :, level]}
    return {**arrays, "tumour": seen.tumour[:, :, level]}, _agreement(cam, seen.brain, seen.tumour)


def gathered(
    chosen: pd.DataFrame, found: Mapping[tuple[str, str], tuple[dict[str, Any], dict[str, float | str]]]
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Arrays for `maps.npz`, the patients first, and the table of agreement, in the order of `chosen`.

    Args:
        chosen: cohort, patient, scan, label, status, score. found: cohort and scan -> what `shown` returned.
    """
    each = [found[(row.cohort, row.scan)] for row in chosen.itertuples()]
    identity = {name: chosen[name].to_numpy(str) for name in ("cohort", "patient", "scan", "status")}
    numbers = {name: chosen[name].to_numpy(float) for name in ("label", "score")}
    arrays = {name: np.stack([np.asarray(mine[name]) for mine, _ in each]) for name in each[0][0]}
    told = chosen[["cohort", "patient", "scan", "label", "status", "score"]].reset_index(drop=True)
    return {**identity, **numbers, **arrays}, pd.concat([told, pd.DataFrame([row for _, row in each])], axis=1)


def unexplained(note: str) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """What `gathered` returns where there is no probe to explain: no map, and one row that says why."""
    identity = ("cohort", "patient", "scan")
    row = {**dict.fromkeys((*identity, "status"), ""), **dict.fromkeys(("label", "score", *AGREEMENT), float("nan"))}
    return {name: np.array([], dtype=str) for name in identity}, pd.DataFrame([{**row, "note": note}])


def _agreement(cam: np.ndarray, brain: np.ndarray, tumour: np.ndarray) -> dict[str, float | str]:
    prior = centre_prior(brain)
    numbers = {
        "mass": mass_in_mask(cam, tumour),
        "hit": pointing_hit(cam, tumour),
        "prior_mass": mass_in_mask(prior, tumour),
        "prior_hit": pointing_hit(prior, tumour),
        "tumour_share": float(tumour[brain].mean()) if tumour.any() else float("nan"),
    }
    if not tumour.any():
        note = "not estimable: no tumour mask"
    elif cam.max() <= 0:
        note = "not estimable: nothing in this layer raises the score"
    else:
        note = ""
    return {**numbers, "note": note}
