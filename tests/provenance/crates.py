"""A crate checked by the validator of its makers (crs4), without a network."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

from rocrate_validator import models, services

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
OF_1_1 = {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}
"""What these terms mean in RO-Crate 1.1; the context that the rocrate library carries is a later one, where they moved."""


def complaints(study: Path, scratch: Path, severity: str = "REQUIRED") -> list[str]:
    """What the Workflow Run Crate profile and those below it find wrong with `study`/results/provenance.

    Works on a copy in which the address of the JSON-LD context is replaced by the context itself, as it may not be fetched.
    """
    copy = scratch / "crate"
    shutil.copytree(study / "results", copy, ignore=shutil.ignore_patterns("phantom", "*.b2nd"))
    metadata = copy / "provenance" / "ro-crate-metadata.json"
    crate = json.loads(metadata.read_text())
    known = json.loads((files("rocrate") / "data" / "ro-crate.jsonld").read_text())["@context"] | OF_1_1
    assert CONTEXT in crate["@context"]
    crate["@context"] = [known if part == CONTEXT else part for part in crate["@context"]]
    metadata.write_text(json.dumps(crate))
    settings = services.ValidationSettings(
        rocrate_uri=str(metadata.parent),
        profile_identifier="workflow-run-crate",
        requirement_severity=getattr(models.Severity, severity),
        cache_path=scratch / "cache",
    )
    return [f"{issue.check.identifier}: {issue.message}" for issue in services.validate(settings).get_issues()]
