"""A run's checkpoint: one file with every tensor (safetensors) and all other state as JSON in its header.

One file, so that tensors and numbers can never be of two different steps; no pickle, so that reading it runs no code.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from neurorad.files import atomic
from neurorad.problems import InputError

CHECKPOINT = "checkpoint.safetensors"

ASIDE = "checkpoint.aside.safetensors"
"""A whole checkpoint of another run found in the folder: it may be days of work, so it is not overwritten at once."""

LOCK = ".lock"

TENSOR, ITEMS = "$tensor", "$items"


class CheckpointError(Exception):
    """The file is no whole checkpoint."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (dicts and lists of tensors, numbers and texts); an older checkpoint stays until this one is whole.

    Raises:
        InputError: it could not be written, for example because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(state, "", tensors)
    try:
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps(plain)})
    except (OSError, SafetensorError) as problem:
        raise InputError(
            f"{path}: the checkpoint of step {state['step']} could not be written ({problem}); an older one is "
            "untouched; make room and start again"
        ) from problem


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given, tensors on the CPU. Raises CheckpointError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            plain = json.loads((stored.metadata() or {})["state"])
            return _with_tensors(plain, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise CheckpointError(f"{type(problem).__name__}: {problem}") from problem


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            tensors[name] = value.detach().cpu().contiguous()
            return {TENSOR: name}
        case dict():
            # The optimiser numbers its parameters; JSON knows only texts as keys.
            return {ITEMS: [[key, _without_tensors(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            return [_without_tensors(item, f"{name}/{number}", tensors) for number, item in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    return {key: _with_tensors(item, tensors) for key, item in value[ITEMS]}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one run; the lock ends with the process, however it ends.

    Raises:
        InputError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise InputError(
                f"{folder}: another run is writing here; wait for it, stop it, or give another --out"
            ) from problem
        except OSError:
            # A file system without locks: nothing can be promised, and nothing is refused.
            pass
        yield
