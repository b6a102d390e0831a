"""BiomedCLIP's vision tower (Zhang et al. 2023, arXiv 2303.00915): a 2D ViT over slices in three planes.

The file is open_clip's (`open_clip_pytorch_model.bin` of the release): `visual.trunk.*` is timm's ViT-B/16, and
`visual.head.proj.weight` its projection; the text tower is left out. Slices are placed by the brain's extent alone: the
tumour mask is never looked at. A slice is a picture of t1c, t2f and t2w as red, green and blue, each cut at its 1st and
99th percentile in the brain, squared with background and resized to the tower's 224 pixels.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.embedding.checkpoints import fit_weights, read_tensors
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

RGB = tuple(SEQUENCES.index(name) for name in ("t1c", "t2f", "t2w"))
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours, as CLIP's and BiomedCLIP's configs have them."""
CUT = (0.01, 0.99)
MARGIN = 0.1
"""Share of the brain's extent at either end of an axis where no slice is taken."""
HEAD_WIDTH = 64
PATCH, SIDE = "visual.trunk.patch_embed.proj.weight", "visual.trunk.pos_embed"


class SliceEncoder(nn.Module):
    """`[B, 4, D, H, W] -> [B, 2 d]`: mean and maximum over `slices` slices of each plane, each seen by the tower."""

    def __init__(self, tower: nn.Module, side: int, slices: int) -> None:
        super().__init__()
        self.tower = tower
        self.side = side
        self.slices = slices

    def forward(self, volumes: Tensor) -> Tensor:
        """`[B, 4, D, H, W] -> [B, d]`, one volume after the other."""
        return torch.stack([self.one(volume) for volume in volumes])

    def one(self, volume: Tensor) -> Tensor:
        """`[4, D, H, W] -> [2 d]`."""
        mean = torch.tensor(MEAN, device=volume.device).view(3, 1, 1)
        std = torch.tensor(STD, device=volume.device).view(3, 1, 1)
        seen = self.tower((pictures(volume, self.slices, self.side) - mean) / std)
        return torch.cat([seen.mean(dim=0), seen.amax(dim=0)])


def pictures(volume: Tensor, slices: int, side: int) -> Tensor:
    """`[4, D, H, W]` z-scored, background 0 -> `[3 slices, 3, side, side]` in 0..1: sagittal, coronal, axial in turn.

    An empty volume gives black pictures.
    """
    brain = (volume != 0).any(dim=0)
    colours = torch.stack([_scaled(volume[i], brain) for i in RGB])
    made = []
    for axis in range(3):
        for place in slice_places(brain, axis, slices):
            # Superior or anterior upwards, as films hang.
            picture = colours.select(axis + 1, place).transpose(1, 2).flip(1)
            height, width = picture.shape[1:]
            edge = max(height, width)
            left, top = (edge - width) // 2, (edge - height) // 2
            square = functional.pad(picture, (left, edge - width - left, top, edge - height - top))
            made.append(
                functional.interpolate(square[None], (side, side), mode="bicubic", antialias=True, align_corners=False)
            )
    return torch.cat(made).clamp(0, 1)


def slice_places(brain: Tensor, axis: int, slices: int) -> list[int]:
    """Where slices lie along an axis: evenly through the brain `[D, H, W]` (boolean), its outer tenths left out."""
    inside = brain.any(dim=tuple(i for i in range(3) if i != axis)).nonzero()
    first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, brain.shape[axis] - 1)
    reach = last - first
    ends = first + MARGIN * reach, last - MARGIN * reach
    return [round(place) for place in torch.linspace(*ends, slices, dtype=torch.float64).tolist()]


def _scaled(sequence: Tensor, brain: Tensor) -> Tensor:
    inside = sequence[brain]
    if not len(inside):
        return torch.zeros_like(sequence)
    # Not torch.quantile: it takes at most 16 million numbers.
    ordered = inside.sort().values
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in CUT)
    return torch.where(brain, ((sequence - low) / (high - low).clamp(min=1e-8)).clamp(0, 1), 0)


def biomedclip(path: str | Path, digest: str | None, slices: int = 8) -> SliceEncoder:
    """The tower of a file in BiomedCLIP's layout; its depth and width are those of the file (ViT-B/16 as released).

    Raises:
        InputError: the file is missing, another one, unsafe, or does not fit.
    """
    from timm.models.vision_transformer import VisionTransformer

    tensors = read_tensors(path, digest)
    missing = [name for name in (PATCH, SIDE, "visual.head.proj.weight") if name not in tensors]
    if missing:
        raise InputError(f"weights {path}: lacks {', '.join(missing)}; give open_clip's file of BiomedCLIP")
    width, _, patch, _ = tensors[PATCH].shape
    side = round((tensors[SIDE].shape[1] - 1) ** 0.5) * patch
    depth = len({name.split(".")[3] for name in tensors if name.startswith("visual.trunk.blocks.")})
    trunk = VisionTransformer(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, width // HEAD_WIDTH),
        num_classes=0,
    )
    project = nn.Linear(width, tensors["visual.head.proj.weight"].shape[0], bias=False)
    tower = nn.ModuleDict({"trunk": trunk, "head": nn.ModuleDict({"proj": project})})
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    fit_weights(tower, visual, path, ignored=())
    return SliceEncoder(nn.Sequential(trunk, project), side, slices).eval()
