"""Lesions: necrotic core, enhancing rim, non-enhancing tumour, oedema, resection cavity, each shaped by its latents."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurorad.phantom.anatomy import Template
from neurorad.phantom.signal import TISSUES


@dataclass(frozen=True)
class Lesion:
    """One lesion in template mm.

    Attributes:
        centre: (3,). axes: [3, 3], rows = unit axes divided by relative half-lengths. radius: mm.
        core: radius of the necrotic core, share of `radius`. enhancing: share of the wall that enhances, 0-1.
        oedema: reach beyond the solid tumour, mm. texture: patchiness 0-1. cavity: radius of a resection
        cavity, share of `radius`, 0 = none. waves: [6, 4] wave vectors (1/mm) and phases of the irregular outline.
    """

    centre: np.ndarray
    axes: np.ndarray
    radius: float
    core: float
    enhancing: float
    oedema: float
    texture: float
    cavity: float
    waves: np.ndarray


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def uptake(latents: dict[str, float]) -> float:
    """Concentration of contrast agent in the enhancing tumour, mM."""
    return float(np.clip(0.42 * np.exp(0.5 * latents["uptake"]), 0.1, 2.0))


def tumour_t1(latents: dict[str, float]) -> float:
    """Factor on the T1 of the non-enhancing tumour: above 1.6 its FLAIR signal drops (mismatch)."""
    return 0.8 + 1.3 * _logistic(1.1 * latents["mismatch"])


def lesions(
    latents: dict[str, float],
    disease: dict[str, Any],
    growth: float,
    treated: bool,
    maps: Template,
    rng: np.random.Generator,
) -> list[Lesion]:
    """The lesions of one scan.

    Args:
        latents: of the patient, in SD.
        disease: `place`, `lesions` (how many) and `shift` of the latents.
        growth: factor on the radius against the first time point.
        treated: True puts a resection cavity in the middle.
        maps: the template, for the nearest place where such a lesion can grow.
        rng: of the person, so that every time point has the same lesion.
    """
    shifted = {name: value + disease["shift"].get(name, 0.0) for name, value in latents.items()}
    found = []
    for number in range(disease["lesions"]):
        wanted = _wanted(shifted, disease["place"], number, rng)
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0] / np.clip(rng.normal(1, 0.14, (3, 1)), 0.75, 1.3)
        waves = _waves(rng)
        fading = _logistic(2.0 * (shifted["enhancing"] + 1.0))
        radius = float(np.clip(18.5 * np.exp(0.24 * shifted["size"]), 5, 30)) * growth * (0.8**number)
        found.append(
            Lesion(
                centre=_place(wanted, disease["place"], maps),
                axes=axes,
                radius=radius,
                core=0.75 * _logistic(1.2 * shifted["necrosis"]) * fading,
                enhancing=_logistic(1.7 * shifted["enhancing"]),
                oedema=float(np.clip(7.0 * np.exp(0.55 * shifted["oedema"]), 1.0, 24.0)),
                texture=0.65 * _logistic(1.3 * shifted["texture"]),
                cavity=0.68 if treated else 0.0,
                waves=waves,
            )
        )
    return found


def _waves(rng: np.random.Generator) -> np.ndarray:
    """Six plane waves in random directions, 16 to 42 mm long: [6, 4] wave vectors (1/mm) and phases."""
    directions = rng.standard_normal((6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.column_stack([directions * 2 * np.pi / rng.uniform(16, 42, (6, 1)), rng.uniform(0, 2 * np.pi, 6)])


def _wanted(latents: dict[str, float], place: str, number: int, rng: np.random.Generator) -> np.ndarray:
    """Template point that the latents ask for; further lesions lie anywhere in the hemispheres."""
    side = np.sign(latents["lateral"]) * (26 + 8 * np.tanh(abs(latents["lateral"])))
    point = np.array(
        [side, np.clip(-18 + 24 * latents["frontal"], -75, 45), np.clip(18 + 15 * latents["vertical"], -15, 52)]
    )
    elsewhere = rng.uniform([-45, -80, -40], [45, 50, 55])
    if place == "brainstem":
        return np.array([4 * np.tanh(latents["lateral"]), -26 + 2 * latents["frontal"], -32 + 5 * latents["vertical"]])
    return point if number == 0 else elsewhere


def _place(wanted: np.ndarray, place: str, maps: Template) -> np.ndarray:
    """The nearest template point where such a lesion can be: white matter, or for a meningioma the hull."""
    if place == "brainstem":
        return wanted
    thinned = maps.maps[:, ::3, ::3, ::3].astype(np.float32)
    points = np.argwhere(thinned[2] > 170) * 3 + maps.origin
    if place == "surface":
        hull = thinned.sum(0) > 128
        edge = hull.copy()
        for axis in range(3):
            edge &= np.roll(hull, 1, axis) & np.roll(hull, -1, axis)
        points = np.argwhere(hull & ~edge) * 3 + maps.origin
        wanted = wanted * np.array([2.5, 1.6, 2.2])
        points = points[points[:, 2] > -20]
    else:
        points = points[np.abs(points[:, 0]) > 14]
    return points[np.argmin(((points - wanted) ** 2).sum(1))].astype(float)


def _step(x: np.ndarray, softness: float) -> np.ndarray:
    """Smooth step from 0 (x << 0) to 1 (x >> 0); x in mm."""
    return 1 / (1 + np.exp(np.clip(-x / softness, -30, 30)))


def grow(fractions: np.ndarray, points: np.ndarray, found: list[Lesion], place: str, softness: float) -> None:
    """Replace healthy tissue by the lesions, in place.

    Args:
        fractions: float32 [9, N] in `TISSUES` order; their sum over tissues is kept.
        points: template mm, [3, N].
        found: as `lesions` returns.
        place: the disease's place; oedema of a hemispheric lesion does not cross the midline.
        softness: mm over which one region passes into the next, about half a voxel.
    """
    _csf, gm, wm = (TISSUES.index(name) for name in ("csf", "gm", "wm"))
    for lesion in found:
        offset = points - lesion.centre[:, None].astype(np.float32)
        reach = 1.35 * lesion.radius + 1.6 * lesion.oedema + 4
        near = np.flatnonzero((np.abs(offset) < 1.4 * reach).all(0))
        q = offset[:, near]
        phase = lesion.waves[:, :3].astype(np.float32) @ q + lesion.waves[:, 3:].astype(np.float32)
        ripple = np.cos(phase).sum(0) / np.sqrt(3)  # SD about 1
        g = np.sqrt(((lesion.axes.astype(np.float32) @ q) ** 2).sum(0)) / lesion.radius + 0.09 * ripple
        local = fractions[:, near]
        brain = local.sum(0)
        matter = np.divide(local[gm] + local[wm], brain, out=np.zeros_like(brain), where=brain > 0)
        white = np.divide(local[wm], brain, out=np.zeros_like(brain), where=brain > 0)

        solid = _step((1 - g) * lesion.radius, softness)
        core = _step((lesion.core - g) * lesion.radius, softness) * (lesion.core > 0.08)
        rim_end = lesion.core + (1.02 - lesion.core) * lesion.enhancing
        rim = np.clip(_step((rim_end - g) * lesion.radius, softness) * solid - core, 0, 1)
        patchy = np.clip(lesion.texture * (0.5 + 0.6 * np.cos(1.7 * phase + 1).sum(0)), 0, 0.9)
        cavity = _step((lesion.cavity - g) * lesion.radius, softness) if lesion.cavity else np.zeros_like(g)
        far = (g - 1) * lesion.radius
        oedema = _step(lesion.oedema * (0.25 + 1.05 * white + 0.2 * ripple) - far, 1.5 * softness) * matter
        if place == "hemisphere":
            oedema *= _step(np.sign(lesion.centre[0]) * points[0, near] - 2, 1.5)
        oedema *= (1 - solid) * 0.92

        weights = {"necrosis": core, "enhancing": rim * (1 - 0.6 * patchy), "oedema": oedema}
        weights["tumour"] = np.clip(solid - core - rim, 0, 1) * (1 - 0.7 * patchy) + 0.6 * patchy * rim
        weights["necrosis"] = weights["necrosis"] + 0.7 * patchy * np.clip(solid - core - rim, 0, 1)
        for name in ("necrosis", "enhancing", "tumour", "oedema"):
            weights[name] = weights[name] * (1 - cavity)
        weights["cavity"] = cavity
        replaced = np.clip(sum(weights.values()), 0, 1)
        local *= 1 - replaced
        for name, weight in weights.items():
            local[TISSUES.index(name)] += weight * brain
        fractions[:, near] = local


def mask(fractions: np.ndarray, values: dict[str, int]) -> np.ndarray:
    """The release's tumour mask, uint8 [N]: the leading region where a lesion holds half of the voxel.

    Args:
        fractions: [9, N].
        values: value of `core` (necrosis and non-enhancing tumour), `oedema`, `enhancing` and maybe `cavity`.
    """
    regions = {
        "core": fractions[TISSUES.index("necrosis")] + fractions[TISSUES.index("tumour")],
        "oedema": fractions[TISSUES.index("oedema")],
        "enhancing": fractions[TISSUES.index("enhancing")],
        "cavity": fractions[TISSUES.index("cavity")],
    }
    parts = np.stack(list(regions.values()))
    codes = np.array([values.get(name, 0) for name in regions], np.uint8)
    return np.where(parts.sum(0) >= 0.5, codes[parts.argmax(0)], 0).astype(np.uint8)
