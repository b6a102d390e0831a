"""The QC page of a cohort: numbers ranked within the cohort, flagged scans first, verdicts given and exported on it."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from neurorad.imaging.pictures import MOSAIC, PLANES
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

OUTLIER_MAD = 3.5
MIN_RANKED = 5
"""A cohort with fewer volumes has no median to speak of: hard limits alone flag its scans."""

TEMPLATE = Path(__file__).with_name("qc_page.html")


@dataclass(frozen=True)
class Number:
    """One number of a scan's QC: what it says, which side of it is bad, and hard limits beyond which it always flags."""

    label: str
    bad: str
    low: float | None = None
    high: float | None = None


def _of_each(key: str, label: str, bad: str, **limits: float) -> dict[str, Number]:
    return {f"{name}_{key}": Number(f"{name} {label}", bad, **limits) for name in SEQUENCES}


NUMBERS = {
    "brain_ml": Number("brain volume, ml", "both", 900, 2000),
    "mask_parts": Number("parts of the mask", "high"),
    "mask_islands": Number("share of the mask outside its largest part", "high", high=0.01),
    "edge_share": Number("share of the mask on the grid's edge", "high", high=0.001),
    "atlas_dice": Number("Dice with the atlas, size taken out", "low", low=0.85),
    "atlas_correlation": Number("correlation of t1c with the atlas", "low"),
    "atlas_similarity": Number("similarity of t1c to the atlas", "low"),
    "atlas_gain": Number("its gain by registration", "low", low=-0.005),
    "atlas_rotation_deg": Number("rotation to the atlas, degrees", "high", high=45),
    "atlas_shift_mm": Number("way to the atlas, mm", "high", high=100),
    "max_motion_mm": Number("largest motion between sequences, mm", "high", high=30),
    **{f"{n}_similarity": Number(f"similarity of {n} to t1c", "low") for n in SEQUENCES if n != "t1c"},
    **{f"{n}_gain": Number(f"{n} gain by registration", "low", low=-0.005) for n in SEQUENCES if n != "t1c"},
    **_of_each("empty", "empty share of the brain", "high", high=0.05),
    **_of_each("saturated", "share at the image's maximum", "high", high=0.01),
    **_of_each("clipped", "share clipped after z-scoring", "high", high=0.001),
    "cjv": Number("CJV of white and grey matter on t1n", "high"),
    **_of_each("snr", "SNR in white matter", "low"),
    **_of_each("bias", "range of the bias field", "high"),
}
"""Thresholds of image quality depend on the site (Esteban 2017), so most numbers are only ranked within their cohort."""


def numbers(volumes: pd.DataFrame) -> pd.DataFrame:
    """`NUMBERS` of each row of an index, missing where not estimable; a gain is similarity after minus before."""
    table = volumes.copy()
    for name in ("atlas", *SEQUENCES):
        if f"{name}_similarity_before" in table:
            table[f"{name}_gain"] = table[f"{name}_similarity"] - table[f"{name}_similarity_before"]
    return table.reindex(columns=list(NUMBERS)).astype(float)


def deviations(values: pd.DataFrame) -> pd.DataFrame:
    """How far each number lies from the cohort's median towards its bad side, in scaled MADs (1.4826 MAD = 1 SD).

    Missing where it cannot be ranked: fewer than `MIN_RANKED` scans have it, or more than half are equal.
    """
    distance = values - medians(values)
    mad = 1.4826 * medians(distance.abs())
    mad = mad.where((mad > 1e-9) & (values.notna().sum() >= MIN_RANKED))
    sign = pd.Series({key: {"high": 1, "low": -1, "both": 0}[number.bad] for key, number in NUMBERS.items()})
    oriented = distance * sign.where(sign != 0, 1)
    oriented[sign.index[sign == 0]] = distance[sign.index[sign == 0]].abs()
    return oriented / mad


def medians(values: pd.DataFrame) -> pd.Series:
    """Median of each column, missing where the column has no value."""
    return values.dropna(axis=1, how="all").median().reindex(values.columns)


def beyond_limits(values: pd.DataFrame) -> pd.DataFrame:
    """True where a number is beyond a hard limit of `NUMBERS`."""
    low = pd.Series({key: -np.inf if n.low is None else n.low for key, n in NUMBERS.items()})
    high = pd.Series({key: np.inf if n.high is None else n.high for key, n in NUMBERS.items()})
    return values.lt(low) | values.gt(high)


def page(volumes: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """The HTML page of one cohort's index: one file, no network; scans beyond a limit first, then by deviation.

    Args:
        volumes: the index; scans without a volume are listed with their reasons, the others shown.
        verdicts: `read_verdicts`; what is edited on the page starts from them.

    Raises:
        InputError: a volume without its pictures.
    """
    cohort = str(volumes["cohort"].iloc[0]) if len(volumes) else ""
    shown = volumes[volumes["volume"] != ""].reset_index(drop=True)
    values = numbers(shown)
    away, beyond = deviations(values), beyond_limits(values)
    worst = away.max(axis=1).fillna(0.0)
    middle = medians(values)
    order = np.lexsort([shown["scan"], -worst, ~beyond.any(axis=1)])
    flags = beyond | (away > OUTLIER_MAD)
    given = {row["scan"]: row for row in verdicts.drop(columns="row").to_dict("records")}
    data = {
        "cohort": cohort,
        "mosaic": MOSAIC,
        "planes": PLANES,
        "sequences": SEQUENCES,
        "outlier": OUTLIER_MAD,
        "ranked": len(shown) >= MIN_RANKED,
        "numbers": [[number.label, _rounded(middle[key]), number.low, number.high] for key, number in NUMBERS.items()],
        "scans": [
            {
                "scan": shown["scan"][k],
                "sha256": shown["sha256"][k],
                "values": [_rounded(v) for v in values.iloc[k]],
                "away": [_rounded(v) for v in away.iloc[k]],
                "flags": [int(i) for i in np.flatnonzero(flags.iloc[k])],
                "beyond": [int(i) for i in np.flatnonzero(beyond.iloc[k])],
                "worst": _rounded(worst[k]),
            }
            for k in order
        ],
        "excluded": volumes.loc[volumes["volume"] == "", ["scan", "reason"]].to_dict("records"),
        "verdicts": given,
    }
    pictures = "".join(
        f'<script type="text/plain" id="p{place}">{_picture(shown["volume"][k])}</script>\n'
        for place, k in enumerate(order)
    )
    text = TEMPLATE.read_text(encoding="utf-8")
    # In a script element only `</` can end the text early.
    encoded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return text.replace("{{COHORT}}", cohort).replace("{{DATA}}", encoded).replace("{{PICTURES}}", pictures)


def _rounded(value: float) -> float | None:
    return float(f"{round(value, 9):.4g}") if np.isfinite(value) else None


def _picture(volume: str) -> str:
    """Base64 of a scan's two layers, with a blank between."""
    try:
        layers = [Path(volume).with_suffix(suffix).read_bytes() for suffix in (".qc.webp", ".qc.png")]
    except OSError as problem:
        raise InputError(
            f"{volume}: no picture of the volume ({problem}); remove the index of its shard (shards/*.tsv) and run again"
        ) from problem
    return " ".join(base64.b64encode(layer).decode("ascii") for layer in layers)
