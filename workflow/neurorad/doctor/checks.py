"""One check a topic; each returns findings: (`ok`, `note` or `PROBLEM`, text)."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neurorad import __version__
from neurorad.cohorts.crosswalks import read_crosswalk
from neurorad.cohorts.identity import OWN_TABLES, unproven
from neurorad.cohorts.inventory import list_scans
from neurorad.cohorts.label_tables import columns_told, read_labels
from neurorad.cohorts.labels import aliases, decided_in, decisions, harmonise, patients_of
from neurorad.cohorts.releases import release_of
from neurorad.contract import contract_differences
from neurorad.encoder import load_card
from neurorad.encoder_names import encoder_names
from neurorad.problems import InputError
from neurorad.rivals import WEIGHTS

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
Finding = tuple[str, str]


def check_installation() -> list[Finding]:
    """Python, every declared package at its declared version, and the device that torch will use."""
    import torch

    findings = [(OK, f"neurorad {__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores")]
    wrong = []
    declared = [text for text in requires("neurorad") or [] if "extra ==" not in text]
    for text in declared:
        name, _, wanted = text.partition("==")
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "absent"
        if found != wanted:
            wrong.append(f"{name} {found} (pinned {wanted})")
    if wrong:
        findings.append((PROBLEM, f"packages: {', '.join(wrong)}; run `make setup` or install requirements.lock"))
    else:
        shown = ("torch", "monai", "antspyx", "HD-BET", "nibabel", "scikit-learn", "lifelines", "snakemake")
        findings.append((OK, f"{len(declared)} packages as pinned: " + ", ".join(f"{n} {version(n)}" for n in shown)))
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        findings.append((OK, f"device: {torch.cuda.device_count()} x {card.name}, {card.total_memory / 2**30:.0f} GiB"))
    else:
        findings.append(
            (NOTE, "device: CPU (torch finds no usable GPU); fine for the demo, not for a real pretraining")
        )
    return findings


def check_weights(config: dict[str, Any]) -> list[Finding]:
    """Every weight file that the config needs; nothing is downloaded in a job."""
    from neurorad.imaging.brain import check_method, methods

    settings = config["imaging"]["brain_mask"]
    findings = []
    for method in methods(settings):
        try:
            findings.append((OK, f"brain mask: {check_method(method, settings)}"))
        except InputError as problem:
            findings.append((PROBLEM, str(problem) if "brain mask" in str(problem) else f"brain mask: {problem}"))
    findings += _check_rivals(config.get("rivals", {}))
    frozen = config["pretraining"].get("freeze")
    return findings + (_check_frozen(config, Path(frozen)) if frozen else [])


def _check_frozen(config: dict[str, Any], folder: Path) -> list[Finding]:
    """Finished encoders: all there, and of volumes as this study makes them. Else the jobs after hours of imaging fail."""
    from neurorad.imaging.volume import contract

    names = encoder_names(config["pretraining"])
    text = f"{len(names)} finished encoders in {folder}"
    lacking = [name for name in names if not (folder / name / "encoder.safetensors").is_file()]
    if lacking:
        return [(PROBLEM, f"{text}: lacks {', '.join(lacking)}")]
    try:
        cards = {name: load_card(folder / name) for name in names}
    except InputError as problem:
        return [(PROBLEM, str(problem))]
    here = contract(config["imaging"])
    differences = {name: contract_differences(card["preprocessing"], here) for name, card in cards.items()}
    others = [name for name in names if differences[name]]
    if others:
        told = f"{', '.join(others)} saw other volumes than `imaging:` makes (encoder against config)"
        return [(PROBLEM, f"{text}: {told}: {'; '.join(differences[others[0]])}")]
    return [(OK, text)]


def _check_rivals(rivals: dict[str, Any]) -> list[Finding]:
    """The files of the config's rivals, and which published weights could still be given."""
    from neurorad.embedding.checkpoints import checked_file

    findings = []
    blocks = {name: rivals[name] for name in WEIGHTS if name in rivals} | rivals.get("adapters", {})
    for name, block in blocks.items():
        path = next(block[key] for key in ("weights", "torchscript", "onnx", "python") if key in block)
        try:
            checked_file(path, block.get("sha256"))
            findings.append((OK, f"rival {name}: {path}" + (", sha256 as said" if "sha256" in block else "")))
        except InputError as problem:
            findings.append((PROBLEM, f"rival {name}: {problem}"))
        if "onnx" in block and find_spec("onnxruntime") is None:
            findings.append((PROBLEM, f"rival {name}: needs onnxruntime; pip install 'neurorad[onnx]'"))
    for name, file in WEIGHTS.items():
        if name not in rivals:
            where = f"rivals: {{{name}: {{weights: FILE, sha256: ...}}}}"
            findings.append((NOTE, f"rival {name}: a grey row in Figure 3A; its file is {file}; give it as `{where}`"))
    return findings


def check_cohorts(config: dict[str, Any]) -> tuple[list[Finding], dict[str, int]]:
    """Folder and label table of every cohort; also the number of usable scans of each."""
    findings, scans = [], {}
    planned = _planned(config["phantom"]) if "phantom" in config else {}
    for cohort, block in config["cohorts"].items():
        if cohort in planned and block["images"] == f"results/phantom/{cohort}":
            scans[cohort] = planned[cohort]
            findings.append((OK, f"{cohort}: {scans[cohort]} scans, written by the study (phantom)"))
            continue
        try:
            release = release_of(block, cohort)
            found, unknown = list_scans(cohort, Path(block["images"]), release)
        except InputError as problem:
            findings.append((PROBLEM, str(problem)))
            continue
        good = found[found["problem"] == ""]
        scans[cohort] = len(good)
        text = f"{cohort}: {len(found)} scans of {found['patient'].nunique()} patients, {len(good)} complete"
        findings.append((OK if len(good) else PROBLEM, text))
        for reason, part in found[found["problem"] != ""].groupby("problem"):
            findings.append((NOTE, f"{cohort}: {len(part)} scans will be left out: {reason}"))
        if unknown:
            # The files of a hospital are named after its patients.
            first = "" if release.private else f", first {unknown[0]}"
            findings.append((NOTE, f"{cohort}: {len(unknown)} files that no rule explains{first}"))
        findings += _check_labels(config, cohort, block, set(found["patient"]))
    return findings, scans


def _planned(phantom: dict[str, Any]) -> dict[str, int]:
    """Scans of each cohort of the phantom study, those with planted faults included."""
    from neurorad import RESOURCES
    from neurorad.phantom.plan import plan, read_recipe

    study = plan(read_recipe(RESOURCES / "phantom.yaml"), phantom["seed"], phantom["scale"])
    return study.scans["cohort"].value_counts().to_dict()


def _check_labels(config: dict[str, Any], cohort: str, block: dict[str, Any], scanned: set[str]) -> list[Finding]:
    if "labels" not in block:
        tested = "test" in block["role"]
        return [(NOTE, f"{cohort}: no label table, so no endpoint can be evaluated")] if tested else []
    try:
        chosen = decisions(decided_in(config))
        raw, rules = read_labels(Path(block["labels"]), block["release"])
        exams, problems, _ = harmonise(raw, rules, cohort, chosen, f"label table {block['labels']}")
    except InputError as problem:
        return [(PROBLEM, str(problem))]
    table = patients_of(exams)
    labelled = scanned & set(table["patient"])
    findings = [(OK, f"{cohort}: label table of {len(table)} patients, {len(labelled)} of them with scans")]
    if not labelled:
        findings = [(PROBLEM, f"{cohort}: no patient of {block['labels']} has a scan; are both of one release?")]
    if rules["id"].get("private"):
        findings.append((NOTE, f"{cohort}: {columns_told(raw, rules)}"))
    stops = config.get("labels", {}).get("unknown", "stop") == "stop"
    findings += [(PROBLEM if stops else NOTE, f"{block['labels']}: {problem}") for problem in problems[:5]]
    if len(problems) > 5:
        findings.append((PROBLEM if stops else NOTE, f"{block['labels']}: {len(problems) - 5} more such cells"))
    return findings


def check_leakage(config: dict[str, Any]) -> list[Finding]:
    """Documented overlaps between a pretraining and a test release that nothing at hand resolves."""
    findings, crosswalks = [], []
    for entry in config.get("leakage", {}).get("crosswalks", []):
        try:
            crosswalks.append(read_crosswalk(Path(entry["table"]), entry.get("covers")))
        except InputError as problem:
            findings.append((PROBLEM, str(problem)))
    blocks = config["cohorts"]
    if config["pretraining"].get("freeze"):
        return [*findings, (NOTE, "frozen encoders: every table will say LEAKAGE NOT EXCLUDED (pretrained elsewhere)")]
    own_tables = set()
    for cohort, block in blocks.items():
        if block["release"] in OWN_TABLES and "labels" in block and Path(block["labels"]).is_file():
            try:
                if len(aliases(*read_labels(Path(block["labels"]), block["release"]), cohort)):
                    own_tables.add(block["release"])
            except InputError:
                continue  # reported by check_cohorts
    missing = unproven(
        {name: block["role"] for name, block in blocks.items()},
        {name: block["release"] for name, block in blocks.items()},
        own_tables,
        crosswalks,
    )
    for train, test, why in missing:
        text = f"{train} x {test} share patients ({why}) and no crosswalk covers them: tables will say LEAKAGE NOT EXCLUDED"
        findings.append((NOTE, text))
    return findings or [(OK, "every documented overlap between pretraining and test releases is covered")]
