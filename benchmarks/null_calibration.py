"""False positives where nothing is to be found: `python benchmarks/null_calibration.py [--studies 200]`.

Each study has two sites of different prevalence, an age that does not matter, and two encoders of which each knows as
much about the marker as the other: nothing, or, for the comparison of encoders, the same. Folds, probes and tests are
those of the workflow. A test of size 5 % should reject in 5 % of the studies.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.stats import binom
from threadpoolctl import threadpool_limits

from neurorad.endpoints import endpoints
from neurorad.evaluation.comparison import compare
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import analysis_set, check_labels, fold_table
from neurorad.evaluation.metrics import wilson
from neurorad.evaluation.probe import probe

SITES = {"a": (50, 0.35), "b": (40, 0.5)}
FEATURES = 12


def embeddings(who: pd.DataFrame, x: np.ndarray, encoder: str) -> Embeddings:
    numbers = pd.DataFrame(x, columns=[f"e{i}" for i in range(x.shape[1])])
    return Embeddings([pd.concat([who, numbers], axis=1)], encoder)


def study(seed: int, effect: float, bootstrap: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Probe rows of the first encoder, its predictions, and the comparison of both; all sites together."""
    random = np.random.default_rng(seed)
    who = pd.DataFrame(
        [(s, f"p{i:02d}") for s, (n, _) in SITES.items() for i in range(n)], columns=["cohort", "patient"]
    )
    who = who.assign(scan=who["cohort"] + who["patient"], session="1")
    share = who["cohort"].map({site: share for site, (_, share) in SITES.items()}).to_numpy()
    y = (random.random(len(who)) < share).astype(float)
    labelled = check_labels(who[["cohort", "patient"]].assign(mgmt=y), endpoints())
    folds = fold_table(analysis_set(who.assign(status="ok")), labelled, endpoints(), 5, 2, seed)
    folds = folds[(folds["endpoint"] == "mgmt") & (folds["protocol"] == "combined")]
    age = embeddings(who, random.normal(60, 10, (len(who), 1)), "clinical")
    shared = random.normal(size=(len(who), 1)) + effect * y[:, None]
    made = []
    for encoder in ("byol-base-s0", "byol-dro-s0"):
        own = random.normal(size=(len(who), FEATURES))
        own[:, 0] = (own[:, 0] + shared[:, 0]) if effect else own[:, 0]
        made.append(probe(embeddings(who, own, encoder), folds, endpoints(), seed, bootstrap, age))
    compared = compare([made[0][1], made[1][1]], folds, endpoints(), seed, bootstrap)
    return pd.DataFrame(made[0][0]), made[0][1], pd.DataFrame(compared)


def rejections(seed: int, bootstrap: int) -> dict[str, float]:
    """What each test of one study says: 1 a false positive, 0 none; for the sets, the share of patients not covered."""
    rows, predictions, _ = study(seed, 0.0, bootstrap)
    _, _, compared = study(seed, 1.2, bootstrap)
    rows, compared = (table.drop_duplicates("metric").set_index("metric") for table in (rows, compared))
    truth = predictions["label"].to_numpy().astype(int)
    held = predictions[["p_negative", "p_positive"]].to_numpy()[np.arange(len(truth)), truth] > 0.1
    resampled = compared.loc["auc_difference_bootstrap"]
    return {
        "AUC above 0.5: DeLong interval (one-sided 2.5 %)": float(rows.loc["auc", "ci_low"] > 0.5),
        "AUC within site above 0.5: bootstrap (one-sided 2.5 %)": float(rows.loc["auc_same_site", "ci_low"] > 0.5),
        "AUC above chance: permutation within site (5 %)": float(rows.loc["auc_permutation", "p"] < 0.05),
        "image adds to age: paired DeLong (5 %)": float(rows.loc["auc_added", "p"] < 0.05),
        "image adds to age, better only (2.5 %)": float(rows.loc["auc_added", "ci_low"] > 0),
        "two equal encoders: paired DeLong (5 %)": float(compared.loc["auc_difference", "p"] < 0.05),
        "two equal encoders: patient bootstrap (5 %)": float(not resampled["ci_low"] <= 0 <= resampled["ci_high"]),
        "two equal encoders: Nadeau-Bengio (5 %)": float(compared.loc["auc_difference_corrected", "p"] < 0.05),
        "two equal encoders: the paper's rule over folds (5 %)": float(
            compared.loc["auc_difference_over_folds", "p"] < 0.05
        ),
        "patients outside their 90 % conformal set (10 %)": float(1 - held.mean()),
    }


def table(studies: int, bootstrap: int) -> pd.DataFrame:
    """Columns test, rate, low, high (Wilson; for the mean share of patients not covered, 2 standard errors)."""
    found = pd.DataFrame([rejections(seed, bootstrap) for seed in range(studies)])
    lines = []
    for name, values in found.items():
        rate = values.mean()
        counted = set(values) <= {0.0, 1.0}
        half = 2 * values.std() / np.sqrt(studies)
        low, high = wilson(int(values.sum()), studies) if counted else (rate - half, rate + half)
        lines.append((name, rate, low, high))
    return pd.DataFrame(lines, columns=["test", "rate", "low", "high"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=200)
    args = parser.parse_args()
    with threadpool_limits(1):
        made = table(args.studies, args.bootstrap)
    low, high = binom.ppf([0.025, 0.975], args.studies, 0.05) / args.studies
    print(f"{args.studies} studies; a sound test of size 5 % rejects in {low:.1%} to {high:.1%} of so many\n")
    print("| test (nominal) | rejected | 95 % CI |\n|---|---|---|")
    for row in made.itertuples():
        print(f"| {row.test} | {row.rate:.1%} | {row.low:.1%} to {row.high:.1%} |")


if __name__ == "__main__":
    main()
