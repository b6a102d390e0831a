"""Changes of intensity of a view, each sequence with numbers of its own.

Which sequence gets which effect is drawn on the CPU, so an effect is computed for those that it was drawn for and for no
other, and the host still waits for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurorad.pretraining.artefacts import along_axes, blur_matrix, gibbs_matrix, linear_matrix, low_resolution_matrix
from neurorad.pretraining.draws import moved, noise_rows, normals, uniforms
from neurorad.problems import InputError

EFFECTS = ("gamma", "contrast", "brightness", "bias", "blur", "noise", "low_resolution", "gibbs")

BIAS_KNOTS = 4
"""Knots of the bias field along an axis."""


@dataclass(frozen=True)
class Intensity:
    """`probability` holds for each effect and sequence. `gamma`, `contrast`: largest factor g, drawn log-uniformly in
    [1/g, g]. `brightness`: largest shift as a fraction of the intensity range. `bias`: standard deviation of the log
    of the bias field. `blur`: largest sigma in voxels. `low_resolution`: largest factor by which voxels grow. `gibbs`:
    largest part of k-space cut off along each axis. `noise`: largest standard deviation in units of the z-score.
    `sequence_dropout`: probability that a sequence is absent; one always stays."""

    probability: float
    gamma: float
    brightness: float
    contrast: float
    bias: float
    blur: float
    low_resolution: float
    gibbs: float
    noise: float
    sequence_dropout: float

    def __post_init__(self) -> None:
        if self.gamma < 1 or self.contrast < 1 or self.low_resolution < 1 or not 0 <= self.gibbs < 1:
            raise InputError(
                "preset: intensity.gamma, contrast and low_resolution are factors of at least 1, gibbs lies in [0, 1)"
            )

    def does(self, effect: str) -> bool:
        """Whether an effect can change anything."""
        return getattr(self, effect) != (1 if effect in ("gamma", "contrast", "low_resolution") else 0)


def drawn(seeds: Sequence[int], channels: int, intensity: Intensity) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each effect the rows (sample * channels + sequence) that get it, and how strongly, in [-1, 1]; on the CPU."""
    draws = uniforms(seeds, "intensity", (2, len(EFFECTS), channels))
    found = {}
    for number, effect in enumerate(EFFECTS):
        applied = draws[:, 0, number] < (intensity.probability if intensity.does(effect) else 0.0)
        rows = applied.flatten().nonzero()[:, 0]
        found[effect] = rows, 2 * draws[:, 1, number].flatten()[rows] - 1
    return found


def change_intensity(view: Tensor, brain: Tensor, seeds: Sequence[int], intensity: Intensity) -> Tensor:
    """Gamma, bias field, contrast, brightness, Gibbs ringing, blur, low resolution and noise, in this order.

    Gamma and bias act on intensities above the row's lowest, because z-scores are negative in half of the brain.

    Args:
        view: `[B, C, s, s, s]`, 0 outside the brain; it is overwritten and returned. brain: `[B, 1, s, s, s]`, 0 or 1.
    """
    rows, effects = view.flatten(0, 1), drawn(seeds, view.shape[1], intensity)
    low = rows.flatten(1).amin(dim=1)[:, None, None, None]
    span = rows.flatten(1).amax(dim=1)[:, None, None, None] - low
    _gamma(rows, low, span, intensity.gamma, *effects["gamma"])
    _bias(rows, low, seeds, view.shape[1], intensity.bias, effects["bias"][0])
    _contrast_and_brightness(view, brain, span, intensity, effects)
    # The background is 0, the mean of the brain, so blurring across the edge pulls towards the mean only.
    view.mul_(brain)
    _artefacts(rows, intensity, effects)
    # An absent sequence has no span and gets no noise.
    _noise(rows, seeds, (span > 0) * intensity.noise, *effects["noise"])
    dropped = (~keep_sequences(seeds, view.shape[1], intensity.sequence_dropout)).flatten().nonzero()[:, 0].tolist()
    if dropped:
        torch._foreach_zero_([rows[row] for row in dropped])
    return view.mul_(brain)


def _replace(rows: Tensor, chosen: Tensor, changed: Tensor) -> None:
    """Not by index: PyTorch's deterministic kernel for that sorts."""
    torch._foreach_copy_([rows[row] for row in chosen.tolist()], list(changed.unbind(0)))


def _gamma(rows: Tensor, low: Tensor, span: Tensor, largest: float, chosen: Tensor, strength: Tensor) -> None:
    """low + span ((x - low) / span) ^ g."""
    if not len(chosen):
        return
    here = moved(chosen, rows.device)
    exponent = moved(largest**strength, rows.device)[:, None, None, None]
    # Exponential and logarithm are vectorised on the CPU, the power with many exponents is not.
    logarithm = rows.index_select(0, here).sub_(low[here]).log_()
    rest = (1 - exponent) * span[here].clamp_min(1e-6).log()
    _replace(rows, chosen, torch.addcmul(rest, logarithm, exponent, out=logarithm).exp_().add_(low[here]))


def _bias(rows: Tensor, low: Tensor, seeds: Sequence[int], channels: int, deviation: float, chosen: Tensor) -> None:
    """low + (x - low) exp(field), a field between normal knots."""
    if not len(chosen):
        return
    here = moved(chosen, rows.device)
    knots = deviation * normals(seeds, "bias", (channels, *[BIAS_KNOTS] * 3)).flatten(0, 1)[chosen]
    matrix = linear_matrix(rows.shape[-1], BIAS_KNOTS).expand(len(chosen), -1, -1)
    field = along_axes(moved(knots, rows.device), moved(matrix.contiguous(), rows.device))
    _replace(rows, chosen, torch.lerp(low[here], rows.index_select(0, here), field.exp_()))


def _contrast_and_brightness(
    view: Tensor, brain: Tensor, span: Tensor, intensity: Intensity, effects: dict[str, tuple[Tensor, Tensor]]
) -> None:
    """(x - mean) c + mean + b span, with the mean over the brain."""
    (scaled, contrast), (shifted, brightness) = effects["contrast"], effects["brightness"]
    if not len(scaled) + len(shifted):
        return
    factor, shift = torch.ones(len(span)), torch.zeros(len(span))
    factor[scaled], shift[shifted] = intensity.contrast**contrast, intensity.brightness * brightness
    factor, shift = moved(torch.stack([factor, shift]), view.device).view(2, *view.shape[:2], 1, 1, 1)
    mean = view.flatten(2) @ brain.flatten(2).transpose(1, 2) / brain.sum(dim=(1, 2, 3, 4)).clamp_min(1)[:, None, None]
    rest = (1 - factor) * mean[..., None, None] + shift * span.view_as(shift)
    torch.addcmul(rest, view, factor, out=view)


def _artefacts(rows: Tensor, intensity: Intensity, effects: dict[str, tuple[Tensor, Tensor]]) -> None:
    amounts = torch.zeros(3, len(rows))
    for amount, effect in zip(amounts, ("blur", "low_resolution", "gibbs"), strict=True):
        chosen, strength = effects[effect]
        amount[chosen] = strength.abs()
    chosen = amounts.any(dim=0).nonzero()[:, 0]
    if not len(chosen):
        return
    size, (blur, low_resolution, gibbs) = rows.shape[-1], moved(amounts[:, chosen].contiguous(), rows.device)
    matrix = low_resolution_matrix(size, 1 + (intensity.low_resolution - 1) * low_resolution)
    matrix = matrix @ blur_matrix(size, intensity.blur * blur) @ gibbs_matrix(size, intensity.gibbs * gibbs)
    _replace(rows, chosen, along_axes(rows.index_select(0, moved(chosen, rows.device)), matrix))


def _noise(rows: Tensor, seeds: Sequence[int], largest: Tensor, chosen: Tensor, strength: Tensor) -> None:
    if not len(chosen):
        return
    counts = torch.bincount(chosen * len(seeds) // len(rows), minlength=len(seeds)).tolist()
    deviation = moved(strength.abs(), rows.device)[:, None, None, None] * largest[moved(chosen, rows.device)]
    noise = noise_rows(seeds, counts, rows.shape[1:], rows.device).mul_(deviation)
    torch._foreach_add_([rows[row] for row in chosen.tolist()], list(noise.unbind(0)))


def keep_sequences(seeds: Sequence[int], channels: int, dropout: float) -> Tensor:
    """`[B, C]` bool: False = dropped. If all were dropped, the one with the largest draw stays."""
    draws = uniforms(seeds, "sequences", (channels,))
    return (draws >= dropout) | (draws == draws.amax(dim=1, keepdim=True))
