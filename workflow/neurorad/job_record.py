"""What a job ran on: package versions, device and settings, written beside its results while it is still known.

Snakemake records rule, command, inputs and times. What it cannot know is in these files, one a command; the manifest joins both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurorad import __version__

FOLDER = "NEURORAD_JOBS"
"""Environment variable that names the folder of the records; the workflow sets it, a verb used by hand writes none."""


def record_path(folder: Path, arguments: Sequence[str]) -> Path:
    """One file a command: its verb, and what its arguments are."""
    key = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:20]
    return folder / f"{arguments[0]}-{key}.json"


def job_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of the packages that this process has loaded, its device, and its settings; no name of the machine or of a
    file, and no time: the same job gives the same bytes."""
    packages = {
        name: vars(module)["__version__"]
        for name, module in list(sys.modules.items())
        if "." not in name
        and not name.startswith("_")
        and name not in sys.stdlib_module_names
        and name != "neurorad"
        and isinstance(vars(module).get("__version__"), str)
    }
    return {
        "neurorad": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "device": device(),
        "settings": {
            key: value for key, value in settings.items() if key not in ("run", "verb") and _is_setting(value)
        },
    }


def device() -> str:
    """The graphics card if this process used one, else the model of the processor."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _is_setting(value: Any) -> bool:
    """Numbers, switches, names and what is made of them; not a file's name, and not what was not given."""
    if isinstance(value, Mapping):
        return all(_is_setting(inner) for inner in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_setting(inner) for inner in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and os.sep not in value)


def write_record(arguments: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Write the record of a finished command, where the workflow asks for it."""
    if folder := os.environ.get(FOLDER):
        from neurorad.files import write_json

        write_json(record_path(Path(folder), arguments), job_record(settings))
