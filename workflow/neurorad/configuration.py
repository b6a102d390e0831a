"""A config file read and validated outside Snakemake, with the same schema."""

from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from neurorad.files import read_yaml
from neurorad.problems import InputError

SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "config.schema.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """The config of a study.

    Raises:
        InputError: unreadable, or the schema refuses it; the message names every wrong key, its value and what is allowed.
    """
    config = read_yaml(path)
    validator = Draft202012Validator(read_yaml(SCHEMA))
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        told = [f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}" for error in errors]
        raise InputError(f"{path}: " + "; ".join(told))
    return config
