"""The table of `benchmarks/objectives.py`: AUC with intervals, site, rank and groups of each arm, from what its encoders left."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from neurorad.encoder_names import METHODS, OBJECTIVES, encoder_parts
from neurorad.evaluation import metrics
from neurorad.files import read_table
from neurorad.pretraining.objectives import WEIGHTED
from neurorad.seeds import generator

TEST = ("cuimc", "ucsf-pdgm", "upenn-gbm")
CONTROL = "mgmt"
"""Planted almost at chance: reported, not averaged."""
DRAWS = 1000


def read_scores(out: Path, kind: str) -> dict[str, pd.DataFrame]:
    """`predictions` or `latents` of every finished encoder, rows in one order."""
    tables = {}
    for path in sorted((out / "results").glob(f"*.{kind}.parquet")):
        table = read_table(path).sort_values(["endpoint", "cohort", "patient"], ignore_index=True)
        tables[path.name.removesuffix(f".{kind}.parquet")] = table
    return tables


def found_again(latent: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each draw; equal predictions have found nothing."""
    return np.nan_to_num(metrics.spearman(latent, predicted, weights))


def drawn(
    scores: dict[str, pd.DataFrame], draws: int, measure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """A measure `[1 + draws, endpoints, sites]` of every encoder: as found, then with patients of each site drawn again.

    The same patients are drawn for every encoder and endpoint. Without the control; NaN where nothing can be estimated.
    """
    random = generator(0, "objectives benchmark")
    anybody = next(iter(scores.values()))
    who = anybody[["cohort", "patient"]].drop_duplicates().sort_values(["cohort", "patient"], ignore_index=True)
    weights = np.zeros((1 + draws, len(who)))
    weights[0] = 1
    for _, rows in who.groupby("cohort"):
        counts = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
        weights[1:, rows.index] = counts
    place = {key: i for i, key in enumerate(who.itertuples(index=False, name=None))}
    found = {}
    for name, table in scores.items():
        parts = {key: part for key, part in table.groupby(["endpoint", "cohort"]) if key[0] != CONTROL}
        endpoint_names = sorted({endpoint for endpoint, _ in parts})
        values = np.full((1 + draws, len(endpoint_names), len(TEST)), np.nan)
        for (endpoint, cohort), part in parts.items():
            index = [place[key] for key in part[["cohort", "patient"]].itertuples(index=False, name=None)]
            cell = measure(part["truth"].to_numpy(), part["score"].to_numpy(), weights[:, index])
            values[:, endpoint_names.index(endpoint), TEST.index(cohort)] = cell
        found[name] = values
    return found


def mean_and_worst(aucs: np.ndarray) -> np.ndarray:
    """`[draws, endpoints, sites] -> [2, draws]`: mean over all cells that can be estimated, and over the endpoints that can be
    at every site, at the worst of them."""
    common = ~np.isnan(aucs[0]).any(axis=1)
    return np.stack([np.nanmean(aucs, axis=(1, 2)), np.nanmean(aucs[:, common], axis=1).min(axis=1)])


def over_seeds(runs: dict[int, np.ndarray], random: np.random.Generator) -> np.ndarray:
    """`[n, draws]` of each seed -> their mean; in every draw but the first as many seeds are drawn again."""
    seeds = sorted(runs)
    stacked = np.stack([runs[seed] for seed in seeds])
    weights = random.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=stacked.shape[2]) / len(seeds)
    weights[0] = 1 / len(seeds)
    return np.einsum("sxd,ds->xd", stacked, weights)


def groups_at_the_end(out: Path, names: list[str]) -> dict[str, str]:
    """Of one arm's encoders: the largest weight of a group at the last step, and how far the group with the highest loss in the
    last 30 % of the logged steps is above the mean of the groups. Medians, with the lowest and the highest."""
    heaviest, above = [], []
    for name in names:
        table = read_table(out / "encoders" / name / "groups.csv", text=("group",))
        last, late = table["step"].max(), table[(table["step"] >= 0.7 * table["step"].max()) & (table["count"] > 0)]
        weighted = encoder_parts(name)[1] in WEIGHTED
        heaviest.append(table.loc[table["step"] == last, "weight"].max() if weighted else np.nan)
        losses = (late["loss"] * late["count"]).groupby(late["group"]).sum() / late.groupby("group")["count"].sum()
        above.append(losses.max() / losses.mean() - 1)

    def shown(values: list[float], form: str) -> str:
        known = np.array(values, float)
        if np.isnan(known).all():
            return ""
        return f"{np.median(known):{form}} ({known.min():{form}} to {known.max():{form}})"

    return {"heaviest group": shown(heaviest, ".3f"), "worst group's loss": shown(above, "+.1%")}


def training_ends(out: Path) -> pd.DataFrame:
    """One row a method: features' rank and spread within a batch at the first and the last step, and the last loss. Medians over
    the encoders of all objectives, with the lowest."""
    rows = []
    for method in METHODS:
        histories = [read_table(path) for path in sorted((out / "encoders").glob(f"{method}-*/history.csv"))]
        row = {"method": method, "encoders": len(histories)}
        for column, form in (("effective_rank", ".1f"), ("feature_spread", ".2f"), ("loss", ".4f")):
            first, last = (np.array([h[column].iloc[at] for h in histories]) for at in (0, -1))
            row[column] = f"{np.median(first):{form}} to {np.median(last):{form}} (lowest {last.min():{form}})"
        rows.append(row)
    return pd.DataFrame(rows)


def interval(values: np.ndarray, signed: bool = False) -> str:
    """As found, and the middle 95 % of the draws."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    sign = "+" if signed else ""
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def summary(out: Path, draws: int = DRAWS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a method and objective; and the AUC of every endpoint, mean over sites and seeds."""
    scores = read_scores(out, "predictions")
    latents = drawn(read_scores(out, "latents"), draws, found_again)
    numbers = {
        name: np.stack([*mean_and_worst(aucs), latents[name].mean(axis=(1, 2))])
        for name, aucs in drawn(scores, draws, metrics.auc).items()
    }
    whole = pd.concat([read_table(out / "results" / f"{name}.parquet") for name in scores], ignore_index=True)
    whole = whole.pivot_table(index="encoder", columns="metric", values="value")
    stopped = [path.name.removesuffix(".parquet") for path in sorted((out / "results").glob("*.parquet"))]
    stopped = [name for name in stopped if "." not in name and name not in scores]
    untrained = {encoder_parts(name)[2]: numbers[name] for name in numbers if name.startswith("random")}
    rows = []
    for method in ("random", *METHODS):
        for objective in ("none",) if method == "random" else OBJECTIVES:
            names = [name for name in numbers if encoder_parts(name)[:2] == (method, objective)]
            if not names:
                continue
            own = {encoder_parts(name)[2]: numbers[name] for name in names}
            base = {seed: numbers.get(f"{method}-base-s{seed}") for seed in own}
            mean, worst, latent = over_seeds(own, generator(0, "seeds"))
            row = {"method": method, "objective": objective, "seeds": len(own), "mean AUC": interval(mean)}
            row |= {"worst-site AUC": interval(worst), "latents": interval(latent)}
            if method != "random":
                above = over_seeds({s: own[s] - untrained[s] for s in own if s in untrained}, generator(0, "seeds"))
                row["mean above untrained"] = interval(above[0], signed=True)
                row["latents above untrained"] = interval(above[2], signed=True)
            if objective not in ("none", "base") and all(value is not None for value in base.values()):
                gain = over_seeds({s: own[s] - base[s] for s in own}, generator(0, "seeds"))
                row |= {"mean above base": interval(gain[0], True), "worst site above base": interval(gain[1], True)}
            own_rows = whole.loc[names]
            row |= {
                "silhouette": f"{own_rows['silhouette'].mean():.3f}",
                "site probe": f"{own_rows['site_probe'].mean():.3f}",
                "rank": f"{own_rows['effective_rank'].mean():.1f}",
                **(groups_at_the_end(out, names) if method != "random" else {}),
                "collapsed": sum(encoder_parts(name)[:2] == (method, objective) for name in stopped),
            }
            rows.append(row)
    endpoint_means = pd.concat(
        [
            table.groupby(["endpoint", "cohort"])
            .apply(lambda p: float(metrics.auc(p["truth"].to_numpy(), p["score"].to_numpy())), include_groups=False)
            .groupby("endpoint")
            .mean()
            .rename(name)
            for name, table in scores.items()
        ],
        axis=1,
    )
    by_arm = endpoint_means.T.groupby(lambda name: "-".join(map(str, encoder_parts(name)[:2]))).mean().T
    return pd.DataFrame(rows).fillna(""), by_arm


def markdown(table: pd.DataFrame, index: bool = False) -> str:
    shown = table.reset_index() if index else table
    lines = ["| " + " | ".join(map(str, shown.columns)) + " |", "|" + "---|" * shown.shape[1]]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in shown.itertuples(index=False, name=None)]
    return "\n".join(lines)
