"""End to end on labels: an encoder and a linear head trained inside each training fold, from scratch or from a pretrained
encoder (the paper's Figure 2C), on the same saved folds as every probe.

Of each training fold a stratified fifth of the patients is held out: training stops when its loss has not fallen for
`patience` epochs, and the best epoch is kept. The tested patients choose nothing. The held-out logits are kept too: they
set threshold and scale where the scores are judged. As they also chose the epoch, these two are slightly optimistic; the
AUC of the tested patients is not touched by it.
"""

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from neurorad.encoder import Encoder
from neurorad.files import read_table, write_table
from neurorad.problems import InputError
from neurorad.seeds import generator, seed_of

HELD_OUT = 0.2
HEAD_FASTER = 10.0
"""The head starts from nothing, so it learns this many times as fast as the encoder."""
FEWEST = 2
"""Training patients of a class below which a fold is not fitted; its cell is then not estimable."""
COLUMNS = ("endpoint", "protocol", "site", "repeat", "fold", "cohort", "patient", "scan", "part", "label", "logit")
Load = Callable[[str, str], np.ndarray]
"""Cohort and scan -> `[4, D, H, W]`."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: at most `epochs`, stopped after `patience` epochs without a lower held-out loss; AdamW
    at `learning_rate` (encoder), `batch_size` scans a step."""

    epochs: int = 50
    patience: int = 8
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2


class Tuned(nn.Module):
    """`[B, 4, D, H, W] -> [B]`: encoder and linear head."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dimension, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        """`[B, 4, D, H, W] -> [B]`: one logit a volume."""
        return self.head(self.encoder(volumes))[:, 0]


def finetune(
    start: Encoder, folds: pd.DataFrame, load: Load, recipe: Recipe, seed: int, device: torch.device, parts: Path
) -> pd.DataFrame:
    """Out-of-fold logits of every cell, repeat and fold.

    Args:
        start: where each network begins; it is not changed. folds: rows of folds.parquet of the wanted endpoints,
            protocols and repeats. parts: folder of finished fits, which a killed job goes on from; removed at the end.

    Returns:
        `COLUMNS`: one row a tested patient (`part` test) and one a held-out training patient (`part` inner). Where there
        are fewer than 2 patients of a class to learn from, the tested ones are there without a logit (`part` untrained).
    """
    digest = hashlib.sha256(pd.util.hash_pandas_object(folds, index=False).to_numpy().tobytes())
    digest.update(repr((asdict(recipe), seed, start.architecture)).encode())
    for tensor in start.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    folder = parts / digest.hexdigest()[:16]
    made = []
    for where, table in _fits(folds):
        path = folder / f"{'-'.join(str(value) for value in where.values()).replace('>', '').replace('/', '-')}.parquet"
        if not path.is_file():
            rows = _fit(start, table, load, recipe, seed, where, device)
            write_table(path, rows)
        made.append(read_table(path))
    shutil.rmtree(parts, ignore_errors=True)
    return pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=list(COLUMNS))


def _fits(folds: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Each network to train: where it belongs, and the rows of its repeat with `tested`."""
    for keys, table in folds.groupby(["endpoint", "protocol", "site", "repeat"], sort=False):
        for fold in sorted(set(table["fold"]) - {-1}):
            where = dict(zip(("endpoint", "protocol", "site", "repeat"), keys, strict=True)) | {"fold": int(fold)}
            yield where, table.assign(tested=table["fold"] == fold).reset_index(drop=True)


def _fit(
    start: Encoder,
    table: pd.DataFrame,
    load: Load,
    recipe: Recipe,
    seed: int,
    where: dict[str, object],
    device: torch.device,
) -> pd.DataFrame:
    label = table["label"].to_numpy(float)
    cutoff = table["cutoff"].to_numpy(float)
    y = np.where(np.isnan(cutoff), label, label >= cutoff).astype(float)
    tested = table["tested"].to_numpy()
    if min((y[~tested] == value).sum() for value in (0, 1)) < FEWEST:
        rows = table.loc[tested, ["cohort", "patient", "scan"]]
        return rows.assign(**where, part="untrained", label=y[tested], logit=np.nan)[list(COLUMNS)]
    random = generator(seed, "finetune", *where.values())
    inner = held_out(y, table["cohort"].to_numpy(str), ~tested, random)
    taught = ~tested & ~inner
    network = train(start, table, y, taught, inner, load, recipe, seed_of(seed, "finetune", *where.values()), device)
    kept = np.flatnonzero(tested | inner)
    logits = _logits(network, table, kept, load, recipe.batch_size, device)
    part = np.where(tested[kept], "test", "inner")
    rows = table.iloc[kept][["cohort", "patient", "scan"]].reset_index(drop=True)
    return rows.assign(**where, part=part, label=y[kept], logit=logits)[list(COLUMNS)]


def held_out(y: np.ndarray, site: np.ndarray, training: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`[n]` boolean: about `HELD_OUT` of the training patients, of every label at every site, at least one of each label
    and never all of it.

    Every row is one patient.
    """
    chosen = np.zeros(len(y), dtype=bool)
    for label in (0, 1):
        mine = [random.permutation(np.flatnonzero(training & (y == label) & (site == s))) for s in np.unique(site)]
        # Dealt site by site, so that every fifth patient of the label is taken whatever the sizes of the sites.
        order = np.concatenate(mine)
        count = min(max(1, round(HELD_OUT * len(order))), len(order) - 1)
        chosen[order[np.linspace(0, len(order) - 1, count).round().astype(int)]] = True
    return chosen


def train(
    start: Encoder,
    table: pd.DataFrame,
    y: np.ndarray,
    taught: np.ndarray,
    inner: np.ndarray,
    load: Load,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> Tuned:
    """The network of the epoch with the lowest held-out loss. Classes weigh the same in both losses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Tuned(copy.deepcopy(start)).to(device)
    groups: list[dict[str, Any]] = [
        {"params": network.encoder.parameters()},
        {"params": network.head.parameters(), "lr": HEAD_FASTER * recipe.learning_rate},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    random = torch.Generator().manual_seed(seed)
    weight = torch.tensor(float((y[taught] == 0).sum() / (y[taught] == 1).sum()), device=device)
    best, lowest, waited = copy.deepcopy(network.state_dict()), np.inf, 0
    rows = np.flatnonzero(taught)
    for _ in range(recipe.epochs):
        network.train()
        order = rows[torch.randperm(len(rows), generator=random).numpy()]
        for batch in _batches(order, recipe.batch_size):
            volumes = augmented(_stack(table, batch, load), random).to(device)
            truth = torch.from_numpy(y[batch]).float().to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logit = network(volumes)
            loss = functional.binary_cross_entropy_with_logits(logit.float(), truth, pos_weight=weight)
            if not torch.isfinite(loss):
                raise InputError("the loss is not finite; lower rivals.finetune.learning_rate")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        held = np.flatnonzero(inner)
        logits = torch.from_numpy(_logits(network, table, held, load, recipe.batch_size, device))
        truth = torch.from_numpy(y[held])
        told = float(functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight.cpu().double()))
        if told < lowest:
            best, lowest, waited = copy.deepcopy(network.state_dict()), told, 0
        else:
            waited += 1
            if waited >= recipe.patience:
                break
    network.load_state_dict(best)
    return network.eval()


def augmented(volumes: Tensor, random: torch.Generator) -> Tensor:
    """Each scan mirrored left to right in half of the cases, and its intensities scaled by 0.9 to 1.1 and shifted by up to
    0.1 SD inside the brain."""
    flip = torch.rand(len(volumes), generator=random) < 0.5
    volumes = torch.where(flip.view(-1, 1, 1, 1, 1), volumes.flip(2), volumes)
    scale = 0.9 + 0.2 * torch.rand(len(volumes), volumes.shape[1], 1, 1, 1, generator=random)
    shift = 0.2 * torch.rand(scale.shape, generator=random) - 0.1
    return torch.where(volumes != 0, volumes * scale + shift, 0)


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of at least 2, where there are 2: batch norm needs them."""
    count = max(1, len(order) // size if len(order) % size == 1 else -(-len(order) // size))
    yield from np.array_split(order, count)


def _stack(table: pd.DataFrame, rows: np.ndarray, load: Load) -> Tensor:
    scans = zip(table["cohort"].iloc[rows], table["scan"].iloc[rows], strict=True)
    return torch.from_numpy(np.stack([load(cohort, scan) for cohort, scan in scans])).float()


@torch.no_grad()
def _logits(
    network: Tuned, table: pd.DataFrame, rows: np.ndarray, load: Load, batch: int, device: torch.device
) -> np.ndarray:
    network.eval()
    found = [network(_stack(table, part, load).to(device)).float().cpu().numpy() for part in _chunks(rows, batch)]
    return np.concatenate(found).astype(np.float64)


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    yield from (rows[begin : begin + size] for begin in range(0, len(rows), size))
