"""False positives where nothing is to be found: `python benchmarks/null_calibration.py [--studies 200]`.

Each study has two sites of different prevalence and two encoders of which each knows as much about the marker as the
other. Three kinds of study: nobody knows anything; age knows the marker well and the image knows age, nothing more; both
encoders know the marker equally well. Folds, probes and tests are those of the workflow. A test of size 5 % should reject
in 5 % of the studies; those of `PRIMARY` must, as the report concludes from them.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binom, binomtest
from threadpoolctl import threadpool_limits

from neurorad.endpoints import endpoints
from neurorad.evaluation.comparison import compare
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import analysis_set, check_labels, fold_table
from neurorad.evaluation.metrics import wilson
from neurorad.evaluation.probe import probe

SITES = {"a": (50, 0.35), "b": (40, 0.5)}
FEATURES = 12
NULLS = ("nothing", "confounded", "equal")
WHERE = {"within": ("within_site", "a"), "combined": ("combined", "all"), "new site": ("leave_one_site_out", "b->a")}

PRIMARY = {
    **{f"AUC above chance, {name}: permutation (5 %)": ("nothing", name, "auc_permutation") for name in WHERE},
    **{f"image adds to age, {name}: randomisation (5 %)": ("nothing", name, "added_value_test") for name in WHERE},
    **{
        f"image adds to age that it knows, {name}: randomisation (5 %)": ("confounded", name, "added_value_test")
        for name in WHERE
    },
    **{
        f"two {kind} encoders, {name}: guarded Nadeau-Bengio (5 %)": (null, name, "auc_difference_corrected")
        for kind, null in (("ignorant", "nothing"), ("equal", "equal"))
        for name in ("within", "combined")
    },
    **{
        f"two {kind} encoders, new site: guarded paired DeLong (5 %)": (null, "new site", "auc_difference")
        for kind, null in (("ignorant", "nothing"), ("equal", "equal"))
    },
}
"""Tests that the report concludes from: name -> kind of study, protocol, metric whose p is judged."""

DESCRIPTIVE = {
    "AUC above 0.5: DeLong interval (one-sided 2.5 %)": ("nothing", "combined", "auc", "above 0.5"),
    "AUC within site above 0.5: bootstrap (one-sided 2.5 %)": ("nothing", "combined", "auc_same_site", "above 0.5"),
    "image adds to age: interval of paired DeLong (5 %)": ("nothing", "combined", "auc_added", "without 0"),
    "two equal encoders: paired DeLong (5 %)": ("equal", "combined", "auc_difference", "without 0"),
    "two equal encoders: patient bootstrap (5 %)": ("equal", "combined", "auc_difference_bootstrap", "without 0"),
}
"""Intervals that are shown and concluded from by nobody: what is judged of them."""
RULE = "two equal encoders: the paper's rule over folds (5 %)"
SETS = "patients outside their 90 % conformal set (10 %)"


def embeddings(who: pd.DataFrame, x: np.ndarray, encoder: str) -> Embeddings:
    numbers = pd.DataFrame(x, columns=[f"e{i}" for i in range(x.shape[1])])
    return Embeddings([pd.concat([who, numbers], axis=1)], encoder)


def study(seed: int, null: str, bootstrap: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Probe rows of the first encoder, its predictions, and the comparison of both."""
    random = np.random.default_rng([seed, NULLS.index(null)])
    who = pd.DataFrame(
        [(s, f"p{i:02d}") for s, (n, _) in SITES.items() for i in range(n)], columns=["cohort", "patient"]
    )
    who = who.assign(scan=who["cohort"] + who["patient"], session="1")
    share = who["cohort"].map({site: share for site, (_, share) in SITES.items()}).to_numpy()
    age = random.normal(size=len(who))
    if null == "confounded":
        share = expit(np.log(share / (1 - share)) + 2.0 * age)
    y = (random.random(len(who)) < share).astype(float)
    labelled = check_labels(who[["cohort", "patient"]].assign(mgmt=y), endpoints())
    folds = fold_table(analysis_set(who.assign(status="ok")), labelled, endpoints(), 5, 2, seed)
    wanted = [(protocol, site) for protocol, site in WHERE.values()]
    here = np.array([pair in wanted for pair in zip(folds["protocol"], folds["site"], strict=True)])
    folds = folds[(folds["endpoint"] == "mgmt") & here]
    known = embeddings(who, 60 + 10 * age[:, None], "clinical")
    shared = random.normal(size=len(who)) + 1.2 * y
    made, rows = [], []
    for encoder in ("byol-base-s0", "byol-dro-s0"):
        own = random.normal(size=(len(who), FEATURES))
        if null == "equal":
            own[:, 0] += shared
        if null == "confounded":
            own[:, :4] += 1.5 * age[:, None]
        made.append(probe(embeddings(who, own, encoder), folds, endpoints(), seed, bootstrap, known))
        rows.append(pd.DataFrame(made[-1][0]).assign(encoder=encoder))
    compared = compare([made[0][1], made[1][1]], folds, endpoints(), seed, bootstrap, pd.concat(rows))
    return rows[0], made[0][1], pd.DataFrame(compared)


def rejections(seed: int, bootstrap: int) -> dict[str, float]:
    """What each test of one study says: 1 a false positive, 0 none; for the sets, the share of patients not covered."""
    rows, sets = {}, np.nan
    for null in NULLS:
        *parts, compared = study(seed, null, bootstrap)
        table = pd.concat([parts[0], compared]).drop_duplicates(["protocol", "site", "metric"])
        rows[null] = table.set_index(["protocol", "site", "metric"])
        if null == "nothing":
            told = parts[1][parts[1]["protocol"] == "combined"]
            truth = told["label"].to_numpy().astype(int)
            sets = (told[["p_negative", "p_positive"]].to_numpy()[np.arange(len(truth)), truth] <= 0.1).mean()
    found = {}
    for name, (null, where, metric) in PRIMARY.items():
        found[name] = float(rows[null].loc[(*WHERE[where], metric), "p"] < 0.05)
    for name, (null, where, metric, judged) in DESCRIPTIVE.items():
        row = rows[null].loc[(*WHERE[where], metric)]
        found[name] = float(row["ci_low"] > 0.5 if judged == "above 0.5" else not row["ci_low"] <= 0 <= row["ci_high"])
    found[RULE] = float(rows["equal"].loc[(*WHERE["combined"], "auc_difference_over_folds"), "p"] < 0.05)
    return {**found, SETS: float(sets)}


def table(studies: int, bootstrap: int, first: int = 0) -> pd.DataFrame:
    """Columns test, role, rate, low, high (Wilson; for the mean share of patients not covered, 2 standard errors), p.

    p is that of the binomial test of a rate of 5 %, of a primary test.
    """
    found = pd.DataFrame([rejections(seed, bootstrap) for seed in range(first, first + studies)])
    lines = []
    for name, values in found.items():
        rate, hits = values.mean(), int(values.sum())
        half = 2 * values.std() / np.sqrt(studies)
        low, high = (rate - half, rate + half) if name == SETS else wilson(hits, studies)
        role = "primary" if name in PRIMARY else "descriptive"
        p = binomtest(hits, studies, 0.05).pvalue if role == "primary" else np.nan
        lines.append((name, role, rate, low, high, p))
    return pd.DataFrame(lines, columns=["test", "role", "rate", "low", "high", "p"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=200)
    args = parser.parse_args()
    with threadpool_limits(1):
        made = table(args.studies, args.bootstrap)
    low, high = binom.ppf([0.025, 0.975], args.studies, 0.05) / args.studies
    print(f"{args.studies} studies; a sound test of size 5 % rejects in {low:.1%} to {high:.1%} of so many\n")
    print("| test (nominal) | role | rejected | 95 % CI | binomial p |\n|---|---|---|---|---|")
    for row in made.itertuples():
        told = f"{row.p:.2f}" if np.isfinite(row.p) else ""
        print(f"| {row.test} | {row.role} | {row.rate:.1%} | {row.low:.1%} to {row.high:.1%} | {told} |")


if __name__ == "__main__":
    main()
