"""A rival's name and its settings in the config to a function from one volume to one vector."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neurorad.embedding.scans import tumour_mask
from neurorad.problems import InputError
from neurorad.rivals import WEIGHTS

Function = Callable[[np.ndarray, Any], np.ndarray | None]
"""`[4, D, H, W]` float32 and the row of volumes.tsv -> `[d]`, or None where there is nothing to embed."""


def built(name: str, settings: Mapping[str, Any], contract: Mapping[str, Any], device: str) -> Function:
    """The rival `name`: `intensity`, `radiomics`, one of `WEIGHTS`, or an adapter of any other name.

    Args:
        settings: its block in the config. contract: `preprocessing` of the volumes. device: auto, cpu or cuda.

    Raises:
        InputError: what its weights or its file have wrong.
    """
    spacing = float(contract["spacing_mm"])
    if name == "intensity":
        from neurorad.embedding.statistics import intensity_features

        return lambda voxels, row: intensity_features(voxels, spacing)
    if name == "radiomics":
        from neurorad.embedding.statistics import radiomics_features

        def radiomics(voxels: np.ndarray, row: Any) -> np.ndarray | None:
            tumour = tumour_mask(row, voxels.shape[1:])
            return None if tumour is None else radiomics_features(voxels, tumour, spacing)

        return radiomics
    return _network(name, settings, contract, device)


def _network(name: str, settings: Mapping[str, Any], contract: Mapping[str, Any], device: str) -> Function:
    import torch

    from neurorad.encoder import choose_device

    place = choose_device(device)
    if name not in WEIGHTS:
        from neurorad.embedding.adapters import KINDS, adapter

        if sum(kind in settings for kind in KINDS) != 1:
            raise InputError(
                f"rival {name}: is none of {', '.join(WEIGHTS)}; an adapter needs one of {', '.join(KINDS)}"
            )
        call = adapter(name, settings, contract, place)
        return lambda voxels, row: call(voxels)
    from neurorad.embedding.biomedclip import biomedclip
    from neurorad.embedding.published import brainiac, medicalnet

    made: dict[str, Callable[..., torch.nn.Module]] = {
        "biomedclip": biomedclip,
        "medicalnet": medicalnet,
        "brainiac": brainiac,
    }
    if "weights" not in settings:
        raise InputError(f"rival {name}: needs its weights, {WEIGHTS[name]}; nothing is downloaded")
    options = {key: value for key, value in settings.items() if key not in ("weights", "sha256")}
    network = made[name](settings["weights"], settings.get("sha256"), **options).to(place)

    def forward(voxels: np.ndarray, row: Any) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(voxels)[None].to(place))[0].cpu().numpy()

    return forward
