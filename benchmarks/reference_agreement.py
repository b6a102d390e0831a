"""Our estimators beside independent references on the same random data: `python benchmarks/reference_agreement.py`.

Prints a table of the largest absolute difference over five draws. References that are not installed are left out by name;
scikit-survival is GPL-3 and never a dependency (`pip install scikit-survival dcurves crepes` to see its rows).
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import statsmodels.api as sm
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from neurorad.evaluation import metrics, time_metrics
from neurorad.evaluation.calibration import THRESHOLDS, calibration_intercept, calibration_slope, net_benefit
from neurorad.evaluation.conformal import class_p_values
from neurorad.evaluation.cox import fit_cox, log_rank_p, risk_sets
from neurorad.evaluation.elastic_net import elastic_net_path, largest_penalty
from neurorad.evaluation.linear import balanced_weights, logistic

Pair = tuple[str, str, object, object]
"""Estimator, reference, our number and theirs."""


def draw(seed: int, n: int = 160) -> dict[str, np.ndarray]:
    """Labels, scores with ties, probabilities, features, and survival with ties and censoring."""
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.35).astype(float)
    score = np.round(random.normal(y, 1), 1)
    died, left = 500 * random.exponential(size=n) * np.exp(-0.5 * score), random.uniform(100, 1500, n)
    days = np.ceil(np.minimum(died, left) / 5) * 5
    return {
        **{
            "y": y,
            "score": score,
            "p": np.clip(expit(score - 1), 0.01, 0.99),
            "x": random.normal(size=(n, 6)) + y[:, None],
        },
        **{"days": days, "event": (died <= left).astype(float), "high": score > np.median(score)},
    }


def brute_variance(y: np.ndarray, score: np.ndarray) -> float:
    """DeLong's variance from every pair of a positive and a negative, by its definition."""
    wins = (score[y == 1][:, None] > score[y == 0]) + 0.5 * (score[y == 1][:, None] == score[y == 0])
    return wins.mean(1).var(ddof=1) / (y == 1).sum() + wins.mean(0).var(ddof=1) / (y == 0).sum()


def markers(d: dict[str, np.ndarray]) -> Iterator[Pair]:
    y, score, p, x = d["y"], d["score"], d["p"], d["x"]
    yield "AUC", "scikit-learn", metrics.auc(y, score), roc_auc_score(y, score)
    yield (
        "variance of the AUC (DeLong)",
        "definition, pair by pair",
        metrics.delong_variance(y, score),
        brute_variance(y, score),
    )
    yield "average precision", "scikit-learn", metrics.average_precision(y, score), average_precision_score(y, score)
    yield "Brier score", "scikit-learn", metrics.brier(y, p), brier_score_loss(y, p)
    called = score > 0.5
    yield "balanced accuracy", "scikit-learn", metrics.balanced_accuracy(y, called), balanced_accuracy_score(y, called)
    yield "Spearman", "SciPy", metrics.spearman(d["days"], score), spearmanr(d["days"], score).statistic
    model = LogisticRegression(C=3.0, class_weight="balanced", tol=1e-10, max_iter=5000).fit(x, y)
    ours = logistic(x, y, balanced_weights(y), np.array([3.0]))
    yield "ridge logistic regression", "scikit-learn", ours[0][0], model.coef_[0]
    fit = sm.Logit(y, sm.add_constant(logit(p))).fit(disp=0)
    yield "calibration slope", "statsmodels", calibration_slope(y, p), fit.params[1]
    fit = sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=logit(p)).fit()
    yield "calibration intercept", "statsmodels", calibration_intercept(y, p), fit.params[0]
    many = np.random.default_rng(int(y.sum())).random(12) ** 3
    yield "Holm", "statsmodels", metrics.holm(many), multipletests(many, method="holm")[1]
    yield "Benjamini-Hochberg", "statsmodels", metrics.benjamini_hochberg(many), multipletests(many, method="fdr_bh")[1]
    k = int(y.sum())
    yield "Wilson interval", "statsmodels", metrics.wilson(k, len(y)), proportion_confint(k, len(y), method="wilson")


def survival(d: dict[str, np.ndarray]) -> Iterator[Pair]:
    days, event, risk, high = d["days"], d["event"], d["score"], d["high"]
    pairs = metrics.comparable(days, event)
    yield "Harrell's c", "lifelines", metrics.harrell_c(pairs, risk), concordance_index(days, -risk, event)
    fit = KaplanMeierFitter().fit(days, event)
    when = np.array([100.0, 300.0, 600.0])
    theirs = fit.survival_function_at_times(when).to_numpy()
    yield "Kaplan-Meier", "lifelines", time_metrics.survival_at(days, event, when), theirs
    table = pd.DataFrame({"risk": risk, "days": days, "event": event})
    cox = CoxPHFitter().fit(table, "days", "event")
    ours = fit_cox(risk_sets(days, event, np.zeros(len(days))), risk[:, None])
    yield "Cox coefficient (Efron ties)", "lifelines", ours.coefficients, cox.params_.to_numpy()
    yield "Cox standard error", "lifelines", np.sqrt(ours.covariance[0, 0]), cox.standard_errors_.item()
    theirs = logrank_test(days[high], days[~high], event[high], event[~high]).p_value
    yield "log-rank p", "lifelines", log_rank_p(days, event, high, np.zeros(len(days))), theirs


def of_scikit_survival(d: dict[str, np.ndarray]) -> Iterator[Pair]:
    from sksurv.linear_model import CoxnetSurvivalAnalysis
    from sksurv.metrics import brier_score, concordance_index_ipcw, cumulative_dynamic_auc

    days, event, risk, x = d["days"] + np.linspace(0, 1e-3, len(d["days"])), d["event"], d["score"], d["x"]
    outcome = np.array(list(zip(event == 1, days, strict=True)), dtype=[("event", bool), ("days", float)])
    same = np.zeros(len(days))
    free, tau = time_metrics.uncensored(days, event, same), float(np.quantile(days, 0.9))
    ours = time_metrics.uno_c(days, event, risk, tau, same, free)
    yield "Uno's c", "scikit-survival", ours, concordance_index_ipcw(outcome, outcome, risk, tau)[0]
    when = np.array([200.0, 400.0])
    ours = [time_metrics.auc_at(days, event, risk, t, same, free) for t in when]
    yield "time-dependent AUC", "scikit-survival", ours, cumulative_dynamic_auc(outcome, outcome, risk, when)[0]
    grid = np.linspace(20, tau, 15)
    alive = np.exp(-np.outer(np.exp(risk / 2), grid / 500))
    ours = time_metrics.brier_at(days, event, alive, grid, same, free)
    yield "Brier score under censoring", "scikit-survival", ours, brier_score(outcome, outcome, alive, grid)[1]
    z = (x - x.mean(0)) / x.std(0)
    sets = risk_sets(days, event, same)
    penalties = largest_penalty(sets, z, 0.5) * np.array([0.5, 0.2])
    theirs = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=0.5, tol=1e-12, max_iter=100000).fit(z, outcome).coef_.T
    yield "elastic-net Cox path", "scikit-survival", elastic_net_path(sets, z, penalties, 0.5, 1e-9), theirs


def of_dcurves(d: dict[str, np.ndarray]) -> Iterator[Pair]:
    import dcurves

    frame = pd.DataFrame({"y": d["y"], "p": d["p"]})
    table = dcurves.dca(data=frame, outcome="y", modelnames=["p"], thresholds=THRESHOLDS)
    theirs = table[table["model"] == "p"].sort_values("threshold")["net_benefit"].to_numpy()
    yield "net benefit", "dcurves", [float(net_benefit(d["y"], d["p"], t)) for t in THRESHOLDS], theirs


def of_crepes(d: dict[str, np.ndarray]) -> Iterator[Pair]:
    import crepes

    y, score, new = d["y"].astype(int), d["score"], np.linspace(-2, 3, 30)
    classifier = crepes.ConformalClassifier().fit(np.where(y == 1, -score, score), bins=y)
    theirs = [
        classifier.predict_p(strange[:, None], bins=np.full(30, label), smoothing=False)[:, 0]
        for label, strange in ((0, new), (1, -new))
    ]
    yield "conformal p by class", "crepes", class_p_values(score, y, new), theirs


OPTIONAL: dict[str, Callable[[dict[str, np.ndarray]], Iterator[Pair]]] = {
    "sksurv": of_scikit_survival,
    "dcurves": of_dcurves,
    "crepes": of_crepes,
}


def agreement(draws: int = 5) -> pd.DataFrame:
    """Columns estimator, reference, difference (largest absolute one)."""
    there = [make for name, make in OPTIONAL.items() if importlib.util.find_spec(name)]
    rows = []
    for seed in range(draws):
        d = draw(seed)
        for make in (markers, survival, *there):
            for estimator, reference, ours, theirs in make(d):
                difference = np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max()
                rows.append((estimator, reference, float(difference)))
    table = pd.DataFrame(rows, columns=["estimator", "reference", "difference"])
    return table.groupby(["estimator", "reference"], sort=False, as_index=False)["difference"].max()


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = agreement()
    print("| estimator | reference | largest difference |\n|---|---|---|")
    for row in table.itertuples():
        print(f"| {row.estimator} | {row.reference} | {row.difference:.0e} |")
    lacking = [name for name in OPTIONAL if not importlib.util.find_spec(name)]
    if lacking:
        print(f"\nnot installed, so not compared: {', '.join(lacking)}")


if __name__ == "__main__":
    main()
