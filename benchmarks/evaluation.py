"""Time of the evaluation at the paper's size: `python benchmarks/evaluation.py [--encoders 1] [--endpoints mgmt ki67] [--bootstrap 2000]`.

Embeddings of 2048 numbers for the paper's three test sites (111, 95 and 86 patients), ten endpoints, all protocols,
5 folds x 3 repeats: probes with added value over age and sex, survival, reliability. Every encoder takes the same time, so
a few are measured, and a few endpoints stand for ten. Beside them, on one cell, the obvious way: scikit-learn's GridSearchCV in loops, and a bootstrap that
calls scikit-learn for each resample. CPU seconds, which do not depend on what else the machine does.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from neurorad.endpoints import endpoints
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import analysis_set, check_labels, fold_table
from neurorad.evaluation.probe import probe
from neurorad.evaluation.reliability import reliability
from neurorad.evaluation.survival import survival

SITES = {"cuimc": 86, "ucsf-pdgm": 111, "upenn-gbm": 95}
FEATURES = 2048
TEN = 10


def study(random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scans, and patients of whom everybody has all ten endpoints and a survival time."""
    who = pd.DataFrame([(s, f"p{i:03d}") for s, n in SITES.items() for i in range(n)], columns=["cohort", "patient"])
    n = len(who)
    told = who.assign(age=random.normal(60, 12, n), sex=random.choice(["F", "M"], n), diagnosis="Glioblastoma")
    for name, endpoint in endpoints().items():
        told[name] = (random.random(n) < 0.35).astype(float) * (2.0 * endpoint.cutoff if endpoint.cutoff else 1)
    told["idh1"] = (random.random(n) < 0.15).astype(float)
    told["os_days"], told["event"] = np.ceil(random.exponential(500, n)), (random.random(n) < 0.7).astype(float)
    return who.assign(scan=who["cohort"] + who["patient"], session="1", status="ok"), check_labels(told, endpoints())


def embeddings(who: pd.DataFrame, x: np.ndarray, encoder: str) -> Embeddings:
    numbers = pd.DataFrame(x, columns=[f"e{i}" for i in range(x.shape[1])])
    return Embeddings([pd.concat([who[["cohort", "patient", "scan"]], numbers], axis=1)], encoder)


def cpu(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.process_time()
    made = work()
    return time.process_time() - begin, made


def obvious(x: np.ndarray, y: np.ndarray, repeats: int, bootstrap: int) -> None:
    """One binary endpoint at one site: nested GridSearchCV, then each resample through scikit-learn."""
    model = make_pipeline(StandardScaler(), PCA(), LogisticRegression(class_weight="balanced", max_iter=2000))
    score = np.zeros(len(y))
    for repeat in range(repeats):
        for train, test in StratifiedKFold(5, shuffle=True, random_state=repeat).split(x, y):
            kept = max(1, len(train) // 3)
            grid = {"pca__n_components": [kept], "logisticregression__C": 10.0 ** np.arange(-2, 4)}
            search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=5).fit(x[train], y[train])
            score[test] += search.predict_proba(x[test])[:, 1] / repeats
    random = np.random.default_rng(0)
    for _ in range(bootstrap):
        drawn = random.integers(0, len(y), len(y))
        truth, p = y[drawn], score[drawn]
        for metric in (roc_auc_score, average_precision_score, brier_score_loss):
            metric(truth, p)
        balanced_accuracy_score(truth, p >= 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", type=int, default=1)
    parser.add_argument("--endpoints", nargs="+", default=["mgmt", "ki67"], choices=list(endpoints()))
    parser.add_argument("--bootstrap", type=int, default=2000)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    scans, patients = study(random)
    folds = fold_table(analysis_set(scans), patients, endpoints(), 5, 3)
    age = patients.assign(male=patients["sex"] == "M")[["age", "male"]].to_numpy(float)
    clinical = embeddings(scans, age, "clinical")
    probed = folds[folds["endpoint"].isin(args.endpoints)]
    scale = {"probes": TEN / len(args.endpoints), "survival": 1.0, "reliability": TEN / len(args.endpoints)}
    seconds = dict.fromkeys(("probes", "survival", "reliability"), 0.0)
    with threadpool_limits(1):
        for seed in range(args.encoders):
            x = random.normal(size=(len(scans), FEATURES))
            x[:, :20] += patients["mgmt"].to_numpy()[:, None]
            mine = embeddings(scans, x, f"byol-base-s{seed}")
            taken, made = cpu(lambda mine=mine: probe(mine, probed, endpoints(), 0, args.bootstrap, clinical))
            seconds["probes"] += taken
            taken, _ = cpu(lambda mine=mine: survival(mine, folds, patients, endpoints(), 0, args.bootstrap))
            seconds["survival"] += taken
            taken, _ = cpu(lambda made=made: reliability([made[1]], patients, 0, args.bootstrap))
            seconds["reliability"] += taken
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{os.cpu_count()} cores, one thread; {args.encoders} of {TEN} encoders, {' and '.join(args.endpoints)} for ten "
            f"endpoints, peak {peak:.2f} GiB a job\n"
        )
        print("| step | CPU s an encoder | ten encoders on 2 cores, min |\n|---|---|---|")
        seconds = {step: taken * scale[step] / args.encoders for step, taken in seconds.items()}
        for step, each in (*seconds.items(), ("all", sum(seconds.values()))):
            print(f"| {step} | {each:.1f} | {each * TEN / 2 / 60:.1f} |")
        site = (scans["cohort"] == "ucsf-pdgm").to_numpy()
        cell = folds[
            (folds["endpoint"] == "mgmt") & (folds["protocol"] == "within_site") & (folds["site"] == "ucsf-pdgm")
        ]
        ours, _ = cpu(lambda: probe(mine, cell, endpoints(), 0, args.bootstrap))
        theirs, _ = cpu(lambda: obvious(x[site], patients["mgmt"].to_numpy()[site], 3, args.bootstrap))
    print(
        f"\none endpoint at one site: {ours:.2f} s, the obvious way {theirs:.1f} s, {theirs / ours:.0f} times as long"
    )


if __name__ == "__main__":
    main()
