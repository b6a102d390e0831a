"""What is a map worth? Agreement with the tumour, faithfulness, and whether it changes when the model does.

Each number stands beside that of the centre prior, a map that knows only where a brain's middle is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad.encoder import Encoder
from neurorad.encoder_names import encoder_parts
from neurorad.explanation.agreement import centre_prior, dice_at_top, mass_in_mask, pointing_hit
from neurorad.explanation.explain import load_scan
from neurorad.explanation.faithfulness import deletion_and_insertion, occlusion, orders
from neurorad.explanation.gradcam import gradcam, gradcam_plus_plus, look
from neurorad.explanation.sanity import cascade, rank_correlation
from neurorad.seeds import generator

PRIOR = "centre_prior"
OVERLAP = ("mass_in_tumour", "pointing_hit", "dice_top_5_percent")
NEEDED = 5
"""Fewer patients than this and no interval is given."""
REPLICATES = 2000


@dataclass(frozen=True)
class Probe:
    """A probe to explain: `weights` `[d]` on the raw embedding of `encoder`, looked at in stage `layer`."""

    encoder: Encoder
    layer: str
    weights: torch.Tensor

    def score(self, volumes: torch.Tensor) -> torch.Tensor:
        """`[B, 4, D, H, W] -> [B]`, without intercept."""
        with torch.no_grad():
            return self.encoder(volumes.float()) @ self.weights

    def maps(self, volume: torch.Tensor) -> dict[str, np.ndarray]:
        """Grad-CAM and Grad-CAM++ `[D, H, W]` of one volume, from one forward pass."""
        seen = look(self.encoder, getattr(self.encoder.network, self.layer), self.weights, volume[None])
        return {"gradcam": gradcam(seen)[0].numpy(), "gradcam++": gradcam_plus_plus(seen)[0].numpy()}


@dataclass(frozen=True)
class Effort:
    """How much is computed: `scans` with a tumour mask are compared with it, the first `close` of them are looked at
    closely (occlusion with cubes of `window` voxels, deletion in `steps`, randomised models)."""

    scans: int
    close: int
    window: int
    steps: int


def check_scans(
    probe: Probe,
    others: Mapping[str, Probe],
    table: pd.DataFrame,
    contract: Mapping[str, Any],
    effort: Effort,
    seed: int,
) -> pd.DataFrame:
    """One row a scan, map and metric: cohort, patient, scan, map, metric, value (NaN where the scan cannot tell).

    Args:
        others: probes whose maps should differ (`permuted_labels`) or agree (`seed_1`, another seed's), by name.
        table: cohort, patient, scan, volume of scans with a tumour mask, in the order in which they are taken.
        contract: `preprocessing` of the encoder's card.
    """
    rows: list[dict[str, object]] = []
    randomised = {stage: Probe(changed, probe.layer, probe.weights) for stage, changed in cascade(probe.encoder, seed)}
    for position, row in enumerate(table.head(effort.scans).itertuples()):
        voxels, tumour = load_scan(row, contract)
        volume, brain = torch.from_numpy(voxels).float(), (voxels != 0).any(axis=0)
        prior, maps = centre_prior(brain), probe.maps(volume)
        found = []
        if position < effort.close:
            alike = {f"cascade_{stage}": other for stage, other in randomised.items()} | dict(others)
            for name, other in alike.items():
                again = other.maps(volume)
                found += [(kind, name, rank_correlation(maps[kind], again[kind], brain)) for kind in maps]
            maps["occlusion"] = np.maximum(occlusion(probe.score, volume, effort.window), 0)
            random = generator(seed, "deletion", row.cohort, row.scan)
            for kind, order in orders(maps, prior, random):
                numbers = deletion_and_insertion(probe.score, volume, order, effort.steps)
                found += zip([kind] * 2, ("deletion_fall", "insertion_rise"), numbers, strict=True)
        for kind, values in {**maps, PRIOR: prior}.items():
            found += zip([kind] * 3, OVERLAP, _overlap(values, tumour, brain), strict=True)
        who = {"cohort": row.cohort, "patient": row.patient, "scan": row.scan}
        rows += [{**who, "map": kind, "metric": metric, "value": value} for kind, metric, value in found]
    return pd.DataFrame(rows, columns=["cohort", "patient", "scan", "map", "metric", "value"])


def _overlap(values: np.ndarray, tumour: np.ndarray, brain: np.ndarray) -> tuple[float, float, float]:
    return mass_in_mask(values, tumour), pointing_hit(values, tumour), dice_at_top(values, tumour, brain)


def summarise(scans: pd.DataFrame, encoder: str, endpoint: str, leakage: str, seed: int) -> pd.DataFrame:
    """Mean over patients of each map and metric, and of its difference from the centre prior on the same patients.

    Returns:
        Tidy rows: encoder method objective seed site endpoint protocol (the map) metric value ci_low ci_high n note
        leakage. The interval is a percentile bootstrap over patients; with fewer than 5 there is none.
    """
    method, objective, number = encoder_parts(encoder)
    first = {"encoder": encoder, "method": method, "objective": objective, "seed": number, "endpoint": endpoint}
    rows = []
    for (kind, metric), mine in scans.groupby(["map", "metric"], sort=True):
        values = mine.set_index(["cohort", "patient"])["value"].dropna()
        prior = scans[(scans["map"] == PRIOR) & (scans["metric"] == metric)].set_index(["cohort", "patient"])["value"]
        found = {metric: values}
        if kind != PRIOR and len(prior):
            found[f"{metric}_minus_prior"] = (values - prior.reindex(values.index)).dropna()
        for name, numbers in found.items():
            random = generator(seed, "checks", encoder, endpoint, kind, name)
            value, low, high, note = _mean(numbers.to_numpy(), random)
            interval = {"value": value, "ci_low": low, "ci_high": high}
            rows.append(
                {**first, "site": "all", "protocol": kind, "metric": name, **interval, "n": len(numbers), "note": note}
            )
    if not rows:
        note = "not estimable: no probe, or no scan with a tumour mask"
        nothing = dict.fromkeys(("value", "ci_low", "ci_high"), np.nan)
        rows = [{**first, "site": "all", "protocol": "gradcam", "metric": OVERLAP[0], **nothing, "n": 0, "note": note}]
    return pd.DataFrame(rows).assign(leakage=leakage)


def _mean(values: np.ndarray, random: np.random.Generator) -> tuple[float, float, float, str]:
    if not len(values):
        return np.nan, np.nan, np.nan, "not estimable: the map is empty or constant in every scan"
    if len(values) < NEEDED:
        return float(values.mean()), np.nan, np.nan, f"interval not estimable: {len(values)} patients (needs {NEEDED})"
    means = values[random.integers(0, len(values), (REPLICATES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high), ""
