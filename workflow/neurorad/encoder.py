"""Encoders: 3D ResNets from four sequences to one feature vector a scan, and their folder on disk."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.files import atomic, read_json
from neurorad.problems import InputError
from neurorad.resnet import Norm, ResNet
from neurorad.seeds import seed_of
from neurorad.volumes import SEQUENCES

LAYERS = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
}
"""Residual blocks per stage (He et al. 2016, table 1; resnet10: Chen et al. 2019, Med3D)."""


class GroupNorm(nn.GroupNorm):
    """Under autocast in the type of the convolutions before and after it; its kernel sums in float32 even so.

    PyTorch's autocast would run it in float32: twice the memory of all activations, and two copies of each.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, ...] -> [B, C, ...]`."""
        kind = x.device.type
        if x.is_meta or not torch.is_autocast_enabled(kind):
            return super().forward(x)
        low = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return functional.group_norm(x.to(low), self.num_groups, self.weight.to(low), self.bias.to(low), self.eps)


def group_norm(channels: int) -> GroupNorm:
    """At most 32 groups (Wu & He 2018) of at least 4 channels."""
    return GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm3d,
    "sync": nn.SyncBatchNorm,
    "group": group_norm,
    "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True),
}

WEIGHTS, CARD = "encoder.safetensors", "card.json"
SHARED_WEIGHTS, SHARED_CARD = "model.safetensors", "config.json"
"""Names in a folder that `neurorad export` made, as model hubs expect them."""


@dataclass(frozen=True)
class Architecture:
    """Everything needed to rebuild an encoder; stored in its card.

    name: a key of `LAYERS`. width: channels of the first stage (64 in the paper's ResNets); the stages have
    1, 2, 4 and 8 times as many. stem_stride: 1 or 2. stem_pool: max pooling of stride 2 after the stem.
    norm: one of `NORMS`; `sync` is batch norm over all GPUs of a run. presence: four more input channels, made inside
    the encoder: 1 where the scan has the sequence, 0 where it is absent.
    """

    name: str
    width: int
    stem_stride: int
    stem_pool: bool
    norm: str
    presence: bool = False

    def __post_init__(self) -> None:
        wrong = [
            (self.name not in LAYERS, f"name {self.name!r} is not one of {', '.join(LAYERS)}"),
            (self.width < 1, f"width {self.width} is not positive"),
            (self.stem_stride not in (1, 2), f"stem_stride {self.stem_stride} is neither 1 nor 2"),
            (self.norm not in NORMS, f"norm {self.norm!r} is not one of {', '.join(NORMS)}"),
        ]
        for is_wrong, message in wrong:
            if is_wrong:
                raise InputError(f"encoder architecture: {message}; correct it in the preset or the card")

    @property
    def stride(self) -> int:
        """Voxels of input to one voxel of the last feature map, along each axis."""
        return self.stem_stride * (2 if self.stem_pool else 1) * 8


class Encoder(nn.Module):
    """`[B, 4, D, H, W] -> [B, d]`: the mean over space of the last feature map."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        block, depths = LAYERS[architecture.name]
        self.architecture = architecture
        self.network = ResNet(
            block,
            depths,
            architecture.width,
            len(SEQUENCES) * (2 if architecture.presence else 1),
            architecture.stem_stride,
            architecture.stem_pool,
            NORMS[architecture.norm],
        )
        self.dimension = self.network.dimension

    def with_presence(self, volumes: Tensor) -> Tensor:
        """`[B, 4, D, H, W] -> [B, 8, D, H, W]` if the architecture has presence flags. An absent sequence is 0 throughout."""
        if not self.architecture.presence:
            return volumes
        present = (volumes != 0).any(dim=(2, 3, 4), keepdim=True).to(volumes.dtype)
        return torch.cat([volumes, present.expand_as(volumes)], dim=1)

    def feature_map(self, volumes: Tensor) -> Tensor:
        """`[B, 4, D, H, W] -> [B, d, D', H', W']`, with D' about D / stride."""
        return self.network(self.with_presence(volumes))

    def forward(self, volumes: Tensor) -> Tensor:
        """`[B, 4, D, H, W] -> [B, d]`."""
        # Not AdaptiveAvgPool3d: its backward is not deterministic on CUDA.
        return self.feature_map(volumes).mean(dim=(2, 3, 4))


def initialised(architecture: Architecture, seed: int) -> Encoder:
    """The untrained encoder of a seed: the common starting point of every method, and the baseline `random-s{seed}`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "encoder"))
        return Encoder(architecture)


def parameter_count(module: nn.Module) -> int:
    """Numbers that a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_weights(folder: str | Path, encoder: Encoder, name: str = WEIGHTS) -> None:
    """Write `name` into the folder: tensors only, so that reading it can run no code; their sha256 is in its header."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic(Path(folder) / name) as temporary:
        save_file(tensors, temporary, metadata={"sha256": tensors_sha256(tensors)})


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names and the bytes of tensors on the CPU, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_card(folder: str | Path) -> dict[str, Any]:
    """The card of an encoder folder.

    Raises:
        InputError: there is no card, or it does not describe an encoder.
    """
    path = _either(folder, CARD, SHARED_CARD)
    if not path.is_file():
        raise InputError(f"{path}: no such file; an encoder folder is made by `neurorad pretrain` or `neurorad export`")
    card = read_json(path)
    if not isinstance(card, dict):
        raise InputError(f"{path}: describes no encoder; make it again with `neurorad pretrain`")
    missing = {"architecture", "preprocessing"} - set(card)
    if missing:
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; make the encoder again with `neurorad pretrain`")
    return card


def _either(folder: str | Path, own: str, shared: str) -> Path:
    """The file of an encoder folder, by its name there or in an exported one."""
    folder = Path(folder)
    return folder / shared if not (folder / own).is_file() and (folder / shared).is_file() else folder / own


def architecture_of(card: Mapping[str, Any]) -> Architecture:
    """Raises InputError if the card names keys that this version does not know, or lacks some."""
    values = card["architecture"]
    known = set(Architecture.__dataclass_fields__)
    # Cards from before the presence flags lack the key.
    if set(values) | {"presence"} != known:
        raise InputError(f"encoder card: architecture has keys {sorted(values)}, this version needs {sorted(known)}")
    return Architecture(**values)


def load_encoder(folder: str | Path) -> tuple[Encoder, dict[str, Any]]:
    """A pretrained encoder, in evaluation mode on the CPU, and its card; of its own folder or of an exported one.

    Examples:
        >>> encoder, card = load_encoder("results/encoders/byol-dro-s0")  # doctest: +SKIP
        >>> features = encoder(volumes)  # doctest: +SKIP

    Raises:
        InputError: missing or damaged folder, or weights that do not fit the card.
    """
    from safetensors import SafetensorError, safe_open

    card = load_card(folder)
    path = _either(folder, WEIGHTS, SHARED_WEIGHTS)
    encoder = initialised(architecture_of(card), seed=0)
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
            written = (stored.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as problem:
        raise InputError(f"{path}: unreadable weights ({problem}); make the encoder again") from problem
    # Weights of another origin may carry none.
    if written and written != tensors_sha256(tensors):
        raise InputError(f"{path}: damaged weights (their sha256 is not the one in the header); make the encoder again")
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as problem:
        raise InputError(f"{path}: the weights do not fit the architecture in {CARD}: {problem}") from problem
    return encoder.eval(), card


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises InputError for CUDA without a usable GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: PyTorch finds no usable GPU here; use --device auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
