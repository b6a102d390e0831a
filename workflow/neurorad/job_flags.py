"""Blocks of the config as the flags of a verb, quoted for a shell: what rules hand to `neurorad`."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from neurorad.rivals import frozen_names, rival_settings, start_of


def canonical(value: Any) -> str:
    """One JSON text for a value, whatever the order of its keys: what Snakemake compares to see a change."""
    return json.dumps(value, sort_keys=True)


def quoted(values: Iterable[Any]) -> str:
    """Values as the words of a command."""
    return " ".join(shlex.quote(str(value)) for value in values)


def inventory_flags(block: Mapping[str, Any], imaging: Mapping[str, Any]) -> str:
    """Of `inventory`, from a cohort's block."""
    flags = {key: block[key] for key in ("release", "images", "pattern", "state") if key in block}
    if imaging.get("missing_sequence") == "zero":
        flags["missing"] = "zero"
    if "sequences" in block:
        flags["sequences"] = canonical(block["sequences"])
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in flags.items())


def decision_flag(decided: Mapping[str, Any]) -> str:
    """Of `labels` and `folds`: what the config decides about labels; nothing if it decides nothing."""
    return f"--decisions {shlex.quote(canonical(decided))}" if decided else ""


def label_flags(cohort: str, block: Mapping[str, Any], decided: Mapping[str, Any]) -> str:
    """Of `labels`, from a cohort's block."""
    table = f" --table {shlex.quote(block['labels'])}" if "labels" in block else ""
    return f"--release {block['release']} --cohort {cohort}{table} {decision_flag(decided)}"


def group_flags(pretraining: Mapping[str, Any], tables: Iterable[str]) -> str:
    """Of `audit`: what groups are made of, from the `tables` that may have their column."""
    flags = {"groups": "--groups", "min_patients": "--min-patients", "max_scans_per_patient": "--max-scans"}
    given = [f"{flag} {quoted([pretraining[key]])}" for key, flag in flags.items() if key in pretraining]
    return " ".join([*given, *([f"--tables {quoted(tables)}"] if tables else [])])


def encoder_flags(name: str, rivals: Mapping[str, Any], folder: str, like: str, patients: str) -> str:
    """Of `embed`: what to embed with.

    Args:
        name: encoder or baseline.
        rivals: the config's block.
        folder: where the encoder `name` lies, if it is one.
        like: the folder of the encoder whose architecture an untrained one has.
        patients: the table that clinical variables are read from.
    """
    if name in ("clinical", "clinical-full"):
        return f"--clinical {patients}{' --full' if name == 'clinical-full' else ''}"
    if name.startswith("random-s"):
        return f"--random {name.removeprefix('random-s')} --like {shlex.quote(like)}"
    if name in frozen_names(rivals):
        return f"--rival {name} --settings {shlex.quote(canonical(rival_settings(rivals, name)))}"
    return f"--encoder {shlex.quote(folder)}"


def finetune_flags(name: str, block: Mapping[str, Any], start: str) -> str:
    """Of `finetune`, for the network `name` that begins as what lies in the folder `start`."""
    flag = "--scratch" if start_of(name) == "scratch" else "--encoder"
    recipe = {key: block[key] for key in ("epochs", "patience", "batch_size", "learning_rate") if key in block}
    protocols = " ".join(block.get("protocols", ["within_site"]))
    return (
        f"{flag} {shlex.quote(start)} --recipe {shlex.quote(canonical(recipe))}"
        f" --protocols {protocols} --repeats {block.get('repeats', 1)}"
    )


def stress_flags(block: Mapping[str, Any]) -> str:
    """Of `embed-shifted`: the shifts, and their severities where they are not all."""
    severities = [f"--severities {quoted(block['severities'])}"] if "severities" in block else []
    return " ".join([f"--shifts {quoted(block['shifts'])}", *severities])
