"""Grad-CAM of a linear probe on a frozen 3D encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradcam(encoder: nn.Module, layer: nn.Module, weights: Tensor, volume: Tensor) -> Tensor:
    """`[C, D, H, W] -> [D, H, W]`: where the features of `layer` raise the probe's logit.

    Selvaraju et al. 2017, equations 1 and 2, in three dimensions: the gradient of the logit is averaged over space
    into one weight a channel, the weighted sum of the channels is cut at 0 and interpolated (trilinear) to the
    volume's grid. The intercept of the probe has no gradient and is not needed.

    Args:
        encoder: `[1, C, D, H, W] -> [1, d]`. Run in evaluation mode whatever its mode was, and put back after.
        layer: a module inside `encoder` whose output is `[1, K, D', H', W']`.
        weights: `[d]`, the probe as one linear layer on the raw embedding.
        volume: one scan.

    Returns:
        Non-negative, on the grid of `volume`, not normalised.

    Raises:
        ValueError: the layer was never reached.
    """
    seen: list[Tensor] = []
    modes = [(module, module.training) for module in encoder.modules()]
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    encoder.eval()
    try:
        # The input carries a gradient, so that the layer's output has a graph even if every weight is frozen.
        with torch.enable_grad():
            logit = (encoder(volume[None].float().requires_grad_()) @ weights).sum()
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
    if not seen:
        raise ValueError("the layer is not part of the encoder's forward pass")
    activation = seen[-1]
    # A later in-place ReLU would change the stored tensor; residual stages end in their own, so it is final.
    (gradient,) = torch.autograd.grad(logit, activation)
    channels = gradient.mean(dim=(2, 3, 4), keepdim=True)
    cam = (channels * activation).sum(dim=1, keepdim=True).clamp(min=0)
    grid = volume.shape[1:]
    return nn.functional.interpolate(cam, size=grid, mode="trilinear", align_corners=False)[0, 0].detach()
