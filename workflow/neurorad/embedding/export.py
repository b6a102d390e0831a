"""An encoder for others: a folder as model hubs expect it, and ONNX; both are read back and compared before they count."""

import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorad.encoder import SHARED_CARD, SHARED_WEIGHTS, Encoder, load_encoder, parameter_count
from neurorad.files import atomic, write_json, write_text
from neurorad.problems import InputError
from neurorad.seeds import seed_of
from neurorad.volumes import SEQUENCES

ONNX, README = "encoder.onnx", "README.md"
INPUT, OUTPUT = "volumes", "embedding"
TOLERANCE = 1e-5
"""Largest difference of an embedding that was read back, relative to its largest number or to 1."""


def export_folder(encoder: Encoder, card: Mapping[str, Any], out: Path) -> None:
    """Write `config.json` (the card), `model.safetensors` and `README.md` (the model card); `load_encoder(out)` reads them.

    Raises:
        InputError: the stored encoder does not give the same embeddings.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic(out / SHARED_WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(out / SHARED_CARD, {"model_type": "neurorad", **card})
    write_text(out / README, model_card(encoder, card))
    volume = probe_volume(card)
    with torch.no_grad():
        _compare(load_encoder(out)[0](volume).numpy(), encoder(volume).numpy(), out / SHARED_WEIGHTS)


def export_onnx(encoder: Encoder, card: Mapping[str, Any], path: Path) -> None:
    """Write the encoder as ONNX: `volumes` [batch, 4, D, H, W] float32 of the contract's shape -> `embedding` [batch, d].

    Raises:
        InputError: onnx or onnxruntime is not installed, or the graph does not give the same embeddings.
    """
    if not find_spec("onnx") or not find_spec("onnxruntime"):
        raise InputError(f"{path}: ONNX needs two more packages: pip install 'neurorad[onnx]'")
    import onnxruntime

    volume = probe_volume(card)
    batch = {0: "batch"}
    with atomic(path) as temporary, warnings.catch_warnings():
        # The tracing exporter needs no further package; PyTorch announces that it will go one day.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (volume,),
            str(temporary),
            dynamo=False,
            opset_version=17,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: batch, OUTPUT: batch},
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    twice = torch.cat([volume, volume.flip(2)])
    with torch.no_grad():
        _compare(session.run(None, {INPUT: twice.numpy()})[0], encoder(twice).numpy(), path)


def probe_volume(card: Mapping[str, Any]) -> torch.Tensor:
    """`[1, 4, D, H, W]` of noise on the contract's grid, always the same."""
    shape = (1, len(SEQUENCES), *card["preprocessing"]["shape"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of("export")))


def _compare(found: np.ndarray, expected: np.ndarray, path: Path) -> None:
    furthest = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not furthest <= TOLERANCE:
        raise InputError(f"{path}: gives other embeddings than the encoder (by {furthest:.1e}); nothing to rely on")


def model_card(encoder: Encoder, card: Mapping[str, Any]) -> str:
    """The README of the exported folder: what it is, how to use it, what it was made from, and what it must not do."""
    run = {key: card.get(key) for key in ("method", "objective", "seed")}
    name = "-".join(str(run[key]) for key in ("method", "objective")) + f"-s{run['seed']}"
    groups = card.get("groups") or []
    made_from = [
        f"| {', '.join(f'{key} {value}' for key, value in group.items())} |"
        for group in groups
        if isinstance(group, Mapping)
    ]
    contract = "\n".join(f"- {key}: {json.dumps(value)}" for key, value in sorted(card["preprocessing"].items()))
    return f"""---
library_name: neurorad
license: other
tags: [medical-imaging, mri, brain-tumour, self-supervised]
---

# {name}

A 3D {encoder.architecture.name} ({parameter_count(encoder) / 1e6:.1f} million parameters) pretrained by {run["method"]} with the objective
{run["objective"]}, seed {run["seed"]}. It turns one scan of four MRI sequences ({", ".join(SEQUENCES)}) into {encoder.dimension} numbers.

Research use only; it is no medical device. Whoever publishes these weights chooses the licence above in accord with the
terms of the data they were trained on.

## Use

```python
from neurorad.encoder import load_encoder
encoder, card = load_encoder("this-folder")
```

`encoder(volumes)` takes `[batch, 4, D, H, W]` float32. From scans on disk, preprocessed as below, in one call:
`neurorad embed --encoder this-folder --out embeddings.parquet SCAN-FOLDER ...`

## Preprocessing: volumes of any other kind are refused

{contract}

## Made from

{card.get("scans", "?")} scans of {card.get("patients", "?")} patients; manifest sha256 `{card.get("manifest_sha256", "unknown")}`.

{chr(10).join(["| group |", "| --- |", *made_from]) if made_from else ""}

Versions: {", ".join(f"{key} {value}" for key, value in sorted(card.get("versions", {}).items()))}.
"""
