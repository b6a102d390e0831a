"""A page to look through the maps of one probe: opened from disk, with everything inside and no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad.explanation.explain import load_scan
from neurorad.volumes import SEQUENCES

TEMPLATE = Path(__file__).with_name("viewer.html")
LONGEST = 96
"""Voxels along the longest axis of what the page holds: a 1 mm volume is thinned, so that a page stays below 10 MB."""


@dataclass(frozen=True)
class Viewed:
    """One scan of the page.

    name: what the list shows; facts: name and value pairs. voxels `[4, D, H, W]`; rise, fall `[D, H, W]` from 0 to 1,
    evidence for and against; tumour `[D, H, W]` bool.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    voxels: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    tumour: np.ndarray


def viewed(
    arrays: Mapping[str, np.ndarray], chosen: pd.DataFrame, agreement: pd.DataFrame, contract: Mapping[str, Any]
) -> Iterator[Viewed]:
    """The scans that `explain` explained, named by site, label and score: a page is passed on, an id should not be."""
    for i, (row, numbers) in enumerate(zip(chosen.itertuples(), agreement.itertuples(), strict=True)):
        voxels, tumour = load_scan(row, contract)
        reading = "above 0: above the median risk" if "days" in chosen else "above 0: positive"
        inside = (
            "not estimable" if np.isnan(numbers.mass) else f"{numbers.mass:.0%} (centre prior {numbers.prior_mass:.0%})"
        )
        facts = [
            ("site", row.cohort),
            ("known label", row.status),
            ("out-of-fold score", f"{row.score:.2f} ({reading})"),
            ("map inside the tumour", inside),
        ]
        name = f"{i + 1}: {row.cohort}, {row.status}, score {row.score:.2f}"
        yield Viewed(name, facts, voxels, arrays["maps"][i], arrays["against"][i], tumour)


def page(title: str, rule: str, stamp: str, scans: Sequence[Viewed]) -> str:
    """The HTML page. `rule` says how the scans were chosen; `stamp` is the leakage stamp, empty if there is none."""
    study = {"sequences": SEQUENCES, "stamp": stamp, "scans": [_packed(scan) for scan in scans]}
    # "</" would end the script element that holds the data.
    data = json.dumps(study).replace("</", "<\\/")
    text = (
        TEMPLATE.read_text(encoding="utf-8")
        .replace("{{TITLE}}", html.escape(title))
        .replace("{{RULE}}", html.escape(rule))
    )
    return text.replace("{{DATA}}", data)


def _packed(scan: Viewed) -> dict[str, object]:
    thin = -(-max(scan.tumour.shape) // LONGEST)
    planes = [_grey(channel) for channel in scan.voxels]
    planes += [np.clip(part * 255, 0, 255) for part in (scan.rise, scan.fall, scan.tumour)]
    arrays = np.stack([plane[::thin, ::thin, ::thin] for plane in planes]).astype(np.uint8)
    centre = [int(np.argmax(scan.rise.sum(axis=other))) // thin for other in ((1, 2), (0, 2), (0, 1))]
    if scan.tumour.any():
        centre = [int(np.argmax(scan.tumour.sum(axis=other))) // thin for other in ((1, 2), (0, 2), (0, 1))]
    packed = base64.b64encode(gzip.compress(arrays.tobytes(), mtime=0)).decode("ascii")
    return {"name": scan.name, "facts": list(scan.facts), "shape": arrays.shape[1:], "centre": centre, "voxels": packed}


def _grey(channel: np.ndarray) -> np.ndarray:
    """0 to 255 between the 1st and 99.5th percentile of the brain; the background stays 0."""
    brain = channel[channel != 0].astype(float)
    low, high = np.percentile(brain, [1, 99.5]) if brain.size else (0.0, 1.0)
    scaled = 12 + 243 * (channel.astype(float) - low) / max(high - low, 1e-6)
    return np.where(channel == 0, 0, np.clip(scaled, 12, 255))
