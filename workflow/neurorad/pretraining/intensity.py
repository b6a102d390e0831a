"""Changes of intensity of a view, each sequence with numbers of its own.

Which sequence gets which effect is drawn on the CPU, so an effect is computed for those that it was drawn for and for no
other, and the host still waits for nothing. A CPU changes one sequence after the other, which so stays in its cache; a GPU
changes all of a batch at once.
"""

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from neurorad.pretraining.artefacts import along_axes, blur_matrix, gibbs_matrix, linear_matrix, low_resolution_matrix
from neurorad.pretraining.draws import generator, moved, normals, uniforms

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

    def does(self, effect: str) -> bool:
        """Whether an effect can change anything."""
        return getattr(self, effect) != (1 if effect in ("gamma", "contrast", "low_resolution") else 0)


@dataclass(frozen=True)
class Effect:
    """`rows`: k numbers, ascending, of those that get the effect. `values` `[k, ...]`: how, on the device."""

    rows: list[int]
    values: Tensor

    def among(self, start: int, stop: int) -> "Effect":
        """On the rows from `start` up to `stop`, counted from `start`."""
        first, last = bisect_left(self.rows, start), bisect_left(self.rows, stop)
        return Effect([row - start for row in self.rows[first:last]], self.values[first:last])

    def of(self, rows: Tensor) -> Tensor:
        """`[R, ...] -> [k, ...]`: `rows` itself if all get the effect, else a copy of those that do."""
        return rows if len(self.rows) == len(rows) else rows.index_select(0, self.index)

    @cached_property
    def index(self) -> Tensor:
        """`rows` on the device."""
        return moved(torch.tensor(self.rows), self.values.device)

    def each(self, rows: Tensor) -> list[Tensor]:
        """Those that get the effect, one by one: PyTorch's deterministic kernel for writing by index sorts."""
        return [rows[row] for row in self.rows]

    def put(self, changed: Tensor, rows: Tensor) -> None:
        """Write `changed` `[k, ...]` to where it came from."""
        if changed is not rows:
            torch._foreach_copy_(self.each(rows), list(changed.unbind(0)))


def drawn(seeds: Sequence[int], kept: Tensor, intensity: Intensity) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each effect whether a row (sample * sequences + sequence) gets it, and how strongly, in [-1, 1], else 0; on the CPU.
    Sequences that are not `kept` `[B, C]` get none."""
    draws = uniforms(seeds, "intensity", (2, len(EFFECTS), kept.shape[1]))
    applied, strength = {}, {}
    for number, effect in enumerate(EFFECTS):
        gets = kept & (draws[:, 0, number] < (intensity.probability if intensity.does(effect) else 0.0))
        applied[effect], strength[effect] = gets.flatten(), (gets * (2 * draws[:, 1, number] - 1)).flatten()
    return applied, strength


def planned(
    seeds: Sequence[int], kept: Tensor, size: int, intensity: Intensity, device: torch.device
) -> dict[str, Effect]:
    """What to do to views `[B, C, size, size, size]`, by row; nothing to sequences that are not `kept` `[B, C]`."""
    applied, strength = drawn(seeds, kept, intensity)

    def effect(values: Tensor, chosen: Tensor) -> Effect:
        return Effect(chosen.nonzero()[:, 0].tolist(), moved(values[chosen], device))

    scale = torch.stack([intensity.contrast ** strength["contrast"], intensity.brightness * strength["brightness"]], 1)
    amounts = torch.stack([strength[name].abs() for name in ("blur", "low_resolution", "gibbs")], dim=1)
    artefacts = effect(amounts, applied["blur"] | applied["low_resolution"] | applied["gibbs"])
    if artefacts.rows:
        artefacts = replace(artefacts, values=_artefacts(size, artefacts.values, intensity))
    knots = normals(seeds, "bias", (kept.shape[1], *[BIAS_KNOTS] * 3)).flatten(0, 1)
    return {
        "gamma": effect(intensity.gamma ** strength["gamma"], applied["gamma"]),
        "bias": effect(intensity.bias * knots, applied["bias"]),
        # Of all rows or none, as most get one of the two.
        "scale": effect(scale, (applied["contrast"] | applied["brightness"]).any().expand(len(scale))),
        "artefacts": artefacts,
        "noise": effect(intensity.noise * strength["noise"].abs(), applied["noise"]),
    }


def change_intensity(
    view: Tensor, brain: Tensor, seeds: Sequence[int], intensity: Intensity, together: int = sys.maxsize
) -> Tensor:
    """Gamma, bias field, contrast, brightness, Gibbs ringing, blur, low resolution and noise, in this order.

    Gamma and bias act on intensities above the row's lowest, because z-scores are negative in half of the brain.

    Args:
        view: `[B, C, s, s, s]`, 0 outside the brain; it is overwritten and returned. brain: `[B, 1, s, s, s]`, 0 or 1.
        together: numbers to change at a time, at least one sequence; what comes out does not depend on it.
    """
    _, channels, size, *_ = view.shape
    kept = keep_sequences(seeds, channels, intensity.sequence_dropout)
    rows, plan = view.flatten(0, 1), planned(seeds, kept, size, intensity, view.device)
    noise = [generator(seed, "noise", view.device) for seed in seeds]
    voxels = brain.sum(dim=(1, 2, 3, 4)).clamp_min(1)[:, None, None]
    # Whole samples, or one sequence of one.
    samples = together // view[0].numel()
    width, step = (channels, samples * channels) if samples else (1, 1)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        own = slice(start // channels, start // channels + len(some) // width)
        here = {name: effect.among(start, start + len(some)) for name, effect in plan.items()}
        _change(some, brain[own], voxels[own], here, noise[own])
    dropped = (~kept).flatten().nonzero()[:, 0].tolist()
    if dropped:
        torch._foreach_zero_([rows[row] for row in dropped])
    return view


def _change(
    rows: Tensor, brain: Tensor, voxels: Tensor, plan: dict[str, Effect], noise: Sequence[torch.Generator]
) -> None:
    """`rows` `[b w, s, s, s]` of samples with `brain` `[b, 1, s, s, s]` of `voxels` `[b, 1, 1]`."""
    low = _cubes(rows.flatten(1).amin(dim=1))
    span = _cubes(rows.flatten(1).amax(dim=1)) - low
    view = rows.unflatten(0, (len(brain), -1))
    if plan["gamma"].rows:
        _gamma(rows, low, span, plan["gamma"])
    if plan["bias"].rows:
        _bias(rows, low, plan["bias"])
    if plan["scale"].rows:
        _contrast_and_brightness(view, brain, voxels, span, plan["scale"].values)
    if plan["artefacts"].rows:
        # The background is 0, the mean of the brain, so blurring across the edge pulls towards the mean only.
        view.mul_(brain)
        plan["artefacts"].put(along_axes(plan["artefacts"].of(rows), plan["artefacts"].values), rows)
    if plan["noise"].rows:
        _noise(rows, span, plan["noise"], noise)
    view.mul_(brain)


def _cubes(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _gamma(rows: Tensor, low: Tensor, span: Tensor, gamma: Effect) -> None:
    """low + span ((x - low) / span) ^ g."""
    chosen, low, exponent = gamma.of(rows), gamma.of(low), _cubes(gamma.values)
    # Exponential and logarithm are vectorised on the CPU, the power with many exponents is not.
    rest = (1 - exponent) * gamma.of(span).clamp_min(1e-6).log()
    gamma.put(chosen.sub_(low).log_().mul_(exponent).add_(rest).exp_().add_(low), rows)


def _bias(rows: Tensor, low: Tensor, bias: Effect) -> None:
    """low + (x - low) exp(field), a field between normal knots."""
    matrix = moved(linear_matrix(rows.shape[-1], BIAS_KNOTS), rows.device).expand(len(bias.rows), -1, -1)
    field, chosen = along_axes(bias.values, matrix).exp_(), bias.of(rows)
    bias.put(torch.lerp(bias.of(low), chosen, field, out=chosen), rows)


def _contrast_and_brightness(view: Tensor, brain: Tensor, voxels: Tensor, span: Tensor, scale: Tensor) -> None:
    """(x - mean) c + mean + b span, with the mean over the brain; `scale` `[b w, 2]`: c and b."""
    factor, shift = scale.T.reshape(2, *view.shape[:2], 1, 1, 1)
    mean = (view.flatten(2) @ brain.flatten(2).transpose(1, 2) / voxels)[..., None, None]
    # Not addcmul, which is not vectorised for factors and sums that hold for many numbers.
    view.mul_(factor).add_((1 - factor) * mean + shift * span.view_as(shift))


def _artefacts(size: int, amounts: Tensor, intensity: Intensity) -> Tensor:
    """`[k, 3]` in [0, 1] of blur, low resolution and Gibbs ringing `-> [k, size, size]`."""
    blur, low_resolution, gibbs = amounts.T
    matrix = low_resolution_matrix(size, 1 + (intensity.low_resolution - 1) * low_resolution)
    return matrix @ blur_matrix(size, intensity.blur * blur) @ gibbs_matrix(size, intensity.gibbs * gibbs)


def _noise(rows: Tensor, span: Tensor, effect: Effect, noise: Sequence[torch.Generator]) -> None:
    """`noise`: of each sample, on the device: too many numbers to move. Other devices draw other ones."""
    numbers = torch.empty(len(effect.rows), *rows.shape[1:], device=rows.device)
    for row, own in zip(effect.rows, numbers, strict=True):
        own.normal_(generator=noise[row * len(noise) // len(rows)])
    # An absent sequence has no span and gets no noise.
    numbers.mul_(_cubes(effect.values) * (effect.of(span) > 0))
    torch._foreach_add_(effect.each(rows), list(numbers.unbind(0)))


def keep_sequences(seeds: Sequence[int], channels: int, dropout: float) -> Tensor:
    """`[B, C]` bool: False = dropped. If all were dropped, the one with the largest draw stays."""
    draws = uniforms(seeds, "sequences", (channels,))
    return (draws >= dropout) | (draws == draws.amax(dim=1, keepdim=True))
