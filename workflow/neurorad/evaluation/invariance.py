"""How much of the site an embedding remembers, beside proof that it has not simply collapsed."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_samples

from neurorad.evaluation import metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import POOLED, cells
from neurorad.evaluation.linear import balanced_weights, logistic, project
from neurorad.evaluation.tidy import NEEDED, join_notes
from neurorad.problems import InputError
from neurorad.seeds import generator, seed_of

SITE = "site"
COMPONENTS = 10
"""Principal components on which distances are measured."""
NEIGHBOURS = 10
PERMUTATIONS = 200
STRENGTH = 100.0
"""Inverse penalty C of the site probe: fixed, so that its permutation null repeats exactly what made the observed value."""


def collapse_numbers(x: np.ndarray) -> dict[str, float]:
    """Signs of collapse of an embedding `[n, d]`: all are near their minimum if every scan maps to one point.

    effective_rank: exp of the entropy of the normalised singular values of the centred matrix (Roy and Vetterli
    2007), 1 to min(n - 1, d). mean_std: mean SD of a feature, in the embedding's own unit. relative_std: share of the
    mean squared length that is not the common mean, square root, 0 (one point) to 1.
    """
    centred = x - x.mean(axis=0)
    length = (x**2).sum(axis=1).mean()
    varied = (centred**2).sum(axis=1).mean()
    singular = np.linalg.svd(centred, compute_uv=False)
    share = singular / singular.sum() if singular.sum() > 1e-7 * np.sqrt(len(x) * length) else np.array([1.0])
    share = share[share > 1e-12]
    return {
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "mean_std": float(x.std(axis=0).mean()),
        "relative_std": float(np.sqrt(varied / length)) if length > 0 else 0.0,
    }


def same_site_excess(z: np.ndarray, site: np.ndarray, neighbours: int) -> np.ndarray:
    """`[n]`: share of the nearest neighbours from the patient's own site, minus what random neighbours would give."""
    distance = pairwise_distances(z)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
    same = (site[nearest] == site[:, None]).mean(axis=1)
    expected = np.array([(site == own).sum() - 1 for own in site]) / (len(site) - 1)
    return same - expected


def site_scores(x: np.ndarray, labels: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Out-of-fold one-against-rest logits, averaged over repeats.

    Args:
        x: `[n, d]`. labels: `[m, n]` 0/1, m one-against-rest problems. assignments: `[repeats, n]` folds.

    Returns:
        `[m, n]`.
    """
    total = np.zeros(labels.shape)
    for fold_of in assignments:
        for fold in np.unique(fold_of):
            test = fold_of == fold
            projection = project(x[~test], max(1, int((~test).sum()) // 3))
            seen = labels[:, ~test]
            weights = np.stack([balanced_weights(y) for y in seen])
            strengths = np.full(len(labels), STRENGTH)
            coefficients, intercepts = logistic(projection(x[~test]), seen, weights, strengths)
            total[:, test] += coefficients @ projection(x[test]).T + intercepts[:, None]
    return total / len(assignments)


def mean_recall(truth: np.ndarray, guess: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Balanced accuracy over any number of classes: the mean share of each class that is recognised."""
    classes = np.unique(truth)
    return sum(metrics.sensitivity((truth == c).astype(float), guess == c, weights) for c in classes) / len(classes)


def site_probe(
    x: np.ndarray, site: np.ndarray, assignments: np.ndarray, counts: np.ndarray, random: np.random.Generator
) -> tuple[metrics.Estimate, np.ndarray]:
    """Balanced accuracy of recognising the site, with CI and permutation p; and its null `[PERMUTATIONS]`.

    The null permutes sites over patients and repeats the whole cross-validation.
    """
    names, truth = np.unique(site, return_inverse=True)
    orders = [np.arange(len(site)), *(random.permutation(len(site)) for _ in range(PERMUTATIONS))]
    truths = [truth[order] for order in orders]
    labels = np.concatenate([[(t == c).astype(float) for c in range(len(names))] for t in truths])
    scores = site_scores(x, labels, assignments).reshape(len(orders), len(names), len(site))
    guesses = scores.argmax(axis=1)
    observed = metrics.bootstrapped(mean_recall, truth, guesses[0], counts=counts)
    null = np.array([float(mean_recall(t, g)) for t, g in zip(truths[1:], guesses[1:], strict=True)])
    p = (1 + (null >= observed.value - 1e-12).sum()) / (1 + len(null))
    return metrics.Estimate(observed.value, observed.ci_low, observed.ci_high, float(p)), null


def coordinates(z: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """t-SNE `[n, 2]` of PCA scores, perplexity min(30, (n - 1) / 3); NaN and the reason where there is none."""
    if len(z) < NEEDED or z.shape[1] < 2:
        reason = f"{len(z)} patients" if len(z) < NEEDED else "fewer than 2 features vary"
        return np.full((len(z), 2), np.nan), f"not estimable: {reason}"
    perplexity = min(30.0, (len(z) - 1) / 3)
    model = TSNE(init="pca", perplexity=perplexity, random_state=seed_of(seed, "t-sne") % 2**32, n_jobs=1)
    return model.fit_transform(z).astype(np.float64), f"perplexity {perplexity:.1f}"


def invariance(
    embeddings: Embeddings, folds: pd.DataFrame, seed: int = 0, replicates: int = 500
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Tidy rows (endpoint `site`, protocol `combined`, site `all`) and t-SNE coordinates of everybody in the folds.

    Raises:
        InputError: the folds lack the endpoint `site`.
    """
    everybody = next((cell for cell in cells(folds) if cell.endpoint == SITE), None)
    if everybody is None:
        raise InputError("--folds: no rows of endpoint 'site'; make the file with this version's `neurorad folds`")
    cell, x, left_out = embeddings.cover(everybody)
    who = cell.patients
    site = who["cohort"].to_numpy(str)
    where = {"endpoint": SITE, "protocol": "combined", "site": POOLED, "n": len(site)}
    sizes = {name: int((site == name).sum()) for name in np.unique(site)}
    projection = project(x, min(COMPONENTS, max(len(x) - 1, 1)))
    z = projection(x)
    random = generator(seed, "bootstrap", SITE)
    counts = metrics.bootstrap_counts(len(site), replicates, random)

    reason = ""
    if len(sizes) < 2:
        reason = f"not estimable: {len(sizes)} site"
    elif min(sizes.values()) < NEEDED:
        reason = f"not estimable: a site has {min(sizes.values())} patients (needs {NEEDED})"
    elif z.shape[1] == 0:
        reason = "not estimable: the embedding is constant"
    rows = [{"metric": name, "value": value, "note": ""} for name, value in collapse_numbers(x).items()]
    if reason:
        rows += [{"metric": name, "value": np.nan, "note": reason} for name in METRICS]
    else:
        rows += _site_rows(x, z, site, cell.assignments(), counts, generator(seed, "permutation", SITE))
    rows = [{**where, **row, "note": join_notes(row["note"], left_out)} for row in rows]

    place, note = coordinates(z, seed)
    identity = {"encoder": embeddings.encoder, **who[["cohort", "patient", "scan"]]}
    return rows, pd.DataFrame({**identity, "x": place[:, 0], "y": place[:, 1], "note": note})


METRICS = (
    "silhouette",
    "same_site_neighbour_excess",
    "site_probe_balanced_accuracy",
    "site_probe_null",
    "site_probe_p",
)


def _site_rows(
    x: np.ndarray,
    z: np.ndarray,
    site: np.ndarray,
    assignments: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
) -> list[dict[str, Any]]:
    space = f"PCA, k = {z.shape[1]} of {x.shape[1]} features"
    neighbours = min(NEIGHBOURS, len(site) - 1)

    def mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return values.mean() if weights is None else weights @ values / weights.sum(-1)

    def row(metric: str, e: metrics.Estimate, note: str) -> dict[str, Any]:
        return {"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": note}

    # Resampled patients would sit on top of their copies, so the interval resamples each patient's own number.
    silhouette = metrics.bootstrapped(mean, silhouette_samples(z, site), counts=counts)
    excess = metrics.bootstrapped(mean, same_site_excess(z, site, neighbours), counts=counts)
    probe, null = site_probe(x, site, assignments, counts, random)
    chance = f"chance is 1 / {len(np.unique(site))}"
    low, high = np.quantile(null, [0.025, 0.975])
    return [
        row("silhouette", silhouette, space),
        row("same_site_neighbour_excess", excess, f"{neighbours} neighbours, {space}"),
        row("site_probe_balanced_accuracy", probe, chance),
        row(
            "site_probe_null", metrics.Estimate(float(null.mean()), low, high), f"{len(null)} permutations, 95 % range"
        ),
        row("site_probe_p", metrics.Estimate(probe.p, np.nan, np.nan), f"{len(null)} permutations"),
    ]
