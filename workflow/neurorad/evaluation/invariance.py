"""How much of the site (vendor, field strength) an embedding remembers, beside proof that it has not simply collapsed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_samples

from neurorad.evaluation import metrics
from neurorad.evaluation.combat import fit_combat
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import KEY, POOLED, cells, is_glioblastoma
from neurorad.evaluation.linear import balanced_weights, logistic, project
from neurorad.evaluation.tidy import NEEDED, join_notes
from neurorad.problems import InputError
from neurorad.seeds import generator, seed_of

SITE = "site"
COMPONENTS = 10
"""Principal components on which distances are measured."""
NEIGHBOURS = 10
PERMUTATIONS = 200
SITE_COMPONENTS = 32
"""Most principal components that the site probe sees: its null fits it some thousand times."""
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


def _nearest(z: np.ndarray, neighbours: int) -> np.ndarray:
    distance = pairwise_distances(z)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :neighbours]


def same_site_excess(z: np.ndarray, site: np.ndarray, neighbours: int) -> np.ndarray:
    """`[n]`: share of the nearest neighbours from the patient's own site, minus what random neighbours would give."""
    same = (site[_nearest(z, neighbours)] == site[:, None]).mean(axis=1)
    expected = np.array([(site == own).sum() - 1 for own in site]) / (len(site) - 1)
    return same - expected


def robustness_index(z: np.ndarray, site: np.ndarray, label: np.ndarray, neighbours: int) -> tuple[np.ndarray, ...]:
    """`[n]` each: how many nearest neighbours have the patient's label and another site, and another label but its site.

    The index is the first over both together (de Jong 2025): 1 if embeddings follow biology, 0 if they follow the site.
    """
    nearest = _nearest(z, neighbours)
    same_label, same_site = label[nearest] == label[:, None], site[nearest] == site[:, None]
    return (same_label & ~same_site).sum(axis=1).astype(float), (~same_label & same_site).sum(axis=1).astype(float)


def mean_discrepancy(z: np.ndarray, site: np.ndarray, random: np.random.Generator) -> tuple[float, np.ndarray]:
    """Squared maximum mean discrepancy, mean over pairs of sites, and its null `[PERMUTATIONS]` with sites permuted.

    Unbiased (about 0 for equal distributions; Gretton 2012, equation 3), Gaussian kernel at the median distance.
    """
    squared = pairwise_distances(z, metric="sqeuclidean")
    middle = np.median(squared[np.triu_indices(len(z), 1)])
    kernel = np.exp(-squared / middle) if middle > 0 else np.ones_like(squared)
    np.fill_diagonal(kernel, 0)
    truth = np.unique(site, return_inverse=True)[1]
    orders = [np.arange(len(z)), *(random.permutation(len(z)) for _ in range(PERMUTATIONS))]
    found = []
    for order in orders:
        member = np.eye(truth.max() + 1)[truth[order]]
        sums, n = member.T @ kernel @ member, member.sum(axis=0)
        within = np.diag(sums) / (n * (n - 1))
        between = sums / np.outer(n, n)
        pairs = within[:, None] + within[None, :] - 2 * between
        found.append(pairs[np.triu_indices(len(n), 1)].mean())
    return float(found[0]), np.array(found[1:])


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
            projection = project(x[~test], min(SITE_COMPONENTS, max(1, int((~test).sum()) // 3)))
            seen = labels[:, ~test]
            weights = np.stack([balanced_weights(y) for y in seen])
            strengths = np.full(len(labels), STRENGTH)
            coefficients, intercepts = logistic(projection(x[~test]), seen, weights, strengths)
            total[:, test] += coefficients @ projection(x[test]).T + intercepts[:, None]
    return total / len(assignments)


def mean_recall(truth: np.ndarray, guess: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Balanced accuracy over any number of classes: the mean share of each class that is recognised."""
    classes = np.unique(truth)
    recalls = [metrics.sensitivity((truth == c).astype(float), guess == c, weights) for c in classes]
    return np.stack(recalls).mean(axis=0)


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
    embeddings: Embeddings, folds: pd.DataFrame, patients: pd.DataFrame, seed: int = 0, replicates: int = 500
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Tidy rows and t-SNE coordinates of everybody in the folds.

    Rows of endpoint `site`: protocol `combined` (everybody) and `glioblastoma` (IDH-wildtype glioblastoma alone, so that
    sites differing in diagnoses do not look like sites differing in scanners), and `after_combat`. Of endpoint `vendor`,
    `field_strength` and `protocol`: the same numbers with those in the place of the site, where patients.tsv has them. Signs of collapse stand beside them, once.

    Args:
        patients: of `folds.check_labels`.

    Raises:
        InputError: the folds lack the endpoint `site`.
    """
    everybody = next((cell for cell in cells(folds) if cell.endpoint == SITE), None)
    if everybody is None:
        raise InputError("--folds: no rows of endpoint 'site'; make the file with this version's `neurorad folds`")
    cell, x, left_out = embeddings.cover(everybody)
    who = cell.patients
    status = who[KEY].merge(patients, on=KEY, how="left", validate="one_to_one")
    first = {"endpoint": SITE, "protocol": "combined", "site": POOLED, "n": len(who)}
    rows = [{**first, "metric": name, "value": v, "note": left_out} for name, v in collapse_numbers(x).items()]
    for endpoint, protocol, group, mine in _strata(who, status):
        where = {"endpoint": endpoint, "protocol": protocol, "site": POOLED, "n": int(mine.sum())}
        label = status["idh1"].to_numpy(float)[mine]
        seen = fit_combat(x, group)(x, group) if protocol == COMBAT else x[mine]
        part = _group_rows(seen, group[mine], label, cell.assignments()[:, mine], seed, replicates, where)
        rows += [{**where, **row, "note": join_notes(row["note"], left_out)} for row in part]
    place, note = coordinates(_scores(x), seed)
    identity = {"encoder": embeddings.encoder, **who[["cohort", "patient", "scan"]]}
    return rows, pd.DataFrame({**identity, "x": place[:, 0], "y": place[:, 1], "note": note})


def _strata(who: pd.DataFrame, status: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Endpoint, protocol, group `[n]` and who has one (boolean `[n]`)."""
    site = who["cohort"].to_numpy(str)
    yield SITE, "combined", site, np.ones(len(site), dtype=bool)
    yield SITE, COMBAT, site, np.ones(len(site), dtype=bool)
    yield SITE, "glioblastoma", site, is_glioblastoma(status).to_numpy()
    for name in SCANNER:
        if name in status and status[name].notna().any():
            yield name, "combined", status[name].astype(str).to_numpy(), status[name].notna().to_numpy()


COMBAT = "after_combat"
"""Protocol of embeddings that ComBat harmonised, fitted on everybody with the sites known: the least that could be left."""
SCANNER = ("vendor", "field_strength", "protocol")
"""Columns of patients.tsv about the scanner and how it was used."""
METRICS = (
    "silhouette",
    "same_site_neighbour_excess",
    "mmd",
    "mmd_p",
    "robustness_index",
    "site_probe_balanced_accuracy",
    "site_probe_null",
    "site_probe_p",
)
"""One row each for every stratum; for scanners `site` in a name stands for the vendor or the field strength."""


def _scores(x: np.ndarray) -> np.ndarray:
    return project(x, min(COMPONENTS, max(len(x) - 1, 1)))(x)


def _group_rows(
    x: np.ndarray,
    group: np.ndarray,
    label: np.ndarray,
    assignments: np.ndarray,
    seed: int,
    replicates: int,
    where: dict[str, Any],
) -> list[dict[str, Any]]:
    """`METRICS` of one grouping of patients, or why there are none.

    Args:
        label: `[n]` IDH (0/1, NaN unknown), the biology of the robustness index.
    """
    sizes = {name: int((group == name).sum()) for name in np.unique(group)}
    things = "site" if where["endpoint"] == SITE else where["endpoint"].replace("_", " ")
    reason = ""
    if len(sizes) < 2:
        reason = f"not estimable: {len(sizes)} {things}"
    elif min(sizes.values()) < NEEDED:
        reason = f"not estimable: a {things} has {min(sizes.values())} patients (needs {NEEDED})"
    else:
        z = _scores(x)
        if z.shape[1] == 0:
            reason = "not estimable: the embedding is constant"
    if reason:
        return [{"metric": name, "value": np.nan, "note": reason} for name in METRICS]
    names = () if where["protocol"] == "combined" and where["endpoint"] == SITE else tuple(where.values())[:2]
    counts = metrics.bootstrap_counts(len(group), replicates, generator(seed, "bootstrap", SITE, *names))
    random = generator(seed, "permutation", SITE, *names)
    return _site_rows(x, z, group, label, assignments, counts, random)


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return values.mean() if weights is None else weights @ values / weights.sum(-1)


def _share(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    w = np.ones(len(a)) if weights is None else weights
    both = w @ a + w @ b
    return np.divide(w @ a, both, out=np.full(np.shape(both), np.nan), where=both > 0)


def _row(metric: str, e: metrics.Estimate, note: str) -> dict[str, Any]:
    return {"metric": metric, "value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "note": note}


def _robustness_row(z: np.ndarray, site: np.ndarray, label: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    known = np.isfinite(label)
    nothing = metrics.Estimate(np.nan, np.nan, np.nan)
    arms = [int((label[known] == value).sum()) for value in (0, 1)]
    if min(arms) < NEEDED:
        note = f"not estimable: {arms[1]} IDH-mutant and {arms[0]} wildtype patients (needs {NEEDED} each)"
        return _row("robustness_index", nothing, note)
    neighbours = min(NEIGHBOURS, int(known.sum()) - 1)
    numbers = robustness_index(z[known], site[known], label[known], neighbours)
    e = metrics.bootstrapped(_share, *numbers, counts=counts[:, known])
    note = f"{neighbours} neighbours, IDH, {int(known.sum())} patients"
    return _row("robustness_index", e, note if np.isfinite(e.value) else "not estimable: no such neighbours")


def _site_rows(
    x: np.ndarray,
    z: np.ndarray,
    site: np.ndarray,
    label: np.ndarray,
    assignments: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
) -> list[dict[str, Any]]:
    space = f"PCA, k = {z.shape[1]} of {x.shape[1]} features"
    neighbours = min(NEIGHBOURS, len(site) - 1)
    # Resampled patients would sit on top of their copies, so the interval resamples each patient's own number.
    silhouette = metrics.bootstrapped(_mean, silhouette_samples(z, site), counts=counts)
    excess = metrics.bootstrapped(_mean, same_site_excess(z, site, neighbours), counts=counts)
    probe, null = site_probe(x, site, assignments, counts, random)
    mmd, apart = mean_discrepancy(z, site, random)
    p = (1 + (apart >= mmd - 1e-12).sum()) / (1 + len(apart))
    permuted = f"{PERMUTATIONS} permutations"
    return [
        _row("silhouette", silhouette, space),
        _row("same_site_neighbour_excess", excess, f"{neighbours} neighbours, {space}"),
        _row("mmd", metrics.Estimate(mmd, np.nan, np.nan), f"squared, unbiased, {space}"),
        _row("mmd_p", metrics.Estimate(float(p), np.nan, np.nan), permuted),
        _robustness_row(z, site, label, counts),
        _row("site_probe_balanced_accuracy", probe, f"chance is 1 / {len(np.unique(site))}"),
        _row("site_probe_null", _range(null), f"{permuted}, 95 % range"),
        _row("site_probe_p", metrics.Estimate(probe.p, np.nan, np.nan), permuted),
    ]


def _range(null: np.ndarray) -> metrics.Estimate:
    low, high = np.quantile(null, [0.025, 0.975])
    return metrics.Estimate(float(null.mean()), float(low), float(high))
