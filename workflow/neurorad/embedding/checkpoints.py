"""Weight files of strangers: read as tensors alone, checked against their sha256 first, fitted into a network by name."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from neurorad.files import sha256 as digest_of
from neurorad.problems import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which published checkpoints keep their tensors."""


def checked_file(path: str | Path, digest: str | None) -> Path:
    """The path of a file that is there and has the sha256 that the config says.

    Raises:
        InputError: no such file, or another one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: no such file; put it there, or mend its path in the config's `rivals` block")
    if digest is not None and (found := digest_of(path)) != digest:
        raise InputError(
            f"weights {path}: has sha256 {found}, the config says {digest}; it is another file or a damaged one"
        )
    return path


def read_tensors(path: str | Path, digest: str | None) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a PyTorch checkpoint, by name, on the CPU.

    A PyTorch checkpoint is a pickle, which may hold code: it is read with `weights_only=True`, so that no code runs.
    Tensors under `state_dict` or `model` are unwrapped.

    Args:
        digest: sha256 that the file must have; None takes any.

    Raises:
        InputError: missing, other sha256, unreadable, holding more than tensors, or holding none.
    """
    path = checked_file(path, digest)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as problem:
            raise InputError(f"weights {path}: unreadable safetensors file ({problem})") from problem
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        first = str(problem).split(".")[0]
        raise InputError(
            f"weights {path}: holds more than tensors, so it was not opened, as a pickle can run code ({first}); "
            "save its state_dict as .safetensors on a machine where you trust it"
        ) from problem
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        raise InputError(f"weights {path}: no PyTorch checkpoint ({str(problem).splitlines()[0]})") from problem
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"weights {path}: holds no tensor by name; give the checkpoint's state_dict")
    return tensors


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without it; all, if none does."""
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return found or dict(tensors)


def fit_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, ignored: tuple[str, ...]) -> None:
    """Load the tensors into the network; every one of its own must be there, in its shape.

    Args:
        ignored: beginnings of names that belong to parts which are not used, such as a classifier.

    Raises:
        InputError: names what is missing, what is too much, or which shape differs; at most three of each.
    """
    wanted = network.state_dict()
    given = {name: value for name, value in tensors.items() if name in wanted or not name.startswith(ignored)}
    # Counters of batch norm are not in every checkpoint, and say nothing in evaluation.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    surplus = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {list(given[name].shape)} where {list(wanted[name].shape)} is needed"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    told = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("lacks", missing), ("has unknown", surplus), ("has", shapes))
        if names
    ]
    if told:
        raise InputError(f"weights {path}: do not fit the network: {'; '.join(told)}; is it the file of another model?")
    network.load_state_dict(given, strict=False)
