"""truth.json: what was planted, and how well the planted features themselves predict the released labels."""

import math
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from neurorad.endpoints import binary, endpoints
from neurorad.phantom.plan import LATENTS
from neurorad.phantom.render import Study, is_native, motion, protocol_of, scanner_of, scanner_to_person
from neurorad.volumes import SEQUENCES


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve from midranks (Hanley and McNeil 1982); None with fewer than two classes."""
    positive = np.asarray(labels) == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def c_index(days: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float | None:
    """Harrell's c: share of comparable pairs (the earlier one died) in which the earlier had the higher risk."""
    earlier = (days[:, None] < days[None, :]) & (event[:, None] == 1)
    if not earlier.any():
        return None
    ahead = np.sign(risk[:, None] - risk[None, :])
    return float((earlier * (ahead + 1) / 2).sum() / earlier.sum())


def truth(study: Study) -> dict[str, Any]:
    """All that was planted, as plain data.

    Keys: `endpoints` (per site: prevalence and AUC of the planted latent on the released labels),
    `survival` (per site: events, c-index of the planted log hazard), `effects`, `faults`, `patients` (true
    labels, latents, hazard), `scans` (scanner, protocol, and for scans on scanner grids the transforms).
    """
    plan = study.plan
    sites = [
        cohort for cohort in study.recipe["cohorts"] if plan.released.query("cohort == @cohort")["idh1"].notna().any()
    ]
    return {
        "seed": study.seed,
        "spacing": study.spacing,
        "effects": _effects(study.recipe),
        "endpoints": {site: _endpoint_rows(study, site) for site in sites},
        "survival": {site: _survival_row(study, site) for site in sites},
        "hazard": study.recipe["survival"],
        "faults": plan.faults,
        "patients": [_plain(row) for row in plan.patients.drop(columns="kind").to_dict("records")],
        "scans": [_scan_row(study, row) for row in plan.scans.to_dict("records")],
    }


def _effects(recipe: dict[str, Any]) -> dict[str, Any]:
    """Each endpoint's latent and effect; for a binary one also the AUC it has in an infinite sample."""
    return {
        name: {**entry, "expected_auc": float(norm.cdf(abs(entry["effect"]) / math.sqrt(2)))}
        if "effect" in entry
        else dict(entry)
        for name, entry in recipe["effects"].items()
    }


def _endpoint_rows(study: Study, site: str) -> dict[str, Any]:
    known = study.plan.released[study.plan.released["cohort"] == site]
    rows = {}
    for name, endpoint in endpoints().items():
        if name not in study.recipe["effects"]:
            continue
        latent = study.recipe["effects"][name]["latent"]
        labels = binary(known[name], endpoint).dropna()
        if labels.empty:
            continue
        scores = study.plan.patients.loc[labels.index, f"latent_{latent}"]
        rows[name] = {
            "latent": latent,
            "n": len(labels),
            "n_positive": int(labels.sum()),
            "prevalence": float(labels.mean()),
            "auc": auc(labels.to_numpy(), scores.to_numpy()),
        }
    return rows


def _survival_row(study: Study, site: str) -> dict[str, Any]:
    rows = study.plan.patients[study.plan.patients["cohort"] == site]
    days, event, risk = (rows[name].to_numpy(float) for name in ("os_days", "event", "log_hazard"))
    return {"n": len(rows), "n_events": int(event.sum()), "c_index": c_index(days, event, risk)}


def _scan_row(study: Study, scan: dict[str, Any]) -> dict[str, Any]:
    row = {
        key: scan[key]
        for key in ("cohort", "patient", "person", "session", "scan", "days", "growth", "treated", "grid")
    }
    row["scanner"] = scanner_of(study, scan)[0]
    row["protocol"] = protocol_of(study, scan)
    if is_native(scan):
        row["to_t1c"] = {sequence: motion(study, scan, sequence).tolist() for sequence in SEQUENCES}
        row["t1c_to_person"] = scanner_to_person(study, scan).tolist()
    return _plain(row)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """NumPy scalars as Python's own, latents gathered under one key."""
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    latents = {name: plain.pop(f"latent_{name}") for name in LATENTS if f"latent_{name}" in plain}
    return {**plain, "latents": latents} if latents else plain
