"""Grad-CAM and Grad-CAM++ of linear models on a frozen 3D encoder: one forward pass for all endpoints of a scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """What one layer said, and what each of E scores made of it, for a batch of scans.

    activation: `[B, K, D', H', W']`, the layer's output. gradient: `[E, B, K, D', H', W']`, of each score to it.
    grid: `[D, H, W]` of the volumes. score: `[B, E]`, without intercepts.
    """

    activation: Tensor
    gradient: Tensor
    grid: tuple[int, ...]
    score: Tensor


def look(encoder: nn.Module, layer: nn.Module, weights: Tensor, volumes: Tensor) -> Layer:
    """One forward pass, and for each score a backward pass down to `layer` alone.

    Args:
        encoder: `[B, C, D, H, W] -> [B, d]`. Run in evaluation mode whatever its mode was, and put back after.
        layer: a module inside `encoder` whose output is `[B, K, D', H', W']`.
        weights: `[E, d]`, or `[B, E, d]` where each scan has models of its own: linear layers on the raw embedding (their
            intercepts have no gradient).
        volumes: `[B, C, D, H, W]`.

    Raises:
        ValueError: the layer was never reached, or has no spatial map.
    """
    seen: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # The graph begins here: what lies before needs no gradient. The copy may be changed in place by what follows.
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    batch = len(volumes)
    hook = layer.register_forward_hook(cut)
    try:
        with evaluating(encoder), torch.enable_grad():
            embedding = encoder(not_alone(volumes))[:batch]
            of_each = weights if weights.ndim == 3 else weights.expand(batch, -1, -1)
            score = torch.einsum("bd,bed->be", embedding, of_each.to(embedding))
            # A scan's score depends on its own activation alone, so the batch's sum has each scan's gradient.
            sums = [column.sum() for column in score.unbind(1)]
    finally:
        hook.remove()
    if not seen:
        raise ValueError("the layer is not part of the encoder's forward pass")
    if seen[-1].ndim != 5:
        raise ValueError(f"the layer's output {list(seen[-1].shape)} has no spatial map")
    gradient = [torch.autograd.grad(each, seen[-1], retain_graph=True)[0][:batch] for each in sums]
    return Layer(seen[-1].detach()[:batch], torch.stack(gradient), tuple(volumes.shape[2:]), score.detach())


def not_alone(volumes: Tensor) -> Tensor:
    """The batch as float32; a batch of one twice: PyTorch gives a lone volume on one CPU thread to a convolution that took
    3.5 times as long as a pair (52 against 2 x 16 ms for the demo's encoder)."""
    return (volumes if len(volumes) > 1 else volumes.repeat(2, 1, 1, 1, 1)).float()


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards each in its own mode again (MONAI's maps change with the mode)."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def gradcam(seen: Layer, against: bool = False) -> Tensor:
    """`[E, B, D, H, W]`: where the features of the layer raise the score; with `against`, where they lower it.

    Selvaraju et al. 2017, equations 1 and 2, in three dimensions: the gradient averaged over space is one weight a
    channel, and the weighted sum of the channels is cut at 0. Non-negative, not normalised.
    """
    channels = seen.gradient.mean(dim=(3, 4, 5), keepdim=True)
    return _on_grid((-1 if against else 1) * (channels * seen.activation).sum(dim=2), seen.grid)


def gradcam_plus_plus(seen: Layer) -> Tensor:
    """`[E, B, D, H, W]`: Grad-CAM++ (Chattopadhay et al. 2018, equations 10 and 19): each place of a channel has its own
    weight, so that several places count as much as one. Without the paper's factor exp(logit), which scales a whole map.
    """
    squared = seen.gradient**2
    below = 2 * squared + (seen.activation * seen.gradient**3).sum(dim=(3, 4, 5), keepdim=True)
    share = squared / (torch.where(below != 0, below, torch.ones_like(below)) + 1e-7)
    channels = (share * seen.gradient.clamp(min=0)).sum(dim=(3, 4, 5), keepdim=True)
    return _on_grid((channels * seen.activation).sum(dim=2), seen.grid)


def _on_grid(coarse: Tensor, grid: tuple[int, ...]) -> Tensor:
    return nn.functional.interpolate(coarse.clamp(min=0), size=grid, mode="trilinear", align_corners=False)
