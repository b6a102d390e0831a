"""False positives where nothing is planted: `python benchmarks/null_survival.py [--runs 200]`.

Each run draws embeddings, survival and sites that know nothing of each other and counts how often each statistic calls
it significant at 0.05 (p below 0.05, or a 95 % interval that leaves out the null value). Prints a table with the 95 %
range that a nominal statistic would show in so many runs.

Intervals by cross-validation take the fitted risk as given and folds share patients, so that they are not exact; the
table says how far they are off.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.stats import binom
from threadpoolctl import threadpool_limits

from neurorad.endpoints import endpoints
from neurorad.evaluation.comparison import compare
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import check_labels, fold_table
from neurorad.evaluation.invariance import invariance
from neurorad.evaluation.survival import survival

NULL = {"c_index": 0.5, "uno_c": 0.5, "auc_12m": 0.5, "hr_per_sd": 1.0}
"""Statistics of the out-of-fold risk, and their value without an effect."""


TESTS = ("prognosis_permutation", "proportional_hazards_p")
"""Tests that the report concludes from, with the primary comparisons; intervals and log-rank are descriptive within a site."""


def draw(seed: int, patients: int, features: int) -> tuple[list[Embeddings], pd.DataFrame, pd.DataFrame]:
    """Two encoders that know nothing, their folds and patients."""
    random = np.random.default_rng(seed)
    who = pd.DataFrame({"cohort": np.repeat(["a", "b"], [patients // 2, patients - patients // 2])})
    who["patient"] = [f"p{i:03d}" for i in range(patients)]
    who["scan"] = who["cohort"] + "-" + who["patient"]
    died, left = 450 * random.exponential(size=patients), random.uniform(200, 1500, patients)
    truth = {"os_days": np.minimum(died, left), "event": (died <= left) * 1.0, "idh1": 0.0, "grade": 4.0}
    table = check_labels(who[["cohort", "patient"]].assign(**truth), endpoints())
    columns = [f"e{i}" for i in range(features)]
    numbers = [pd.DataFrame(random.normal(size=(patients, features)), columns=columns) for _ in range(2)]
    folds = fold_table(who, table, endpoints(), 5, 1, seed)
    folds = folds[folds["endpoint"].isin(["os", "site"])]
    names = ("byol-base-s0", "byol-dro-s0")
    both = [Embeddings([pd.concat([who, each], axis=1)], name) for name, each in zip(names, numbers, strict=True)]
    return both, folds, table


def one_run(seed: int, patients: int, features: int, replicates: int) -> dict[str, bool]:
    """Which statistics were significant; new sites are the honest test, so survival is judged across sites."""
    (embeddings, rival), folds, table = draw(seed, patients, features)
    wrong: dict[str, bool] = {}
    rows, predictions, *_ = survival(embeddings, folds, table, endpoints(), seed, replicates)
    found, other, *_ = survival(rival, folds, table, endpoints(), seed, replicates)
    rows = pd.DataFrame(rows)
    both = pd.concat([rows.assign(encoder=embeddings.encoder), pd.DataFrame(found).assign(encoder=rival.encoder)])
    compared = compare([predictions, other], folds, endpoints(), seed, replicates, both)
    rows = pd.concat([rows, pd.DataFrame(compared)])
    for protocol in ("leave_one_site_out", "within_site"):
        mine = rows[(rows["protocol"] == protocol) & (rows["endpoint"] == "os")].drop_duplicates("metric")
        for _, row in mine.iterrows():
            name = f"survival, {protocol.replace('_', ' ')}: {row['metric']}"
            if row["metric"] in NULL and np.isfinite(row["ci_low"]):
                wrong[name] = not row["ci_low"] <= NULL[row["metric"]] <= row["ci_high"]
            elif row["metric"] in ("log_rank_p", "proportional_hazards_p") and np.isfinite(row["value"]):
                wrong[name] = row["value"] < 0.05
            elif (row["metric"] in TESTS or row["role"] == "primary") and np.isfinite(row["p"]):
                wrong[name] = row["p"] < 0.05
    rows = pd.DataFrame(invariance(embeddings, folds, table, seed, replicates)[0])
    mine = rows[(rows["endpoint"] == "site") & (rows["protocol"] == "combined")].set_index("metric")
    for metric in ("site_probe_p", "mmd_p"):
        wrong[f"invariance: {metric}"] = mine.loc[metric, "value"] < 0.05
    return wrong


def false_positives(runs: int, patients: int = 80, features: int = 16, replicates: int = 200) -> pd.DataFrame:
    """Columns runs, share (of runs that were significant), low and high (95 % range of the nominal 5 %), by statistic."""
    table = pd.DataFrame([one_run(seed, patients, features, replicates) for seed in range(runs)])
    counted = table.notna().sum()
    low, high = binom.ppf([[0.025], [0.975]], counted.to_numpy(), 0.05) / counted.to_numpy()
    return pd.DataFrame({"runs": counted, "share": table.mean().astype(float), "low": low, "high": high})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    with threadpool_limits(1):
        found = false_positives(args.runs)
    print("| statistic | runs | significant at 0.05 | nominal range |\n|---|---|---|---|")
    for name, row in found.iterrows():
        print(f"| {name} | {int(row['runs'])} | {row['share']:.3f} | {row['low']:.3f} to {row['high']:.3f} |")


if __name__ == "__main__":
    main()
