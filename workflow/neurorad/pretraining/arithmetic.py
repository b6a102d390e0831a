"""What a run will need, by arithmetic on its preset: no network is built and torch is not imported.

Snakemake asks for a job's memory and time with it, each time it reads the workflow.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurorad import RESOURCES
from neurorad.files import read_yaml
from neurorad.problems import InputError

PRESETS = RESOURCES / "presets.yaml"

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}

MOMENTUM = {"byol", "dino", "moco"}
"""Methods with a second network, which sees the large views without gradient."""

SUSTAINED = {24: 14e12, 48: 17e12, 80: 35e12}
"""FLOP/s that a 3D ResNet in bfloat16 is assumed to sustain on cards of so many GB (A10 or RTX 4090, A6000 or L40, A100 or
H100). The preset `modern` sustained 41 to 64e12 on an H100 (benchmarks/pretraining.md); memory bandwidth limits it, by which
the others are scaled. An assumption; `neurorad cost` measures the machine it runs on."""

HEAD_NORM_SAMPLES = 16
"""Heads have batch norm from this batch size on; below it the statistics of a batch are of no use."""

PROCESS_BYTES = 2.5e9
"""Python with torch and MONAI, and CUDA's libraries: 1.6 GB measured on the CPU, with training."""

KEPT_BYTES = 2**30
"""Volumes that a job keeps in memory: all of a small study, next to none of a large one, whose volumes lie in the page
cache, which all jobs of a machine share."""

BATCHES_IN_MEMORY = 4
"""One at work and three read ahead."""


@dataclass(frozen=True)
class Need:
    """Of one optimiser step: `flops`. Of one sample on the device: `sample_bytes` of activations while it is learned from, and
    `view_bytes` of volumes and views, all of a step and of the next at once. Of the run: `state_bytes` (weights, gradients,
    AdamW, momentum network), `parameters` of the encoder, and whether its steps are `divisible` into micro-batches."""

    parameters: int
    flops: float
    sample_bytes: float
    view_bytes: float
    state_bytes: float
    steps: int
    batch_size: int
    divisible: bool

    def samples_at_once(self, card_gb: float) -> int:
        """The largest even part of a batch that a card can learn from at once, a fifth of it left free, as more was measured
        than is estimated; 0 if it holds none."""
        room = 0.8 * card_gb * 1e9 - self.state_bytes - self.batch_size * self.view_bytes
        fitting = max(0, min(self.batch_size, int(room // self.sample_bytes)))
        return next((n for n in range(fitting, 0, -1) if self.batch_size % n == 0), 0)

    def micro_batches(self, card_gb: float) -> int | None:
        """The fewest micro-batches with which a step fits a card; None if it does not fit."""
        samples = self.samples_at_once(card_gb)
        if samples == self.batch_size:
            return 1
        return self.batch_size // samples if samples and self.divisible else None

    def device_bytes(self, parts: int = 1) -> float:
        """In all, with so many micro-batches."""
        learned = self.batch_size // parts * self.sample_bytes
        return self.state_bytes + self.batch_size * self.view_bytes + learned

    def hours(self, speed: float) -> float:
        """At `speed` FLOP/s."""
        return self.steps * self.flops / speed / 3600


def convolutions(architecture: Mapping[str, Any], size: int) -> Iterator[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel edge, edge of the output) of each convolution of an encoder on a cube of `size`."""
    expansion = 4 if architecture["name"] == "resnet50" else 1
    channels, size = architecture["width"], math.ceil(size / architecture["stem_stride"])
    yield 8 if architecture["presence"] else 4, channels, 7, size
    if architecture["stem_pool"]:
        size = math.ceil(size / 2)
    for stage, count in enumerate(BLOCKS[architecture["name"]]):
        planes = architecture["width"] * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            reduced = math.ceil(size / stride)
            if expansion == 4:
                yield channels, planes, 1, size
                yield planes, planes, 3, reduced
                yield planes, 4 * planes, 1, reduced
            else:
                yield channels, planes, 3, reduced
                yield planes, planes, 3, reduced
            if stride != 1 or channels != expansion * planes:
                yield channels, expansion * planes, 1, reduced
            channels, size = expansion * planes, reduced


def forward_flops(architecture: Mapping[str, Any], size: int) -> float:
    """FLOP of one view through the encoder; a multiplication and an addition are two."""
    return float(sum(_each_flops(architecture, size)))


def learning_flops(architecture: Mapping[str, Any], size: int) -> float:
    """FLOP of one view forward and backward: the gradient of each convolution's weights costs as much again, and so does that of
    its input; the first one's input is the view, which has none."""
    stem, *others = _each_flops(architecture, size)
    return float(2 * stem + 3 * sum(others))


def _each_flops(architecture: Mapping[str, Any], size: int) -> list[int]:
    return [2 * i * o * k**3 * n**3 for i, o, k, n in convolutions(architecture, size)]


def activation_numbers(architecture: Mapping[str, Any], size: int) -> int:
    """Outputs of convolutions and norms that one view leaves for its gradient."""
    return sum(2 * outputs * edge**3 for _, outputs, _, edge in convolutions(architecture, size))


def encoder_parameters(architecture: Mapping[str, Any]) -> int:
    """Weights of convolutions, and two numbers a channel of each norm (instance norm: the same)."""
    return sum(i * o * k**3 + 2 * o for i, o, k, _ in convolutions(architecture, 64))


def views(preset: Mapping[str, Any], method: str) -> list[int]:
    """Edges of the views of a sample that are differentiated."""
    own = preset[method]
    if method == "dino":
        return [own["global_crop"]["size"]] * 2 + [own["local_crop"]["size"]] * own["local_crops"]
    return [own["crop"]["size"]] * (2 if _predicts(preset, method) else 1)


def _predicts(preset: Mapping[str, Any], method: str) -> bool:
    """Whether both views are differentiated; the key view of MoCo v2 is seen by the momentum network only."""
    return method == "byol" or (method == "moco" and preset["moco"]["version"] == 3)


def _decoder_flops(preset: Mapping[str, Any], size: int) -> float:
    """FLOP of MAE's decoder, forward and backward, on the last feature map of a view: its transposed convolutions, which double
    the size, and the last convolution."""
    width, work = preset["mae"]["decoder_width"], 0
    *_, (_, inputs, _, edge) = convolutions(preset["encoder"], size)
    for stage in reversed(range((size // edge).bit_length() - 1)):
        outputs, edge = width * min(2**stage, 8), 2 * edge
        work += 2 * inputs * outputs * edge**3
        inputs = outputs
    return 3.0 * (work + 2 * inputs * 4 * 27 * edge**3)


def divisible(preset: Mapping[str, Any], method: str) -> bool:
    """Whether a step's samples may be divided into micro-batches: not with batch norm, in the encoder or in the heads of
    large batches, and not where they are each other's negatives. What `pretrain` refuses, it refuses by the networks themselves."""
    heads = method == "byol" and preset["training"]["batch_size"] >= HEAD_NORM_SAMPLES
    third = method == "moco" and preset["moco"]["version"] == 3
    return not (preset["encoder"]["norm"] in ("batch", "sync") or heads or third)


def need(preset: Mapping[str, Any], method: str, shape: Sequence[int] = (160, 192, 160)) -> Need:
    """What a run needs on a GPU, in bfloat16. `shape`: of a volume. Heads are left out.

    Of the preset `modern` the memory is 0.86 to 0.92 of the peak that was measured on an H100.
    """
    architecture, training = preset["encoder"], preset["training"]
    learned = views(preset, method)
    both = method == "dino" or _predicts(preset, method)
    masking = preset["mae"]["masking"] if method == "mae" else None
    of_features = masking == "voxel_feature"
    watched = [max(learned)] * (2 if both else 1 if method == "moco" or of_features else 0)
    work = sum(learning_flops(architecture, size) for size in learned)
    work += sum(forward_flops(architecture, size) for size in watched)
    numbers = sum(activation_numbers(architecture, size) for size in learned)
    if masking == "sparse":
        # Norms over visible voxels keep more for their gradient: twice the dense encoder's, counted in tensors saved.
        numbers *= 2
    if masking and not of_features:
        work += _decoder_flops(preset, max(learned))
        # The decoder's convolution, norm and activation at full size, and at half of it an axis, with twice the channels, ...
        numbers += 4 * preset["mae"]["decoder_width"] * max(learned) ** 3
    parameters = encoder_parameters(architecture)
    # With presence flags twice the channels: kept in bfloat16 for the stem's gradient, and in float32 of one view at a time.
    channels = 8 if architecture["presence"] else 4
    inputs = channels * (2 * sum(size**3 for size in learned) + 4 * max(learned) ** 3)
    # Volumes in float16, views in float32, of this step and of the next.
    seen = [*learned, *([] if both or of_features else watched)]
    view_bytes = 2 * 4 * (2 * math.prod(shape) + 4 * sum(size**3 for size in seen))
    return Need(
        parameters=parameters,
        flops=work * training["batch_size"],
        sample_bytes=2 * numbers + inputs,
        view_bytes=view_bytes,
        state_bytes=4 * parameters * (4 + (1 if method in MOMENTUM else 0)),
        steps=training["steps"],
        batch_size=training["batch_size"],
        divisible=divisible(preset, method),
    )


def preset_values(name: str, path: str | Path = PRESETS) -> dict[str, Any]:
    """The preset `name` of a file, as written; `read_preset` checks its keys.

    Raises:
        InputError: no such file, no YAML, or no preset of this name.
    """
    presets = read_yaml(path)
    if not isinstance(presets, Mapping):
        raise InputError(f"{path}: expected names of presets with their keys, got {presets!r}")
    # YAML reads a name of digits as a number.
    presets = {str(key): values for key, values in presets.items()}
    if name not in presets:
        raise InputError(f"{path}: no preset {name!r}; it has {', '.join(presets)}")
    if not isinstance(presets[name], Mapping):
        raise InputError(f"{path}: preset {name}: expected keys and values, got {presets[name]!r}")
    return presets[name]


def job_memory_mb(preset: Mapping[str, Any], shape: Sequence[int]) -> int:
    """Host memory of a job on a GPU: the process, and the volumes kept and read ahead. `shape`: of a volume."""
    batch = preset["training"]["batch_size"] * 4 * math.prod(shape) * 2
    # PyTorch rounds what a GPU copies from up to a power of two.
    wanted = PROCESS_BYTES + KEPT_BYTES + BATCHES_IN_MEMORY * 2 ** math.ceil(math.log2(batch))
    return math.ceil(wanted / 1e8) * 100


def job_minutes(preset: Mapping[str, Any], method: str) -> int:
    """Twice the time on the slowest card of `SUSTAINED`, and half an hour to read and check the volumes."""
    return math.ceil(30 + 2 * 60 * need(preset, method).hours(min(SUSTAINED.values())))
