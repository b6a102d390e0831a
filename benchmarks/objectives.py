"""Do the objectives differ? Summary of a finished study: `python benchmarks/objectives.py RESULTS [--endpoints idh1 ...]`.

The study itself is a run of the workflow with `objectives: [base, balanced, dro, excess, worst]` and `seeds: [0, 1, 2]`
in the config (and `training.sampling: by_objective` in the preset, or without `balanced`). For every method and
objective: AUC of the leave-one-site-out probe, mean over endpoints and sites and worst site, each as mean over seeds;
the difference from the untrained encoder with a 95 % t interval over (endpoint, site) cells and seeds; and what the
embedding tells of the site. Cells that are not estimable are left out, for all encoders alike.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

ENDPOINTS = ("idh1", "mgmt", "1p19q", "egfr", "atrx", "tp53", "cdkn2ab", "tert")


def read(results: Path, kind: str) -> pd.DataFrame:
    files = [path for path in sorted((results / "evaluation" / kind).glob("*.parquet")) if path.name.count(".") == 1]
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


def cells(probe: pd.DataFrame, endpoints: list[str]) -> pd.DataFrame:
    """AUC, one row a (endpoint, site), one column an encoder; only cells that every encoder has."""
    chosen = probe[
        (probe["protocol"] == "leave_one_site_out") & (probe["metric"] == "auc") & probe["endpoint"].isin(endpoints)
    ]
    return chosen.pivot_table(index=["endpoint", "site"], columns="encoder", values="value").dropna()


def interval(values: np.ndarray) -> str:
    """Mean and 95 % t interval."""
    mean = values.mean()
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def summary(results: Path, endpoints: list[str]) -> pd.DataFrame:
    """One row a method and objective. Raises SystemExit where nothing can be compared."""
    probe, invariance = read(results, "probe"), read(results, "invariance")
    table = cells(probe, endpoints)
    untrained = [name for name in table if name.startswith("random")]
    if table.empty or not untrained:
        raise SystemExit(f"{results}: no AUC that every encoder has, or no untrained encoder")
    encoders = probe.drop_duplicates("encoder").set_index("encoder")[["method", "objective"]]
    encoders = encoders[encoders.index.isin(table.columns) & (encoders["objective"] != "none")]
    by_metric = invariance.pivot_table(index="encoder", columns="metric", values="value")
    rows = []
    for (method, objective), own in encoders.groupby(["method", "objective"]):
        auc = table[own.index]
        difference = auc.sub(table[untrained].mean(axis=1), axis=0).to_numpy().ravel()
        site = by_metric.loc[own.index]
        rows.append(
            {
                "method": method,
                "objective": objective,
                "seeds": len(own),
                "mean AUC": auc.to_numpy().mean(),
                "worst-site AUC": auc.groupby("site").mean().min().mean(),
                "above untrained": interval(difference),
                "silhouette": site["silhouette"].mean(),
                "site probe": site["site_probe_balanced_accuracy"].mean(),
                "rank": site["effective_rank"].mean(),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--endpoints", nargs="+", default=list(ENDPOINTS))
    args = parser.parse_args()
    print(summary(args.results, args.endpoints).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
