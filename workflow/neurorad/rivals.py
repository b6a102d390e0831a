"""The rivals of a study by name: which it runs, which it cannot, and why. Read by rules, doctor and figures."""

from collections.abc import Iterable, Mapping
from typing import Any

WEIGHTS = {
    "biomedclip": "open_clip_pytorch_model.bin of microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    "medicalnet": "resnet_50.pth or resnet_50_23dataset.pth of Tencent/MedicalNet",
    "brainiac": "the ResNet-50 checkpoint of AIM-KannLab/BrainIAC's first release (CC BY-NC)",
}
"""Rivals whose weights others have published -> the file that is needed. Nothing is downloaded in a job."""

SWITCHES = {
    "intensity": "switched off",
    "radiomics": "switched off; it needs tumour masks",
    "clinical-full": "switched off; it needs KPS or extent of resection",
}
"""Rivals that need no weights -> why they are not there if the config does not ask for them."""

TUNED = "tuned"
"""Last part of the objective of a network trained end to end on labels: `scratch-tuned-s0`, `byol-dro-tuned-s0`."""
COMBAT = "combat"
"""Last part of the objective of embeddings that ComBat harmonises inside the training folds: `byol-base-combat-s0`."""


def frozen_names(rivals: Mapping[str, Any]) -> list[str]:
    """The rivals of the config's block that are embedded and probed like any encoder."""
    return [
        *(f"random-s{seed}" for seed in rivals.get("random", [0])),
        *(name for name in SWITCHES if rivals.get(name.replace("-", "_"))),
        *(name for name in WEIGHTS if name in rivals),
        *rivals.get("adapters", {}),
    ]


def rival_settings(rivals: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The block of a rival or of an adapter; empty where the config only switches it on."""
    block = rivals.get(name, rivals.get("adapters", {}).get(name))
    return block if isinstance(block, Mapping) else {}


def tuned_names(rivals: Mapping[str, Any]) -> list[str]:
    """The networks that are trained end to end: `scratch` is `scratch-tuned-s0`, an encoder keeps its name and seed."""
    return [tuned_name(start) for start in rivals.get("finetune", {}).get("from", [])]


def tuned_name(start: str) -> str:
    """Name of the network that begins as `start`: `scratch`, or the name of an encoder."""
    if start == "scratch":
        return f"scratch-{TUNED}-s0"
    stem, seed = start.rsplit("-s", 1)
    return f"{stem}-{TUNED}-s{seed}"


def start_of(name: str) -> str:
    """Where a network that is trained end to end begins: `scratch`, or the name of an encoder."""
    return "scratch" if name.startswith("scratch-") else name.replace(f"-{TUNED}-", "-", 1)


def combat_names(rivals: Mapping[str, Any], encoders: Iterable[str]) -> list[str]:
    """ComBat of each base encoder, where the config asks for it."""
    if not rivals.get("combat"):
        return []
    return [name.replace("-base-", f"-base-{COMBAT}-", 1) for name in encoders if "-base-" in name]


def harmonised(name: str) -> str:
    """The encoder whose embeddings ComBat harmonises: `byol-base-s0` for `byol-base-combat-s0`."""
    return name.replace(f"-{COMBAT}-", "-", 1)


def pretrained_elsewhere(name: str, rivals: Mapping[str, Any]) -> bool:
    """Whether a rival's weights come from outside: nothing proves that they never saw a test patient."""
    return name in WEIGHTS or name in rivals.get("adapters", {})


def absent(rivals: Mapping[str, Any]) -> dict[str, str]:
    """Rivals that a reviewer will ask for and that this study does not have -> why."""
    adapters = rivals.get("adapters", {})
    left = {name: "no weights given" for name in WEIGHTS if name not in rivals}
    if "medblip" not in adapters:
        left["medblip"] = "its weights are not released"
    left |= {name: why for name, why in SWITCHES.items() if not rivals.get(name.replace("-", "_"))}
    if "scratch" not in rivals.get("finetune", {}).get("from", []):
        left["scratch-tuned-s0"] = "switched off; it needs a GPU"
    return left
