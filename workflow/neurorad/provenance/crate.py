"""The study as an RO-Crate: every file with its checksum, the software, and the run that made one from the other."""

from __future__ import annotations

import os
import re
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import pandas as pd

from neurorad import RESOURCES, __version__
from neurorad.files import atomic, sha256, write_table, write_text
from neurorad.problems import InputError
from neurorad.provenance.manifest import first_moment, last_moment

CHECKOUT = RESOURCES.parent

FORMATS = {
    ".b2nd": "application/octet-stream",
    ".csv": "text/csv",
    ".dot": "text/vnd.graphviz",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".npy": "application/octet-stream",
    ".npz": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".zip": "application/zip",
}

LICENCE = "https://spdx.org/licenses/Apache-2.0"


def file_properties(path: Path) -> dict[str, Any]:
    """Checksum, size in bytes and media type of one file.

    Raises:
        InputError: the file does not exist or is a folder.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a crate lists files that exist")
    return {
        "name": path.name,
        "sha256": sha256(path),
        "contentSize": str(path.stat().st_size),
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
    }


def packages() -> dict[str, str]:
    """The packages that neurorad declares, without its extras, and their installed versions.

    Read from the checkout: jobs run from it, also in an environment in which neurorad itself is not installed.
    """
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in declared["project"]["dependencies"]]
    return {name: _installed(name) for name in sorted(names, key=str.lower)}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
"""What the crate conforms to, beside RO-Crate 1.1: address -> (name, version)."""

SOURCES = (
    "Snakefile",
    "workflow",
    "resources",
    "envs",
    "slurm",
    "pyproject.toml",
    "requirements.lock",
    "LICENSE",
    "CITATION.cff",
)
"""What of the checkout goes into `workflow.zip`: enough to run the study again."""


def write_companions(folder: Path, made: dict[str, Any]) -> list[Path]:
    """Write what a crate has beside a study's own files, and return the paths.

    `Snakefile` and `workflow.zip` (the code), `dag.dot` (which rules fed which, as they ran) and `environment.tsv` (every
    installed package with version and licence). Nothing in them depends on the clock.

    Args:
        made: the study's manifest.
    """
    code, graph, environment = folder / "workflow.zip", folder / "dag.dot", folder / "environment.tsv"
    snakefile = folder / "Snakefile"
    write_text(snakefile, (CHECKOUT / "workflow" / "Snakefile").read_text(encoding="utf-8"))
    with atomic(code) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for name in SOURCES for path in _files(CHECKOUT / name)):
            # A fixed date: the same code gives the same bytes.
            entry = zipfile.ZipInfo(path.relative_to(CHECKOUT).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())
    write_text(graph, rule_graph(made))
    write_table(environment, installed())
    return [snakefile, code, graph, environment]


def _files(path: Path) -> list[Path]:
    inside = path.rglob("*") if path.is_dir() else [path]
    return [found for found in inside if found.is_file() and "__pycache__" not in found.parts]


def rule_graph(made: dict[str, Any]) -> str:
    """The rules of a run and what fed what, in Graphviz' language; no file, no path."""
    rule_of = {path: entry["rule"] for path, entry in made["made"].items()}
    edges = {
        (rule_of[source], entry["rule"])
        for entry in made["made"].values()
        for source in entry["inputs"]
        if source in rule_of and rule_of[source] != entry["rule"]
    }
    lines = [f'  "{rule}";' for rule in sorted(set(rule_of.values()))]
    lines += [f'  "{first}" -> "{then}";' for first, then in sorted(edges)]
    return "digraph run {\n" + "\n".join(lines) + "\n}\n"


@cache
def installed() -> pd.DataFrame:
    """Every installed package: name, version and licence as it states it."""
    found = {}
    for package in distributions():
        stated = next((package.metadata[key] for key in ("License-Expression", "License") if package.metadata[key]), "")
        classified = [
            text.split(" :: ")[-1]
            for text in package.metadata.get_all("Classifier") or []
            if text.startswith("License :: ") and text != "License :: OSI Approved"
        ]
        # Some packages give the whole text of their licence: its classifier is the name.
        licence = "; ".join(classified) if len(stated) > 80 or not stated else stated
        found[package.name.lower()] = (package.name, package.version, " ".join(licence.split())[:80] or "not stated")
    return pd.DataFrame([found[name] for name in sorted(found)], columns=["package", "version", "licence"])


def build(
    out: Path,
    config: Path,
    files: Iterable[Path],
    made: dict[str, Any],
    sources: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The JSON-LD of the crate. Nothing in it depends on the machine, the present moment or the order of `files`.

    Args:
        out: where the metadata will lie; the ids of files are their paths relative to its folder.
        config: the study's config.yaml.
        files: everything the study made, with a `Snakefile` among them, which is the workflow.
        made: the study's manifest; when the run began and ended is from its records.
        sources: licence, terms and citations of the releases that the study reads, at least one.

    Returns:
        `{"@context": ..., "@graph": [...]}` after RO-Crate 1.1 and the profiles `PROFILES`.

    Raises:
        InputError: a file does not exist, or there is no Snakefile among them.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    folder = out.resolve().parent
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = "https://schema.org/sha256"
    began, ended = first_moment(made), last_moment(made)

    def add(identifier: str, properties: dict[str, Any]) -> Any:
        return crate.add(ContextEntity(crate, identifier, properties=properties))

    add(LICENCE, {"@type": "CreativeWork", "name": "Apache License 2.0", "identifier": "Apache-2.0"})
    profiles = [
        add(address, {"@type": "CreativeWork", "name": name, "version": number})
        for address, (name, number) in PROFILES.items()
    ]
    licences = dict(installed()[["package", "licence"]].itertuples(index=False, name=None))
    software = [
        add(
            f"#package-{name}",
            {
                **{"@type": "SoftwareApplication", "name": name, "softwareVersion": number},
                "license": licences.get(name, "not stated"),
            },
        )
        for name, number in packages().items()
    ]
    neurorad = add(
        "#neurorad",
        {
            **{"@type": "SoftwareApplication", "name": "neurorad", "softwareVersion": __version__},
            **{"license": {"@id": LICENCE}, "softwareRequirements": software},
        },
    )
    listed = {Path(os.path.relpath(p.resolve(), folder)).as_posix(): p for p in (config, *files)}
    entities = {}
    for identifier, path in sorted(listed.items()):
        properties = {**file_properties(path), **_described(path)}
        if path.name == "Snakefile":
            properties["@type"] = ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
        entities[identifier] = crate.add_file(dest_path=identifier, properties=properties)
    named = {path.name: entities[identifier] for identifier, path in sorted(listed.items())}
    settings, workflow = named[config.name], named.get("Snakefile")
    if workflow is None:
        raise InputError("no Snakefile among the files: a crate names the workflow that made it")
    workflow["programmingLanguage"] = add(
        "#snakemake",
        {
            **{"@type": "ComputerLanguage", "name": "Snakemake", "version": _installed("snakemake")},
            **{
                "url": "https://snakemake.github.io",
                "identifier": "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
            },
        },
    )
    workflow["license"] = {"@id": LICENCE}
    workflow["version"] = __version__
    workflow["conformsTo"] = add(
        "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE",
        {"@type": "CreativeWork", "name": "ComputationalWorkflow", "version": "1.0-RELEASE"},
    )
    workflow["input"] = _parameter(add, "config", settings)
    reports = {name: named[name] for name in ("report.html", "manifest.json") if name in named}
    workflow["output"] = [_parameter(add, name.split(".")[0], entity) for name, entity in reports.items()]
    results = [entity for entity in entities.values() if entity not in (settings, workflow)]
    run = add(
        "#run",
        {
            **{"@type": "CreateAction", "name": "Run of the NeuroRAD workflow", "instrument": [workflow, neurorad]},
            "description": f"Every file listed here was made from {config.name} and the releases that it names",
            **{"object": settings, "result": results, "startTime": began, "endTime": ended},
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )
    root = crate.root_dataset
    root["name"] = "NeuroRAD study"
    root["description"] = (
        "Encoders, evaluations, figures and tables of one study, research use only. "
        "Images and labels stay under the terms of their own releases."
    )
    root["license"] = {"@id": LICENCE}
    # The library stamps the present moment; the study is as old as its last file.
    root["datePublished"] = ended
    root["conformsTo"] = profiles
    crate.metadata["conformsTo"] = [{"@id": "https://w3id.org/ro/crate/1.1"}, profiles[-1]]
    root["mainEntity"] = workflow
    root["mentions"] = run
    read = [_source(add, name, source) for name, source in sorted(sources.items())]
    root["citation"] = read if len(read) > 1 else read[0]
    graph = crate.metadata.generate()
    graph["@graph"].sort(key=lambda entity: entity["@id"])
    return graph


KINDS = {
    "ro-crate-metadata.json": "this description",
    "manifest.json": "What made every file: rule, code, settings, inputs, versions, device, times",
    "workflow.zip": "The workflow's source, enough to run the study again",
    "dag.dot": "Which rules fed which",
    "environment.tsv": "Installed packages with versions and licences",
    "config.yaml": "Settings of the run",
    "report.html": "The study on one page",
    "TRIPOD-AI.md": "TRIPOD+AI checklist, filled where the study knows",
    "CLAIM-2024.md": "CLAIM 2024 checklist, filled where the study knows",
    "claims.csv": "The paper's numbers beside this study's",
    "deviations.csv": "Departures from the analysis plan",
    "leakage_audit.json": "Patients of pretraining and test cohorts compared",
}
FOLDERS = {
    "tables": "Table",
    "figures": "Figure",
    "model_cards": "Model card of an encoder",
    "data_sheets": "Data sheet of a cohort",
}


def _described(path: Path) -> dict[str, str]:
    text = KINDS.get(path.name) or FOLDERS.get(path.parent.name)
    return {"description": text} if text else {}


def _parameter(add: Any, name: str, example: Any) -> Any:
    """What the workflow takes or gives, and the file of this run that is an example of it."""
    parameter = add(
        f"#parameter-{name}",
        {
            **{"@type": "FormalParameter", "name": name, "additionalType": "File", "workExample": example},
            "conformsTo": {"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"},
        },
    )
    example["exampleOfWork"] = parameter
    return parameter


def _source(add: Any, release: str, source: dict[str, Any]) -> Any:
    """A release that the study reads: name, terms, how to cite."""
    properties = {
        **{"@type": "CreativeWork", "name": source["name"], "license": source.get("licence", source["terms"])},
        "usageInfo": source["terms"],
    }
    if source["cite"]:
        properties["citation"] = source["cite"] if len(source["cite"]) > 1 else source["cite"][0]
    return add(f"#data-{release}", properties)
