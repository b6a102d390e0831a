"""The visual QC page of a cohort: one mosaic a scan with its numbers, the outliers first, in one file."""

import base64
import html
import io

import numpy as np
import pandas as pd
from PIL import Image as Picture

from neurorad.volumes import SEQUENCES, load

RANKED = ("brain_ml", "atlas_dice", "atlas_correlation", "edge_share", "max_motion_mm", "atlas_rotation_deg")
OUTLIER_MAD = 3.5

STYLE = """
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:76rem;padding:0 1rem}
.scan{border:1px solid #8886;border-radius:.4rem;margin:.8rem 0;padding:.6rem .8rem}.scan img{width:100%;max-width:72rem;image-rendering:pixelated;background:#000}
.flag{border-left:.4rem solid #d55e00}.bad{border-left:.4rem solid #cc3311}h2{font-size:1rem;margin:.1rem 0 .4rem}
dl{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;margin:.4rem 0 0;font-size:.85rem}dl div{display:flex;gap:.35rem}dt{opacity:.7}dd{margin:0}
dd.out{color:#d55e00;font-weight:600}
"""


def outliers(volumes: pd.DataFrame) -> pd.DataFrame:
    """True where a scan's number lies more than 3.5 scaled MADs from the cohort's median; shape [scans, RANKED]."""
    numbers = volumes.reindex(columns=list(RANKED)).astype(float)
    distance = (numbers - numbers.median()).abs()
    mad = 1.4826 * distance.median()
    return (distance > OUTLIER_MAD * mad.where(mad > 0)) & numbers.notna()


def mosaic(voxels: np.ndarray) -> bytes:
    """PNG of a volume [4, D, H, W]: a row a sequence, six axial slices, then a coronal and a sagittal one."""
    brain = np.argwhere(voxels.any(axis=0))
    low, high = brain.min(axis=0), brain.max(axis=0)
    axial = np.linspace(low[2] + 0.18 * (high[2] - low[2]), high[2] - 0.12 * (high[2] - low[2]), 6).astype(int)
    middle = (low + high) // 2
    rows = []
    for channel in voxels.astype(np.float32):
        tiles = [channel[:, :, k].T for k in axial] + [channel[:, middle[1], :].T, channel[middle[0], :, :].T]
        height = max(tile.shape[0] for tile in tiles)
        width = max(tile.shape[1] for tile in tiles)
        rows.append(np.hstack([_framed(np.flipud(tile), height, width) for tile in tiles]))
    shown = np.vstack(rows)
    grey = np.where(shown == 0, 0, np.clip((shown + 2.5) / 6, 0.05, 1) * 255).astype(np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(grey).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _framed(tile: np.ndarray, height: int, width: int) -> np.ndarray:
    framed = np.zeros((height, width), np.float32)
    top, left = (height - tile.shape[0]) // 2, (width - tile.shape[1]) // 2
    framed[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return framed


def page(volumes: pd.DataFrame) -> str:
    """The HTML page of one cohort's index: excluded scans, then flagged ones, then the rest."""
    flags = outliers(volumes)
    order = np.lexsort([volumes["scan"], ~flags.any(axis=1), volumes["status"] == "ok"])
    cohort = html.escape(str(volumes["cohort"].iloc[0])) if len(volumes) else ""
    good, flagged = int((volumes["status"] == "ok").sum()), int(flags.any(axis=1).sum())
    cards = [_card(volumes.iloc[k], flags.iloc[k]) for k in order]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>QC of {cohort}</title><style>{STYLE}</style>'
        f"<h1>QC of {cohort}</h1><p>{len(volumes)} scans: {good} volumes, {len(volumes) - good} excluded, {flagged} flagged "
        f"(a number more than {OUTLIER_MAD} MAD from the cohort's median). Rows: {', '.join(SEQUENCES)}; six axial slices "
        "from the base up, coronal, sagittal; left of the picture is the patient's left. Only stripped brains are shown.</p>"
        + "".join(cards)
        + "</html>\n"
    )


def _card(scan: pd.Series, flags: pd.Series) -> str:
    name = html.escape(str(scan["scan"]))
    if scan["status"] != "ok":
        return f'<section class="scan bad"><h2>{name}</h2>excluded: {html.escape(scan["reason"])}</section>'
    picture = base64.b64encode(mosaic(load(scan["volume"]))).decode()
    numbers = "".join(
        f"<div><dt>{key.replace('_', ' ')}</dt><dd{' class=out' if flags[key] else ''}>{scan[key]:.4g}</dd></div>"
        for key in RANKED
        if key in scan.index and pd.notna(scan[key])
    )
    kind = " flag" if flags.any() else ""
    return (
        f'<section class="scan{kind}"><h2>{name}</h2>'
        f'<img loading="lazy" alt="slices of {name}" src="data:image/png;base64,{picture}"><dl>{numbers}</dl></section>'
    )
