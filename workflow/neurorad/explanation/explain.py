"""Maps and their agreement with the tumour, for the chosen scans of one encoder and one endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad import volumes
from neurorad.contract import contract_differences
from neurorad.encoder import Encoder
from neurorad.explanation.agreement import centre_prior, mass_in_mask, pointing_hit, telling_slice
from neurorad.explanation.gradcam import gradcam, look
from neurorad.problems import InputError

LAYERS = ("layer2", "layer3", "layer4")
"""Stages of the ResNet. layer4 is the usual choice in 2D; on brain volumes it has so few voxels that every map is a
blob near the centre, so layer3 is the default."""

T1C, T2F = volumes.SEQUENCES.index("t1c"), volumes.SEQUENCES.index("t2f")

AGREEMENT = ("mass", "hit", "prior_mass", "prior_hit", "tumour_share")


def probe_weights(coefficients: pd.DataFrame, endpoint: str, dimension: int) -> torch.Tensor:
    """`[d]`: the probe of all sites as one linear layer on the raw embedding.

    Raises:
        InputError: no such probe, more than one, or one for embeddings of another length.
    """
    rows = coefficients[(coefficients["endpoint"] == endpoint) & (coefficients["site"] == "all")]
    if len(rows) != 1:
        there = ", ".join(sorted(coefficients["endpoint"].astype(str).unique()))
        raise InputError(f"--coefficients: {len(rows)} rows for {endpoint} at site all, expected 1; endpoints: {there}")
    names = [f"e{i}" for i in range(dimension)]
    numbers = sum(column.startswith("e") and column[1:].isdigit() for column in rows)
    if numbers != dimension or not set(names) <= set(rows):
        raise InputError(
            f"--coefficients: {numbers} weights, but the encoder makes {dimension} features; give both of one encoder"
        )
    weights = rows[names].to_numpy(np.float32)[0]
    if not np.isfinite(weights).all():
        raise InputError(f"--coefficients: the probe of {endpoint} could not be fitted (weights are not finite)")
    return torch.from_numpy(weights)


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


def explain(
    encoder: Encoder, layer: str, weights: torch.Tensor, chosen: pd.DataFrame, contract: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Grad-CAM of each chosen scan, and how it agrees with the tumour mask.

    Args:
        chosen: cohort, patient, scan, label, score, volume; one row a scan.
        contract: `preprocessing` of the encoder's card.

    Returns:
        Arrays for `maps.npz` (`maps` `[P, D, H, W]` float16, 1 at each scan's maximum; `against` `[P, D, H, W]`, the
        counter-evidence as a share of the larger maximum of the two; `t1c`, `t2f` and `tumour` `[P, D, H]` of the slice
        `slice`), and one row a scan with `AGREEMENT` (NaN and a note without a mask).
    """
    found: dict[str, list] = {"maps": [], "against": [], "slice": [], "t1c": [], "t2f": [], "tumour": []}
    rows = []
    for row in chosen.itertuples():
        voxels, tumour = load_scan(row, contract)
        seen = look(encoder, getattr(encoder.network, layer), weights, torch.from_numpy(voxels)[None])
        cam, against = gradcam(seen)[0].numpy(), gradcam(seen, against=True)[0].numpy()
        brain = (voxels != 0).any(axis=0)
        rows.append(_agreement(cam, brain, tumour))
        level = telling_slice(cam, tumour)
        highest = max(cam.max(), against.max(), np.finfo(np.float32).tiny)
        found["maps"].append((cam / max(cam.max(), np.finfo(np.float32).tiny)).astype(np.float16))
        found["against"].append((against / highest).astype(np.float16))
        found["slice"].append(level)
        found["t1c"].append(voxels[T1C, :, :, level])
        found["t2f"].append(voxels[T2F, :, :, level])
        found["tumour"].append(tumour[:, :, level])
    identity = {name: chosen[name].to_numpy(str) for name in ("cohort", "patient", "scan")}
    numbers = {name: chosen[name].to_numpy(float) for name in ("label", "score")}
    arrays = {name: np.stack([np.asarray(value) for value in values]) for name, values in found.items()}
    table = pd.concat([chosen[["cohort", "patient", "scan", "label", "score"]], pd.DataFrame(rows)], axis=1)
    return {**identity, **numbers, **arrays}, table


def unexplained(note: str) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """What `explain` returns where there is no probe to explain: no map, and one row that says why."""
    identity = ("cohort", "patient", "scan")
    row = {**dict.fromkeys(identity, ""), **dict.fromkeys(("label", "score", *AGREEMENT), float("nan")), "note": note}
    return {name: np.array([], dtype=str) for name in identity}, pd.DataFrame([row])


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
        note = "not estimable: nothing in this layer raises the logit"
    else:
        note = ""
    return {**numbers, "note": note}
