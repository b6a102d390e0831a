"""What is a map worth? Agreement with the tumour, faithfulness, and whether it changes when the model does.

Each number stands beside that of the centre prior, a map that knows only where a brain's middle is, and of the same
encoder without its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from neurorad.encoder import Encoder
from neurorad.encoder_names import encoder_parts
from neurorad.explanation.agreement import centre_prior, dice_at_top, mass_in_mask, pointing_hit
from neurorad.explanation.explain import Seen
from neurorad.explanation.faithfulness import deletion_and_insertion, occlusion
from neurorad.explanation.gradcam import gradcam, gradcam_plus_plus, look, not_alone
from neurorad.explanation.sanity import CASCADE, standard_ranks
from neurorad.seeds import generator

PRIOR, UNTRAINED = "centre_prior", "untrained"
"""The maps that any other must beat: a Gaussian at the brain's centre, and Grad-CAM of the untrained encoder."""
OVERLAP = ("mass_in_tumour", "pointing_hit", "dice_top_5_percent")
NEEDED = 5
"""Fewer patients than this and no interval is given."""
REPLICATES = 2000
COLUMNS = ("endpoint", "cohort", "patient", "scan", "map", "metric", "value")
KINDS = {"gradcam": gradcam, "gradcam++": gradcam_plus_plus}


@dataclass(frozen=True)
class Effort:
    """How much is computed: `scans` with a tumour mask are compared with it, the first `close` of them are looked at
    closely (occlusion with cubes of `window` voxels, deletion in `steps`, randomised models)."""

    scans: int
    close: int
    window: int
    steps: int


@dataclass(frozen=True)
class Rivals:
    """Models whose maps must differ from the probe's, or should agree with it.

    randomised: the encoder with its last stages untrained, by the name of the lowest of them. refitted: `[E, d]` weights of
    other linear models on the same encoder, by name. twins: by name an encoder of another seed, and `[E, d]` for a scan
    from its cohort and name.
    """

    layer: str
    randomised: Mapping[str, Encoder]
    refitted: Mapping[str, torch.Tensor]
    twins: Mapping[str, tuple[Encoder, Mapping[tuple[str, str], torch.Tensor]]]


def check_scans(
    encoder: Encoder,
    batch: Sequence[Seen],
    rivals: Rivals,
    endpoints: Sequence[str],
    masked: Sequence[set[tuple[str, str]]],
    close: Sequence[set[tuple[str, str]]],
    effort: Effort,
    seed: int,
) -> list[tuple[object, ...]]:
    """Rows of `COLUMNS` of the scans of one batch; NaN where a scan cannot tell.

    Args:
        endpoints: names of the E scores. masked, close: for each of them the scans (cohort, name) that are compared with
            their tumour, and those that are looked at closely.
    """
    looked = [seen for seen in batch if any(seen.key in keys for keys in masked)]
    if not looked:
        return []
    maps = [{kind: make(seen.layer)[:, 0].cpu().numpy() for kind, make in KINDS.items()} for seen in looked]
    untrained = _maps(rivals.randomised[CASCADE[-1]], rivals.layer, looked)["gradcam"]
    near = [i for i, seen in enumerate(looked) if any(seen.key in keys for keys in close)]
    alike = _likeness(encoder, [looked[i] for i in near], [maps[i] for i in near], rivals, close) if near else []
    rows: list[tuple[object, ...]] = []
    for i, seen in enumerate(looked):
        prior, mine = centre_prior(seen.brain), [e for e, keys in enumerate(close) if seen.key in keys]
        told = [(e, kind, metric, number) for key, e, kind, metric, number in alike if key == seen.key]
        hidden: np.ndarray | None = None
        if mine:
            hidden, more = _closely(encoder, seen, maps[i], prior, mine, effort, seed)
            told += more
        for e in (e for e, keys in enumerate(masked) if seen.key in keys):
            judged = {kind: values[e] for kind, values in maps[i].items()} | {PRIOR: prior, UNTRAINED: untrained[e, i]}
            if hidden is not None and e in mine:
                judged["occlusion"] = hidden[e]
            for kind, values in judged.items():
                numbers = _overlap(values, seen.tumour, seen.brain)
                told += [(e, kind, metric, number) for metric, number in zip(OVERLAP, numbers, strict=True)]
        who = (seen.row.cohort, seen.row.patient, seen.row.scan)
        rows += [(endpoints[e], *who, kind, metric, float(value)) for e, kind, metric, value in told]
    return rows


def _maps(
    encoder: Encoder, layer: str, scans: Sequence[Seen], weights: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Each kind `[E, B, D, H, W]` of B scans, from one forward pass; `weights` `[B, E, d]` are the scans' own by default."""
    volumes = torch.from_numpy(np.stack([seen.voxels for seen in scans])).to(scans[0].weights.device)
    mine = torch.stack([seen.weights for seen in scans]) if weights is None else weights.to(volumes.device)
    seen = look(encoder, getattr(encoder.network, layer), mine, volumes)
    return {kind: make(seen).cpu().numpy() for kind, make in KINDS.items()}


def _likeness(
    encoder: Encoder,
    near: Sequence[Seen],
    maps: Sequence[Mapping[str, np.ndarray]],
    rivals: Rivals,
    close: Sequence[set[tuple[str, str]]],
) -> list[tuple[tuple[str, str], int, str, str, float]]:
    """Rank correlation in the brain of each map with that of every rival: scan, place of the score, map, rival, value."""
    wanted = [
        (i, e, kind)
        for i, seen in enumerate(near)
        for e, keys in enumerate(close)
        if seen.key in keys
        for kind in KINDS
    ]
    own = {(i, e, kind): standard_ranks(maps[i][kind][e][near[i].brain]) for i, e, kind in wanted}
    found = []

    def compare(name: str, other: Mapping[str, np.ndarray], first: int = 0) -> None:
        for i, e, kind in wanted:
            ranks = standard_ranks(other[kind][first + e, i][near[i].brain])
            found.append((near[i].key, e, kind, name, float(own[i, e, kind] @ ranks)))

    for stage, changed in rivals.randomised.items():
        compare(f"cascade_{stage}", _maps(changed, rivals.layer, near))
    together = _maps(
        encoder, rivals.layer, near, torch.cat(list(rivals.refitted.values()))[None].expand(len(near), -1, -1)
    )
    for place, name in enumerate(rivals.refitted):
        compare(name, together, place * len(close))
    for name, (twin, weights) in rivals.twins.items():
        compare(name, _maps(twin, rivals.layer, near, torch.stack([weights[seen.key] for seen in near])))
    return found


def _closely(
    encoder: Encoder,
    seen: Seen,
    maps: Mapping[str, np.ndarray],
    prior: np.ndarray,
    mine: Sequence[int],
    effort: Effort,
    seed: int,
) -> tuple[np.ndarray, list[tuple[int, str, str, float]]]:
    """Occlusion maps `[E, D, H, W]`, cut at 0, and the rows of deletion and insertion for the scores in `mine`."""

    def score(volumes: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encoder(not_alone(volumes))[: len(volumes)] @ seen.weights.T

    volume = torch.from_numpy(seen.voxels).to(seen.weights.device).float()
    hidden = np.maximum(occlusion(score, volume, effort.window), 0)
    orders = [(kind, e, values[e]) for kind, values in {**maps, "occlusion": hidden}.items() for e in mine]
    random = generator(seed, "deletion", *seen.key).random(prior.shape)
    changed = deletion_and_insertion(score, volume, [*(each for *_, each in orders), prior, random], effort.steps)
    of_all = [(kind, e, place) for place, kind in ((-2, PRIOR), (-1, "random")) for e in mine]
    rows = []
    for kind, e, place in [*((kind, e, place) for place, (kind, e, _) in enumerate(orders)), *of_all]:
        for metric, values in zip(("deletion_fall", "insertion_rise"), changed, strict=True):
            rows.append((e, kind, metric, values[place, e]))
    return hidden, rows


def _overlap(values: np.ndarray, tumour: np.ndarray, brain: np.ndarray) -> tuple[float, float, float]:
    return mass_in_mask(values, tumour), pointing_hit(values, tumour), dice_at_top(values, tumour, brain)


def summarise(
    scans: pd.DataFrame, encoder: str, endpoint: str, leakage: str, seed: int, note: str = ""
) -> pd.DataFrame:
    """Mean over patients of each map and metric, and of its difference from the two rivals on the same patients.

    Args:
        scans: the endpoint's rows of `COLUMNS`. note: why there are none.

    Returns:
        Tidy rows: encoder method objective seed site endpoint protocol (the map) metric value ci_low ci_high n note
        leakage. `..._minus_prior` and `..._minus_untrained` are paired differences from the centre prior and from the map
        of the untrained encoder. The interval is a percentile bootstrap over patients; with fewer than 5 there is none.
    """
    method, objective, number = encoder_parts(encoder)
    first = {"encoder": encoder, "method": method, "objective": objective, "seed": number, "endpoint": endpoint}
    rows = []
    rivals = {"minus_prior": PRIOR, "minus_untrained": UNTRAINED}
    for (kind, metric), mine in scans.groupby(["map", "metric"], sort=True):
        values = mine.set_index(["cohort", "patient"])["value"].dropna()
        found = {metric: values}
        for suffix, rival in rivals.items():
            theirs = scans[(scans["map"] == rival) & (scans["metric"] == metric)].set_index(["cohort", "patient"])
            if kind not in rivals.values() and len(theirs):
                found[f"{metric}_{suffix}"] = (values - theirs["value"].reindex(values.index)).dropna()
        for name, numbers in found.items():
            random = generator(seed, "checks", encoder, endpoint, kind, name)
            value, low, high, caveat = _mean(numbers.to_numpy(), random)
            interval = {"value": value, "ci_low": low, "ci_high": high}
            rows.append(
                {
                    **first,
                    "site": "all",
                    "protocol": kind,
                    "metric": name,
                    **interval,
                    "n": len(numbers),
                    "note": caveat,
                }
            )
    if not rows:
        note = note or "not estimable: no scan with a tumour mask"
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
