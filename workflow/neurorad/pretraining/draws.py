"""Random numbers of samples: each sample's come from its own seed, and reach the training device without waiting.

So a view or a mask depends neither on the other samples of the batch, nor on the number of devices or workers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurorad.seeds import seed_of


def moved(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on `device`. A plain copy would wait for all that a GPU still computes; one from pinned memory
    does not."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def uniforms(seeds: Sequence[int], name: str, shape: Sequence[int]) -> Tensor:
    """`[B, *shape]` in [0, 1), on the CPU: every device sees the same numbers, and the host can decide by them."""
    return torch.stack([torch.rand(*shape, generator=generator(seed, name)) for seed in seeds])


def normals(seeds: Sequence[int], name: str, shape: Sequence[int]) -> Tensor:
    """`[B, *shape]` standard normal, on the CPU."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, name)) for seed in seeds])


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Of the numbers called `name` of a sample; other devices draw other ones."""
    return torch.Generator(device).manual_seed(seed_of(seed, name))
