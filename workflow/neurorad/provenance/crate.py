"""The study as an RO-Crate: every file with its checksum, the software, and the run that made one from the other."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neurorad import RESOURCES, __version__
from neurorad.files import sha256
from neurorad.problems import InputError

FORMATS = {
    ".b2nd": "application/octet-stream",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".npy": "application/octet-stream",
    ".npz": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
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
    declared = tomllib.loads((RESOURCES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    names = [re.match(r"[A-Za-z0-9._-]+", text)[0] for text in declared["project"]["dependencies"]]
    return {name: _installed(name) for name in sorted(names, key=str.lower)}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def build(out: Path, config: Path, files: Iterable[Path]) -> dict[str, Any]:
    """The JSON-LD of the crate. Nothing in it depends on the clock, the machine or the order of `files`.

    Args:
        out: where the metadata will lie; the ids of files are their paths relative to its folder.
        config: the study's config.yaml.
        files: everything the study made. A `Snakefile` among them is the workflow itself.

    Returns:
        `{"@context": ..., "@graph": [...]}` after RO-Crate 1.1 and the Process Run Crate profile.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    folder = out.resolve().parent
    crate = ROCrate(version="1.1")
    # The library stamps the present moment; a date would change the bytes of a crate whose content did not change.
    crate.root_dataset._jsonld.pop("datePublished", None)
    crate.metadata.extra_terms["sha256"] = "https://schema.org/sha256"

    def add(identifier: str, properties: dict[str, Any]) -> Any:
        return crate.add(ContextEntity(crate, identifier, properties=properties))

    add(LICENCE, {"@type": "CreativeWork", "name": "Apache License 2.0", "identifier": "Apache-2.0"})
    software = [
        add(f"#package-{name}", {"@type": "SoftwareApplication", "name": name, "softwareVersion": number})
        for name, number in packages().items()
    ]
    neurorad = add(
        "#neurorad",
        {
            "@type": "SoftwareApplication",
            "name": "neurorad",
            "softwareVersion": __version__,
            "license": {"@id": LICENCE},
            "softwareRequirements": software,
        },
    )
    listed = {Path(os.path.relpath(p.resolve(), folder)).as_posix(): p for p in (config, *files)}
    entities = {}
    for identifier, path in sorted(listed.items()):
        properties = file_properties(path)
        if path.name == "Snakefile":
            properties["@type"] = ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
        entities[identifier] = crate.add_file(dest_path=identifier, properties=properties)
    settings = entities[Path(os.path.relpath(config.resolve(), folder)).as_posix()]
    workflow = next((entities[i] for i, path in sorted(listed.items()) if path.name == "Snakefile"), None)
    if workflow is None:
        workflow = add("#workflow", {"@type": ["SoftwareSourceCode", "ComputationalWorkflow"], "name": "NeuroRAD"})
    language = add("#snakemake", {"@type": "ComputerLanguage", "name": "Snakemake", "version": _installed("snakemake")})
    workflow["programmingLanguage"] = language
    workflow["license"] = {"@id": LICENCE}
    results = [entity for entity in entities.values() if entity not in (settings, workflow)]
    run = add(
        "#run",
        {
            "@type": "CreateAction",
            "name": "Run of the NeuroRAD workflow",
            "instrument": [workflow, neurorad],
            "object": settings,
            "result": results,
        },
    )
    crate.root_dataset["name"] = "NeuroRAD study"
    crate.root_dataset["description"] = (
        "Encoders, evaluations, figures and tables of one study, research use only. "
        "Images and labels stay under the terms of their own releases."
    )
    crate.root_dataset["license"] = {"@id": LICENCE}
    crate.root_dataset["mainEntity"] = workflow
    crate.root_dataset["mentions"] = run
    graph = crate.metadata.generate()
    graph["@graph"].sort(key=lambda entity: entity["@id"])
    return graph
