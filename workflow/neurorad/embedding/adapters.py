"""Anybody's encoder: a TorchScript file, an ONNX file or a Python function, from one volume to one vector.

The contract: `[4, D, H, W]` float32 in the order t1n, t1c, t2w, t2f, axes RAS, z-scored in the brain, background 0, goes in
(a network gets it as a batch of one); a vector of finite numbers comes out, of one length for all scans, and the same for
the same volume. docs/rivals.md has a worked example of each.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorad.embedding.checkpoints import checked_file
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

KINDS = ("torchscript", "onnx", "python")
Function = Callable[[np.ndarray], np.ndarray]
"""`[4, D, H, W]` float32 -> `[d]`."""


def adapter(name: str, settings: Mapping[str, Any], contract: Mapping[str, Any], device: torch.device) -> Function:
    """The encoder that a block of `rivals: {adapters: ...}` describes.

    Args:
        settings: one of `KINDS` with its file, `sha256`, and for Python the `function`'s name.
        contract: `preprocessing` of the volumes.

    Raises:
        InputError: a file that is missing, another one, not of its kind, or that takes another input.
    """
    kind = next(kind for kind in KINDS if kind in settings)
    path = checked_file(settings[kind], settings.get("sha256"))
    made = {"torchscript": _torchscript, "onnx": _onnx, "python": _python}[kind]
    return _contracted(name, made(path, settings, contract, device))


def _contracted(name: str, function: Function) -> Function:
    """The function under the contract: one finite vector a volume, always of one length, the same when asked again."""
    length: list[int] = []

    def checked(volume: np.ndarray) -> np.ndarray:
        vector = _vector(name, function(volume.copy()))
        if not length:
            again = _vector(name, function(volume.copy()))
            if again.shape != vector.shape or not np.allclose(again, vector, rtol=1e-4, atol=1e-6):
                raise InputError(f"rival {name}: gives two vectors for one volume; switch dropout and augmentation off")
            length.append(len(vector))
        if len(vector) != length[0]:
            raise InputError(f"rival {name}: gives {len(vector)} numbers here and {length[0]} for the first scan")
        return vector

    return checked


def _vector(name: str, value: Any) -> np.ndarray:
    try:
        vector = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise InputError(f"rival {name}: gives {type(value).__name__} where a vector of numbers is needed") from problem
    if vector.ndim == 2 and vector.shape[0] == 1:
        vector = vector[0]
    if vector.ndim != 1 or not len(vector):
        raise InputError(f"rival {name}: gives an array of shape {list(vector.shape)}; one vector a volume is needed")
    if not np.isfinite(vector).all():
        raise InputError(f"rival {name}: gives NaN or infinite numbers")
    return vector


def _torchscript(
    path: Path, settings: Mapping[str, Any], contract: Mapping[str, Any], device: torch.device
) -> Function:
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as problem:
        raise InputError(f"weights {path}: no TorchScript file ({str(problem).strip().splitlines()[0]})") from problem

    def call(volume: np.ndarray) -> np.ndarray:
        try:
            with torch.no_grad():
                found = network(torch.from_numpy(volume)[None].to(device))
        except RuntimeError as problem:
            last = str(problem).strip().splitlines()[-1]
            raise InputError(f"weights {path}: does not take [1, 4, {_shape(contract)}] float32 ({last})") from problem
        return found.cpu().numpy() if isinstance(found, torch.Tensor) else found

    return call


def _onnx(path: Path, settings: Mapping[str, Any], contract: Mapping[str, Any], device: torch.device) -> Function:
    try:
        import onnxruntime
    except ImportError as problem:
        raise InputError("an ONNX rival needs onnxruntime: pip install 'neurorad[onnx]'") from problem
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as problem:  # onnxruntime's errors share no base but Exception
        raise InputError(f"weights {path}: no ONNX file ({str(problem).splitlines()[0]})") from problem
    inputs = session.get_inputs()
    wanted_shape = [1, len(SEQUENCES), *contract["shape"]]
    # A free dimension is a text or None.
    fits = (
        len(inputs) == 1
        and inputs[0].type == "tensor(float)"
        and len(inputs[0].shape) == len(wanted_shape)
        and all(
            given in (want, None) or isinstance(given, str)
            for given, want in zip(inputs[0].shape, wanted_shape, strict=True)
        )
    )
    if not fits:
        seen = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise InputError(f"weights {path}: takes {seen}; volumes are one tensor(float) {wanted_shape}")
    return lambda volume: session.run(None, {inputs[0].name: volume[None]})[0]


def _python(path: Path, settings: Mapping[str, Any], contract: Mapping[str, Any], device: torch.device) -> Function:
    """The user's own code, which runs as such: the config names it, and its sha256 where given."""
    spec = importlib.util.spec_from_file_location(f"neurorad_rival_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"adapter {path}: no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever a stranger's module raises
        raise InputError(f"adapter {path}: cannot be imported ({type(problem).__name__}: {problem})") from problem
    function = getattr(module, settings["function"], None)
    if not callable(function):
        raise InputError(f"adapter {path}: has no function {settings['function']}")
    spacing = float(contract["spacing_mm"])

    def call(volume: np.ndarray) -> np.ndarray:
        try:
            return function(volume, spacing)
        except Exception as problem:  # whatever a stranger's function raises
            raise InputError(
                f"adapter {path}: {settings['function']} failed ({type(problem).__name__}: {problem})"
            ) from problem

    return call


def _shape(contract: Mapping[str, Any]) -> str:
    return ", ".join(map(str, contract["shape"]))
