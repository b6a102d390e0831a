"""Names of encoders: `{method}-{objective}-s{seed}`, such as `byol-dro-s0`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from neurorad.problems import InputError

OBJECTIVES = ("base", "balanced", "dro", "excess", "worst")
"""What a method is trained for; `neurorad.pretraining.objectives` says what each is."""


def encoder_names(pretraining: Mapping[str, Any]) -> list[str]:
    """The encoders of the config's `pretraining` block, in its order."""
    return [
        f"{method}-{objective}-s{seed}"
        for method in pretraining["methods"]
        for objective in pretraining["objectives"]
        for seed in pretraining["seeds"]
    ]


METHODS = ("byol", "dino", "mae", "moco")
"""What encoders of a study are pretrained by."""

ENSEMBLE = "ensemble"
"""Method of the L2-normalised concatenation of all methods' embeddings under one objective and seed."""


def ensemble_names(pretraining: Mapping[str, Any]) -> list[str]:
    """The ensembles of the config's `pretraining` block; none if it has a single method."""
    if len(pretraining["methods"]) < 2:
        return []
    return encoder_names({**pretraining, "methods": [ENSEMBLE]})


def members(ensemble: str, methods: Iterable[str]) -> list[str]:
    """The encoders that an ensemble joins, in the order of the methods: `ensemble-dro-s0` joins `byol-dro-s0`, ..."""
    return [ensemble.replace(ENSEMBLE, method, 1) for method in methods]


def encoder_parts(encoder: str) -> tuple[str, str, int]:
    """Method, objective and seed of an encoder's name.

    `byol-dro-s1` is ("byol", "dro", 1); a name without objective is ("random", "none", 0) for `random-s0`.

    Raises:
        InputError: the name does not follow `{method}[-{objective}][-s{seed}]`.
    """
    match = re.fullmatch(r"(?P<method>[^-]+)(?:-(?P<objective>.+?))??(?:-s(?P<seed>\d+))?", encoder)
    if match is None:
        raise InputError(f"encoder name {encoder!r} is not METHOD-OBJECTIVE-sSEED, such as byol-dro-s0")
    return match["method"], match["objective"] or "none", int(match["seed"] or 0)


def is_rival(encoder: str) -> bool:
    """Whether an encoder is none of the study's own: untrained, without images, from elsewhere, harmonised or tuned."""
    method, objective, _ = encoder_parts(encoder)
    return method not in (*METHODS, ENSEMBLE) or objective not in OBJECTIVES
