"""Presets: named sets of hyper-parameters, read from `resources/presets.yaml`; unknown and missing keys are refused."""

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from neurorad.encoder import Architecture
from neurorad.flag_values import LARGEST
from neurorad.pretraining.arithmetic import preset_values
from neurorad.pretraining.byol import ByolSettings
from neurorad.pretraining.dino import DinoSettings
from neurorad.pretraining.dro import DroSettings
from neurorad.pretraining.geometry import Crop, Geometry
from neurorad.pretraining.intensity import Intensity
from neurorad.pretraining.mae import MaeSettings, check_with_encoder
from neurorad.pretraining.moco import MocoSettings
from neurorad.pretraining.sampler import SAMPLING
from neurorad.problems import InputError

METHOD_SETTINGS = {"byol": ByolSettings, "dino": DinoSettings, "mae": MaeSettings, "moco": MocoSettings}

SCHEDULES = ("cosine", "constant")

Limits = tuple[float, float]
UNBOUNDED = (-math.inf, math.inf)

LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("flip", "probability", "sequence_dropout", "tube", "momentum", "centre_momentum"), (0, 1)),
    **dict.fromkeys(("teacher_warmup", "frozen_prototypes"), (0, 1)),
    # Of intensities far more than any use, and far less than what overflows in float32.
    **dict.fromkeys(("brightness", "bias", "noise"), (0, 10)),
    **dict.fromkeys(("gamma", "contrast"), (1, 10)),
    "blur": (0, 100),
    "gibbs": (0, 0.99),
    "low_resolution": (1, 100),
    "scale": (0.01, 1),
    "local_crops": (0, math.inf),
    **dict.fromkeys(("output", "bottleneck", "block", "decoder_width"), (1, math.inf)),
    # One channel of one sample has no variance.
    "hidden": (2, math.inf),
    **dict.fromkeys(("student_temperature", "teacher_temperature", "temperature"), (0.001, math.inf)),
    "prototypes": (2, math.inf),
    # Far above any use; beyond, a weight would be inf - inf.
    **dict.fromkeys(("eta", "adjustment"), (0, 1e6)),
}
"""Least and largest value of each number that its section does not check itself."""


@dataclass(frozen=True)
class Training:
    """`steps`: optimiser steps. `warmup`: fraction of them. `schedule`: of the learning rate after it. `clip_norm`:
    largest gradient norm. `log_every`: steps between rows of history and groups. The optimiser is AdamW."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    schedule: str
    clip_norm: float
    sampling: str
    log_every: int

    def __post_init__(self) -> None:
        if min(self.steps, self.log_every) < 1 or self.batch_size < 2:
            raise InputError(
                f"training.steps {self.steps} and log_every {self.log_every} must be at least 1, "
                f"batch_size {self.batch_size} at least 2"
            )
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.warmup < 1 and self.weight_decay >= 0):
            raise InputError(
                f"training.learning_rate {self.learning_rate} and clip_norm {self.clip_norm} must be positive, "
                f"warmup {self.warmup} in [0, 1), weight_decay {self.weight_decay} at least 0"
            )
        for key, known in (("schedule", SCHEDULES), ("sampling", SAMPLING)):
            if getattr(self, key) not in known:
                raise InputError(f"training.{key} is {getattr(self, key)!r}, not one of {', '.join(known)}")


@dataclass(frozen=True)
class Preset:
    """One method's part of a preset. `values`: the same as plain data, as it goes to the encoder's card."""

    name: str
    encoder: Architecture
    training: Training
    geometry: Geometry
    intensity: Intensity
    dro: DroSettings
    method: Any
    values: dict[str, Any]


def read_preset(path: str | Path, name: str, method: str) -> Preset:
    """The preset `name` of a file, for one method.

    Raises:
        InputError: unreadable file, unknown preset, unknown or missing key, or a value of the wrong type.
    """
    if method not in METHOD_SETTINGS:
        raise InputError(f"method {method!r} is not one of {', '.join(METHOD_SETTINGS)}")
    written = preset_values(name, path)
    sections = {
        "encoder": Architecture,
        "training": Training,
        "geometry": Geometry,
        "intensity": Intensity,
        "dro": DroSettings,
        **METHOD_SETTINGS,
    }
    where = f"{path}: preset {name}"
    _check_keys(written, set(sections), where, optional=set(METHOD_SETTINGS) - {method})
    # Every method's section that is there is parsed, so that a slip in one is found by the first run and not by the last.
    parsed = {key: _parse(sections[key], value, f"{where}: {key}") for key, value in written.items()}
    common = {key: parsed[key] for key in ("encoder", "training", "geometry", "intensity", "dro")}
    sizes = [value.size for value in vars(parsed[method]).values() if isinstance(value, Crop)]
    if parsed["encoder"].norm == "instance" and min(sizes) <= parsed["encoder"].stride:
        raise InputError(
            f"{where}: {method} has crops of {min(sizes)} voxels, of which the encoder (stride {parsed['encoder'].stride}) "
            "leaves one, too few for encoder.norm instance; set it to group"
        )
    if method == "mae":
        try:
            check_with_encoder(parsed["mae"], parsed["encoder"])
        except InputError as problem:
            raise InputError(f"{where}: {problem}") from problem
    values = {key: written[key] for key in (*common, method)}
    return Preset(name=name, **common, method=parsed[method], values=values)


def _check_keys(values: Mapping[str, Any], expected: set[str], where: str, optional: Collection[str] = ()) -> None:
    unknown, missing = sorted(set(values) - expected, key=str), sorted(expected - {*optional} - set(values))
    wrong = [
        f"{kind} {', '.join(map(str, keys))}" for kind, keys in (("unknown", unknown), ("missing", missing)) if keys
    ]
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}; its keys are {', '.join(sorted(expected))}")


def _parse(kind: Any, value: Any, where: str, limits: Limits = UNBOUNDED) -> Any:
    """`value` as `kind`: a dataclass, a tuple of numbers, or a plain type; never converted from text."""
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected keys and values, got {value!r}")
        hints = get_type_hints(kind)
        _check_keys(value, {field.name for field in fields(kind)}, where)
        values = {
            key: _parse(hints[key], item, f"{where}.{key}", LIMITS.get(key, UNBOUNDED)) for key, item in value.items()
        }
        try:
            return kind(**values)
        except InputError as problem:
            raise InputError(f"{where}: {problem}") from problem
    if parts := get_args(kind):
        if not isinstance(value, list) or len(value) != len(parts):
            raise InputError(f"{where}: expected a list of {len(parts)}, got {value!r}")
        return tuple(_parse(part, item, where, limits) for part, item in zip(parts, value, strict=True))
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        # YAML reads 1e-4 as text; 1.0e-4 is a number.
        raise InputError(f"{where}: expected {kind.__name__}, got {value!r}")
    if kind is float and not abs(value) <= sys.float_info.max:
        raise InputError(f"{where}: {value} is not within the finite numbers")
    if kind is int and not abs(value) <= LARGEST:
        raise InputError(f"{where}: a number of {len(str(abs(value)))} digits is more than {LARGEST}")
    low, high = limits
    if kind in (int, float) and not low <= value <= high:
        raise InputError(f"{where}: {value} is not within [{low:g}, {high:g}]")
    return float(value) if kind is float else value
