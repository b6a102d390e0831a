"""A config file read and validated outside Snakemake, with the same schema."""

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from neurorad.problems import InputError

SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "config.schema.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """The config of a study.

    Raises:
        InputError: unreadable, or the schema refuses it; the message names every wrong key, its value and what is allowed.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read ({problem}); give the config with --configfile") from problem
    except yaml.YAMLError as problem:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from problem
    validator = Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        told = [f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}" for error in errors]
        raise InputError(f"{path}: " + "; ".join(told))
    return config
