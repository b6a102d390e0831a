"""Every endpoint of one encoder together: which scans are read, and what is made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad.encoder import Encoder
from neurorad.explanation.checks import COLUMNS, Effort, Rivals, check_scans
from neurorad.explanation.explain import gathered, look_at, shown, weights_of
from neurorad.explanation.probes import Probe, held_out, mean_weights, shuffled
from neurorad.explanation.sanity import cascade
from neurorad.explanation.selection import chosen_scans, masked_scans
from neurorad.seeds import generator


@dataclass(frozen=True)
class Wanted:
    """Of one endpoint: the scans to show, those to compare with their tumour, and the first of them to look at closely."""

    chosen: pd.DataFrame
    masked: pd.DataFrame
    close: pd.DataFrame


@dataclass
class Explained:
    """Of one endpoint: arrays for `maps.npz`, the table of agreement, the scans shown, and the rows of the checks."""

    arrays: dict[str, np.ndarray]
    agreement: pd.DataFrame
    chosen: pd.DataFrame
    checks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))


def wanted(probe: Probe, volumes: pd.DataFrame, patients: int, effort: Effort) -> Wanted:
    """Args: volumes: cohort, scan, volume of the usable volumes. patients: how many to show."""
    chosen = chosen_scans(probe.patients, volumes, patients).merge(
        volumes, on=["cohort", "scan"], validate="one_to_one"
    )
    masked = masked_scans(probe.patients, volumes).head(effort.scans)
    return Wanted(chosen, masked, masked.head(effort.close))


def explain(
    encoder: Encoder,
    layer: str,
    probes: Sequence[Probe],
    plans: Sequence[Wanted],
    rivals: Rivals,
    contract: Mapping[str, Any],
    effort: Effort,
    device: torch.device,
    batch: int,
    seed: int,
) -> list[Explained]:
    """One pass over the scans that any endpoint wants.

    Args:
        probes, plans: of E endpoints, in one order. contract: `preprocessing` of the encoder's card. batch: scans in one
            forward pass.
    """
    keys = {
        name: [set(zip(part["cohort"], part["scan"], strict=True)) for part in (getattr(plan, name) for plan in plans)]
        for name in ("chosen", "masked", "close")
    }
    endpoints = [probe.endpoint for probe in probes]
    found: list[dict] = [{} for _ in probes]
    rows: list[tuple[object, ...]] = []
    for batch_seen in look_at(encoder.to(device), layer, probes, _in_order(plans), contract, device, batch):
        for e, kept in enumerate(keys["chosen"]):
            found[e] |= {seen.key: shown(seen, e) for seen in batch_seen if seen.key in kept}
        rows += check_scans(encoder, batch_seen, rivals, endpoints, keys["masked"], keys["close"], effort, seed)
    checks = pd.DataFrame(rows, columns=list(COLUMNS))
    return [
        Explained(*gathered(plan.chosen, found[e]), plan.chosen, checks[checks["endpoint"] == endpoints[e]])
        for e, plan in enumerate(plans)
    ]


def _in_order(plans: Sequence[Wanted]) -> pd.DataFrame:
    """Every scan once; those with the same work to do follow each other, so that they share their forward passes."""
    parts = [
        part[["cohort", "patient", "scan", "volume"]].assign(order=order)
        for plan in plans
        for order, part in enumerate((plan.close, plan.masked, plan.chosen))
    ]
    scans = pd.concat(parts).sort_values(["order", "cohort", "scan"], kind="stable")
    return scans.drop_duplicates(["cohort", "scan"]).drop(columns="order").reset_index(drop=True)


def make_rivals(
    encoder: Encoder,
    layer: str,
    probes: Sequence[Probe],
    plans: Sequence[Wanted],
    embeddings: pd.DataFrame,
    twins: Mapping[str, tuple[Encoder, Sequence[pd.DataFrame]]],
    folds: pd.DataFrame,
    device: torch.device,
    seed: int,
) -> Rivals:
    """Args: twins: by name an encoder of another seed and its tables of coefficients."""
    refitted: dict[str, list[torch.Tensor]] = {}
    for probe in probes:
        nothing = np.zeros(probe.weights.shape[1], np.float32)
        models = shuffled(probe, embeddings, generator(seed, "permuted labels", probe.endpoint))
        for name in ("simple_probe", "permuted_labels"):
            refitted.setdefault(name, []).append(torch.from_numpy(models.get(name, nothing)))
    close = pd.concat([plan.close for plan in plans]).drop_duplicates(["cohort", "scan"])
    others: dict[str, tuple[Encoder, Mapping[tuple[str, str], torch.Tensor]]] = {}
    for name, (twin, coefficients) in twins.items():
        theirs = []
        for probe in probes:
            found = held_out(probe.endpoint, twin.dimension, probe.patients, coefficients, folds)
            weights = np.zeros((len(probe.patients), twin.dimension), np.float32)
            theirs.append(
                Probe(probe.endpoint, probe.patients, weights if found is None else mean_weights(found, twin.dimension))
            )
        judged = torch.from_numpy(weights_of(close, theirs))
        others[name] = (
            twin.to(device),
            dict(zip(zip(close["cohort"], close["scan"], strict=True), judged, strict=True)),
        )
    return Rivals(
        layer,
        {stage: changed.to(device) for stage, changed in cascade(encoder, seed)},
        {name: torch.stack(each) for name, each in refitted.items()},
        others,
    )
