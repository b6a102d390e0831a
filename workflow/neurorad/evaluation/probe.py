"""Linear probes: does a frozen embedding know the marker?

Everything that is learned (means, components, penalty, threshold) is learned inside the training folds.
"""

import numpy as np
import pandas as pd
from scipy.special import expit

from neurorad.endpoints import Endpoint, binary
from neurorad.evaluation import metrics
from neurorad.evaluation.added_value import nested_logits
from neurorad.evaluation.calibration import calibration_intercept, calibration_slope
from neurorad.evaluation.classifier import fit_classifier, fit_regressor
from neurorad.evaluation.combat import fit_combat
from neurorad.evaluation.conformal import class_p_values
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import POOLED, TRAINED_ONLY, Cell, cells
from neurorad.evaluation.layers import Layer, layer_table
from neurorad.evaluation.permutation import added_value_test, permutation_test
from neurorad.evaluation.robust import small_groups_joined
from neurorad.evaluation.tidy import NEEDED, join_notes, shortage, warning
from neurorad.seeds import generator

CLASSIFICATION = (
    "auc",
    "balanced_accuracy",
    "balanced_accuracy_at_half",
    "sensitivity",
    "specificity",
    "average_precision",
    "brier",
    "calibration_slope",
    "calibration_intercept",
)
REGRESSION = ("spearman", "mae")
SWEEP = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Cut-offs at which a continuous endpoint is also judged, as multiples of the declared one (Ki-67: 5, 10, 15, 20, 30 %).
All are reported; none is chosen."""
AVERAGED = ("score", "margin", "probability", "predicted", "clinical", "with_clinical", "robust", "robust_margin")
"""Out-of-fold numbers that are averaged over repeats; the conformal p-values are those of the first repeat, as a mean of
p-values is none."""


def cross_validate(
    cell: Cell,
    x: np.ndarray,
    endpoint: Endpoint,
    seed: int,
    clinical: np.ndarray | None = None,
    robust: bool = False,
    layers: list[Layer] | None = None,
    combat: bool = False,
) -> dict[str, np.ndarray]:
    """Out-of-fold scores of the tested patients of a cell.

    Args:
        x: `[n, d]`, rows as `cell.patients`. clinical: `[n, 2]` age and sex, NaN where unknown. layers: each fold's model
            is appended, as the layer whose output is `score`. combat: harmonise x over sites first, by ComBat of the
            training folds.

    Returns:
        Arrays `[repeats, tested]`: `score` (logit / SD of the inner out-of-fold logits: on one scale over folds, and 0
        is even odds in each), `margin` (score minus the fold's Youden threshold), `probability` (at the prevalence of
        the training labels), `p_negative` and `p_positive` (conformal p-value of each class, calibrated on the inner
        folds), and `predicted` (ridge) for a continuous endpoint. With `clinical`: the logits `clinical` (age + sex)
        and `with_clinical` (the image's logit besides), NaN for the unknown. With `robust`: `robust` and
        `robust_margin`, score and margin of the Group-DRO probe.
    """
    patients = cell.patients
    value = patients["label"].to_numpy(float)
    y = binary(patients["label"], endpoint).to_numpy()
    sites = patients["cohort"].to_numpy(str)
    strata = np.char.add(np.char.add(y.astype(str), "/"), sites)
    assignments = cell.assignments()
    found: dict[str, np.ndarray] = {}
    raw = x

    def put(name: str, repeat: int, test: np.ndarray, values: np.ndarray) -> None:
        found.setdefault(name, np.full(assignments.shape, np.nan))[repeat, test] = values

    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
            test = fold_of == fold
            random = generator(seed, "probe", cell.endpoint, cell.protocol, cell.site, repeat, fold)
            if combat:
                x = fit_combat(raw[~test], sites[~test])(raw, sites)
            model = fit_classifier(x[~test], y[~test], strata[~test], random)
            logit = model(x[test])
            put("score", repeat, test, logit / model.scale)
            if layers is not None:
                weights, intercept = model.projection.fold(model.coefficients, model.intercept)
                layers.append(Layer(weights / model.scale, intercept / model.scale, repeat, int(fold)))
            put("margin", repeat, test, (logit - model.threshold) / model.scale)
            put("probability", repeat, test, expit(logit + model.prior))
            for name, p in zip(("p_negative", "p_positive"), class_p_values(model.inner, y[~test], logit), strict=True):
                put(name, repeat, test, p)
            if endpoint.kind == "continuous":
                projection, coefficients, intercept = fit_regressor(x[~test], value[~test], strata[~test], random)
                put("predicted", repeat, test, projection(x[test]) @ coefficients + intercept)
            if clinical is not None:
                nested = nested_logits(clinical[~test], y[~test], model, clinical[test], logit)
                put("clinical", repeat, test, nested[0])
                put("with_clinical", repeat, test, nested[1])
            if robust:
                groups = small_groups_joined(y[~test], sites[~test], NEEDED)
                model = fit_classifier(x[~test], y[~test], strata[~test], random, groups)
                logit = model(x[test])
                put("robust", repeat, test, logit / model.scale)
                put("robust_margin", repeat, test, (logit - model.threshold) / model.scale)
    tested = assignments[0] != TRAINED_ONLY
    found = {name: values[:, tested] for name, values in found.items()}
    incomplete = ("clinical", "with_clinical")
    if not all(np.isfinite(values).all() for name, values in found.items() if name not in incomplete):
        raise ArithmeticError(f"{cell.endpoint} {cell.protocol} {cell.site}: a tested patient has no score")
    return found


def not_estimable(cell: Cell, endpoint: Endpoint) -> str:
    """Why the cell cannot be estimated, or empty: too few of a class among the tested, or among the training patients."""
    patients = cell.patients
    y = binary(patients["label"], endpoint)
    tested = patients["fold"] != TRAINED_ONLY
    reason = shortage(int(y[tested].sum()), int(tested.sum()))
    if not reason and not tested.all():
        reason = shortage(int(y[~tested].sum()), int((~tested).sum()), " in training")
    if not reason and min(cell.fewest_taught(y.to_numpy()), cell.fewest_taught(1 - y.to_numpy())) < 2:
        reason = "not estimable: a training fold has fewer than 2 positives or negatives"
    return reason


def averaged(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One number a patient: the mean over repeats, for the conformal p-values that of the first repeat."""
    return {name: values.mean(axis=0) if name in AVERAGED else values[0] for name, values in found.items()}


def score_rows(
    truth: np.ndarray, mean: dict[str, np.ndarray], value: np.ndarray, counts: np.ndarray
) -> list[dict[str, object]]:
    """metric, value, interval and note of every metric.

    Args:
        truth: `[n]` 0/1. mean: of `averaged`. value: `[n]` the label as it is. counts: `[B, n]` of `bootstrap_counts`.
    """
    score, margin = mean["score"], mean["margin"]
    metrics.check_threshold(truth, score, score >= 0)
    metrics.check_threshold(truth, margin, margin >= 0)
    at = {
        "balanced_accuracy": (metrics.balanced_accuracy, truth, margin >= 0),
        "balanced_accuracy_at_half": (metrics.balanced_accuracy, truth, score >= 0),
        "sensitivity": (metrics.sensitivity, truth, margin >= 0),
        "specificity": (metrics.specificity, truth, margin >= 0),
        "average_precision": (metrics.average_precision, truth, score),
        "brier": (metrics.brier, truth, mean["probability"]),
        "calibration_slope": (calibration_slope, truth, mean["probability"]),
        "calibration_intercept": (calibration_intercept, truth, mean["probability"]),
    }
    if "predicted" in mean:
        at["spearman"] = (metrics.spearman, value, mean["predicted"])
        at["mae"] = (metrics.mean_absolute_error, value, mean["predicted"])
    estimates = {"auc": metrics.auc_delong(truth, score)}
    estimates |= {name: metrics.bootstrapped(*call, counts=counts) for name, call in at.items()}
    notes = dict.fromkeys(estimates, "")
    if np.isnan(estimates["auc"].ci_low):
        notes["auc"] = "interval not estimable: the scores separate the classes perfectly or are constant"
    if np.isnan(estimates["calibration_slope"].value):
        notes["calibration_slope"] = "not estimable: the probabilities separate the classes perfectly or are constant"
    if estimates["auc"].value < 2 * estimates["balanced_accuracy"].value - 1:
        notes["balanced_accuracy"] = "above (AUC + 1) / 2, as each fold has its own threshold"
    return [row(name, estimate, notes[name]) for name, estimate in estimates.items()]


def row(metric: str, e: metrics.Estimate, note: str = "", **more: object) -> dict[str, object]:
    """A metric's row with its interval; `more`: further columns."""
    return {"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": note, **more}


UNKNOWN = metrics.Estimate(np.nan, np.nan, np.nan)


def sweep_rows(value: np.ndarray, predicted: np.ndarray, cutoff: float) -> list[dict[str, object]]:
    """AUC of the regression at every cut-off of `SWEEP` (column `at`)."""
    rows = []
    for at in cutoff * np.array(SWEEP):
        truth = (value >= at).astype(float)
        reason = shortage(int(truth.sum()), len(truth))
        e = UNKNOWN if reason else metrics.auc_delong(truth, predicted)
        note = reason or warning(int(truth.sum()), len(truth))
        rows.append(row("auc_at_cutoff", e, note, at=float(at), n_positive=int(truth.sum())))
    return rows


TRAINED = "interval descriptive: it takes the out-of-fold scores as given"
"""Measured in benchmarks/null_calibration.md: it leaves out 0 in about one of five studies in which nothing is added."""
ADDED = ("auc_clinical", "auc_with_clinical", "auc_added", "added_value_test")


def added_value_rows(
    cell: Cell,
    x: np.ndarray,
    endpoint: Endpoint,
    clinical: np.ndarray,
    mean: dict[str, np.ndarray],
    draws: int,
    random: np.random.Generator,
) -> list[dict[str, object]]:
    """AUC of age + sex, of age + sex + image, their paired difference, and the test of whether the image adds anything.

    On the patients whose age and sex are known.

    Args:
        x: `[n, d]`, clinical: `[n, 2]`, rows as `cell.patients`. mean: of `averaged`, rows as `cell.tested`.
    """
    truth = binary(cell.tested["label"], endpoint).to_numpy()
    known = np.isfinite(mean["clinical"])
    truth, alone, both = truth[known], mean["clinical"][known], mean["with_clinical"][known]
    counted = {"n": int(known.sum()), "n_positive": int(truth.sum())}
    reason = shortage(counted["n_positive"], counted["n"], " with age and sex known")
    if reason:
        return [row(name, UNKNOWN, reason, **counted) for name in ADDED]
    left = f"{int((~known).sum())} patients without age or sex left out" if not known.all() else ""
    note = join_notes(warning(counted["n_positive"], counted["n"]), left)
    there = np.isfinite(clinical).all(axis=1)
    y, sites = binary(cell.patients["label"], endpoint).to_numpy(), cell.patients["cohort"].to_numpy(str)
    fold_of = cell.assignments()[0]
    found, p = added_value_test(x[there], y[there], clinical[there], fold_of[there], sites[there], draws, random)
    how = f"partial correlation out of fold, closed-form probe; labels drawn {draws} times from age, sex and site"
    return [
        row("auc_clinical", metrics.auc_delong(truth, alone), note, **counted),
        row("auc_with_clinical", metrics.auc_delong(truth, both), note, **counted),
        row("auc_added", metrics.paired_delong(truth, both, alone), join_notes(note, TRAINED), **counted),
        row("added_value_test", metrics.Estimate(found, np.nan, np.nan), join_notes(note, how), p=p, **counted),
    ]


def robust_rows(
    truth: np.ndarray, mean: dict[str, np.ndarray], sites: np.ndarray, counts: np.ndarray
) -> list[dict[str, object]]:
    """The Group-DRO probe beside the linear one: AUC and its paired difference, balanced and worst-group accuracy.

    The worst group is the class at a site (of those with 5 patients or more) with the fewest right.
    """
    difference = metrics.paired_delong(truth, mean["robust"], mean["score"])
    calls = {"": mean["margin"] >= 0, "robust_": mean["robust_margin"] >= 0}
    groups = small_groups_joined(truth, sites, NEEDED)
    rows = [
        row("robust_auc", metrics.auc_delong(truth, mean["robust"])),
        row("robust_auc_difference", difference),
        row(
            "robust_balanced_accuracy",
            metrics.bootstrapped(metrics.balanced_accuracy, truth, calls["robust_"], counts=counts),
        ),
    ]
    for name, called in calls.items():
        right = called == (truth == 1)
        worst = metrics.bootstrapped(_worst_share, right, groups, counts=counts)
        rows.append(row(f"{name}worst_group_accuracy", worst))
    return rows


def _worst_share(right: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The smallest share of `right` over the groups of 5 or more rows."""
    w = metrics.weights_or_ones(len(right), weights)
    names, counts = np.unique(groups, return_counts=True)
    shares = [metrics.ratio(w @ (right & (groups == g)), w @ (groups == g)) for g in names[counts >= NEEDED]]
    return np.min(shares, axis=0)


def same_site_row(truth: np.ndarray, score: np.ndarray, sites: np.ndarray, counts: np.ndarray) -> dict[str, object]:
    """AUC of pairs within one site: what is left of a pooled AUC when sites differ in prevalence."""
    e = metrics.bootstrapped(metrics.auc_same_stratum, truth, score, sites, counts=counts)
    return row("auc_same_site", e, "" if np.isfinite(e.value) else "not estimable: no site has both classes")


def permutation_row(
    cell: Cell, x: np.ndarray, endpoint: Endpoint, count: int, random: np.random.Generator
) -> dict[str, object]:
    """AUC against that of labels permuted within sites: the p-value of knowing nothing beyond the site."""
    patients = cell.patients
    y, sites = binary(patients["label"], endpoint).to_numpy(), patients["cohort"].to_numpy(str)
    found, p, (low, high) = permutation_test(x, y, cell.assignments()[0], sites, count, random)
    note = f"closed-form ridge probe; labels permuted within site {count} times: AUC {low:.2f} to {high:.2f} in 95 %"
    return row("auc_permutation", metrics.Estimate(found, np.nan, np.nan), note, p=p)


def probe(
    embeddings: Embeddings,
    folds: pd.DataFrame,
    known: dict[str, Endpoint],
    seed: int = 0,
    replicates: int = 500,
    clinical: Embeddings | None = None,
    robust: bool = False,
    combat: bool = False,
) -> tuple[list[dict[str, object]], pd.DataFrame, pd.DataFrame]:
    """Every endpoint, protocol and site of the folds.

    Args:
        clinical: age and sex of the same patients, for the value that the image adds to them. robust: make the Group-DRO
            probe too. combat: ComBat of the training folds first; there is then no probe of all sites as one layer on the
            raw embedding, and no permutation test.

    Returns:
        Tidy rows; predictions (one row a tested patient and cell: encoder endpoint protocol site cohort patient scan
        label, what `cross_validate` returns, and score_r0 ... of each repeat); coefficients (of
        `layer_table`, all sites pooled: the probe of each fold, whose output is the score, and the probe of everybody,
        repeat and fold -1, whose output is the class-balanced logit).
    """
    rows: list[dict[str, object]] = []
    predictions, coefficients = [], []
    for whole in cells(folds):
        if whole.endpoint not in known:
            continue
        endpoint = known[whole.endpoint]
        cell, x, left_out = embeddings.cover(whole)
        tested = cell.tested
        truth = binary(tested["label"], endpoint).to_numpy()
        where = {"endpoint": cell.endpoint, "protocol": cell.protocol, "site": cell.site}
        counted = {**where, "n": len(tested), "n_positive": int(truth.sum())}
        reason = not_estimable(cell, endpoint)
        if reason:
            names = CLASSIFICATION + (REGRESSION if endpoint.kind == "continuous" else ())
            note = join_notes(reason, left_out)
            rows += [{**counted, "metric": name, "value": np.nan, "note": note} for name in names]
            continue
        age_sex = None if clinical is None else clinical.of(cell.patients)
        # A layer acts on the raw embedding, which after ComBat no layer does.
        pooled = cell.protocol == "combined" and cell.site == POOLED and not combat
        layers: list[Layer] = []
        found = cross_validate(cell, x, endpoint, seed, age_sex, robust, layers if pooled else None, combat)
        mean = averaged(found)
        random = generator(seed, "bootstrap", *where.values())
        counts = metrics.bootstrap_counts(len(tested), replicates, random)
        caveats = join_notes(warning(int(truth.sum()), len(truth)), left_out)
        value = tested["label"].to_numpy(float)
        made = score_rows(truth, mean, value, counts)
        if tested["cohort"].nunique() > 1:
            made.append(same_site_row(truth, mean["score"], tested["cohort"].to_numpy(str), counts))
        if not combat:
            made.append(permutation_row(cell, x, endpoint, replicates, random))
        if robust:
            made += robust_rows(truth, mean, tested["cohort"].to_numpy(str), counts)
        rows += [{**counted, **row, "note": join_notes(caveats, str(row["note"]))} for row in made]
        own = (
            sweep_rows(value, mean["predicted"], endpoint.cutoff)
            if endpoint.cutoff is not None and "predicted" in mean
            else []
        )
        if age_sex is not None:
            draws = generator(seed, "added value", *where.values())
            own += added_value_rows(cell, x, endpoint, age_sex, mean, replicates, draws)
        rows += [{**counted, **row, "note": join_notes(left_out, str(row["note"]))} for row in own]
        predictions.append(predictions_of(embeddings.encoder, where, tested, truth, mean, found["score"]))
        if pooled:
            layers.append(_everybodys(cell, x, endpoint, seed))
            coefficients.append(layer_table(cell.endpoint, cell.site, layers, embeddings.columns))
    return rows, stack(predictions, PREDICTION_COLUMNS), stack(coefficients, ["endpoint", "site", "intercept"])


NUMBERS = ("score", "margin", "probability", "predicted", "p_negative", "p_positive", "clinical", "with_clinical")
PREDICTION_COLUMNS = [
    *("encoder", "endpoint", "protocol", "site", "cohort", "patient", "scan", "label"),
    *(*NUMBERS, "score_r0"),
]


def stack(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Tables under each other; with none, an empty one with `columns`."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def predictions_of(
    encoder: str,
    where: dict[str, str],
    tested: pd.DataFrame,
    truth: np.ndarray,
    mean: dict[str, np.ndarray],
    repeated: np.ndarray,
) -> pd.DataFrame:
    """Rows of the predictions' table of one cell: identity, truth, the mean over repeats, and each repeat's score."""
    missing = {name: np.full(len(tested), np.nan) for name in NUMBERS if name not in mean}
    each = {f"score_r{repeat}": score for repeat, score in enumerate(repeated)}
    who = tested[["cohort", "patient", "scan"]]
    return pd.DataFrame({"encoder": encoder, **where, **who, "label": truth, **missing, **mean, **each})


def _everybodys(cell: Cell, x: np.ndarray, endpoint: Endpoint, seed: int) -> Layer:
    patients = cell.patients
    y = binary(patients["label"], endpoint).to_numpy()
    strata = (y.astype(str) + "/" + patients["cohort"]).to_numpy()
    model = fit_classifier(x, y, strata, generator(seed, "probe", cell.endpoint, "final"))
    return Layer(*model.projection.fold(model.coefficients, model.intercept))
