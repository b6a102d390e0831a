"""Blur, low resolution and Gibbs ringing of a batch: separable, so each is one small matrix an axis, sample and sequence.

Matrices multiply before volumes do: all three artefacts together cost one product an axis, as the blur alone would.
For the cubes of a view this is faster than a convolution or a Fourier transform a sample.
"""

import torch
from torch import Tensor


def along_axes(volumes: Tensor, matrix: Tensor) -> Tensor:
    """`[..., n, n, n]` and `[..., s, n] -> [..., s, s, s]`: the matrix applied along each of the three axes."""
    for _ in range(3):
        # Along the last axis, which then is the first: (i, j, k) -> (k, i, j). A product with the other factor turned is slower.
        volumes = (matrix @ volumes.flatten(-3, -2).mT).unflatten(-1, volumes.shape[-3:-1])
    return volumes


def linear_matrix(size: int, knots: int) -> Tensor:
    """`[size, knots]`: linear interpolation between knots, the first and the last at the ends."""
    places = torch.linspace(0, knots - 1, size)[:, None]
    return (1 - (places - torch.arange(knots)).abs()).clamp_min(0)


def blur_matrix(size: int, sigma: Tensor) -> Tensor:
    """Gaussian of `sigma` `[...]` voxels `-> [..., s, s]`, cut at 4 sigma; sigma 0 is the identity. At the edge of the
    view the kernel is cut and its weights add up to 1 again."""
    places = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distance = (places[:, None] - places) / sigma[..., None, None].clamp_min(1e-3)
    # Far tails would be denormal numbers, with which a CPU computes ten times as slowly.
    kernel = torch.exp(-0.5 * distance.clamp(-5, 5) ** 2) * (distance.abs() <= 4)
    return kernel / kernel.sum(dim=-1, keepdim=True)


def low_resolution_matrix(size: int, factor: Tensor) -> Tensor:
    """Voxels `factor` `[B, C]` >= 1 times as large, and back to the old grid `-> [B, C, s, s]`; factor 1 is the identity.

    Nearest neighbour down and linear up, as nnU-Net's and MONAI's simulation of low resolution.
    """
    places = torch.arange(size, device=factor.device, dtype=torch.float32)
    coarse = (size / factor).round().clamp_min(1)[..., None]
    source = ((places + 0.5) * coarse / size - 0.5).clamp_min(0)
    lower = source.floor()
    upper = torch.minimum(lower + 1, coarse - 1)
    weight = (source - lower)[..., None]
    picked = [((place * (size / coarse)).floor()[..., None] == places).float() for place in (lower, upper)]
    return picked[0] * (1 - weight) + picked[1] * weight


def gibbs_matrix(size: int, cut: Tensor) -> Tensor:
    """k-space without the outer part `cut` `[B, C]` in [0, 1) of each axis `-> [B, C, s, s]`; cut 0 is the identity.

    A box, as Cartesian sampling leaves it; ringing then follows the axes of the scan.
    """
    frequencies = torch.arange(size // 2 + 1, device=cut.device, dtype=torch.float32)
    kept = frequencies <= (1 - cut[..., None]) * size / 2
    kernel = torch.fft.irfft(kept.float(), n=size)
    places = torch.arange(size, device=cut.device)
    return kernel[..., (places[:, None] - places) % size]
