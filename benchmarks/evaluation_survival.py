"""CPU time of survival and invariance: `python benchmarks/evaluation_survival.py [--encoders 10] [--bootstrap 2000]`.

Three sites of the sizes of the real test cohorts' glioblastomas, every protocol, embeddings of 512 numbers. One encoder is
timed (encoders are independent jobs) and multiplied. Beside it the slow obvious way for the two costliest parts, timed on
a few bootstrap samples and scaled: Uno's c pair by pair, and one refit of Kaplan-Meier a sample by lifelines.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from threadpoolctl import threadpool_limits

from neurorad.endpoints import endpoints
from neurorad.evaluation import metrics, time_metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import check_labels, fold_table
from neurorad.evaluation.invariance import invariance
from neurorad.evaluation.survival import survival

SITES = {"ucsf": 150, "upenn": 150, "cuimc": 100}


def draw(features: int, repeats: int) -> tuple[Embeddings, pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(0)
    who = pd.DataFrame({"cohort": np.repeat(list(SITES), list(SITES.values()))})
    who["patient"] = [f"p{i:03d}" for i in range(len(who))]
    who["scan"] = who["cohort"] + "-" + who["patient"]
    latent = random.normal(size=len(who))
    x = random.normal(size=(len(who), features))
    x[:, : features // 8] += 0.7 * latent[:, None]
    died, left = 500 * random.exponential(size=len(who)) * np.exp(-latent), random.uniform(200, 2500, len(who))
    truth = {"os_days": np.minimum(died, left), "event": (died <= left) * 1.0, "idh1": 0.0, "grade": 4.0}
    patients = check_labels(who[["cohort", "patient"]].assign(**truth), endpoints())
    folds = fold_table(who, patients, endpoints(), 5, repeats)
    table = pd.concat([who, pd.DataFrame(x, columns=[f"e{i}" for i in range(features)])], axis=1)
    return Embeddings([table], "byol-base-s0"), folds[folds["endpoint"].isin(["os", "site"])], patients


def slow_uno(days: np.ndarray, event: np.ndarray, risk: np.ndarray, tau: float) -> float:
    """Pair by pair, the censoring curve by lifelines."""
    free = KaplanMeierFitter().fit(days, 1 - event)
    won = total = 0.0
    for i in np.flatnonzero((event == 1) & (days < tau)):
        weight = 1 / float(free.predict(days[i] - 1e-9)) ** 2
        for j in range(len(days)):
            if days[j] > days[i]:
                won += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
                total += weight
    return won / total


def uno_times(replicates: int) -> tuple[float, float]:
    """CPU seconds of Uno's c with its bootstrap for 150 patients: ours, and the slow way."""
    _, _, patients = draw(8, 1)
    part = patients.iloc[:150]
    days, event = part["os_days"].to_numpy(), part["event"].to_numpy()
    random = np.random.default_rng(0)
    risk, same = random.normal(size=150), np.zeros(150)
    tau = float(np.quantile(days, 0.9))
    counts = metrics.bootstrap_counts(150, replicates, random)
    begin = time.process_time()
    free = time_metrics.uncensored(days, event, same, counts)
    ours = time_metrics.uno_c(days, event, risk, tau, same, free, counts)
    fast = time.process_time() - begin
    begin, tried = time.process_time(), 5
    for drawn in counts[:tried].astype(int):
        slow_uno(*(np.repeat(values, drawn) for values in (days, event, risk)), tau)
    assert np.isfinite(ours).all()
    return fast, (time.process_time() - begin) / tried * replicates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", type=int, default=10)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=2000)
    args = parser.parse_args()
    embeddings, folds, patients = draw(args.features, args.repeats)
    print("| part | CPU s, one encoder | minutes on 2 cores, all encoders |\n|---|---|---|")
    steps = {
        "survival": lambda: survival(embeddings, folds, patients, endpoints(), 0, args.bootstrap),
        "invariance": lambda: invariance(embeddings, folds, patients, 0, args.bootstrap),
    }
    for name, step in steps.items():
        begin = time.process_time()
        step()
        seconds = time.process_time() - begin
        print(f"| {name} | {seconds:.1f} | {seconds * args.encoders / 120:.1f} |", flush=True)
    fast, slow = uno_times(args.bootstrap)
    print(
        f"\nUno's c with {args.bootstrap} bootstraps, 150 patients: {fast:.2f} s; the slow way {slow:.0f} s (scaled)."
    )
    print(f"Peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB.")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
