"""Volumes through a network: one row of numbers a scan."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurorad.embedding.scans import load_checked, with_identity
from neurorad.encoder import Encoder


@torch.no_grad()
def embed(
    encoder: Encoder, table: pd.DataFrame, contract: Mapping[str, Any], device: torch.device, batch_size: int = 4
) -> pd.DataFrame:
    """Whole volumes through the encoder in evaluation mode, in float32.

    Args:
        table: rows of `read_usable`.
        contract: the `preprocessing` of the encoder's card; every volume must have the same.

    Returns:
        `IDENTITY` and e0 ... e{d-1}, in the order of `table`.
    """
    encoder = encoder.to(device).eval()
    rows = list(table.itertuples())
    features = []
    for begin in range(0, len(rows), batch_size):
        batch = np.stack([load_checked(row, contract) for row in rows[begin : begin + batch_size]])
        features.append(encoder(torch.from_numpy(batch).to(device).float()).cpu().numpy())
    return with_identity(table, np.concatenate(features))
