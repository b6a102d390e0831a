"""Embedding to risk of death: PCA with ridge Cox against elastic-net Cox, chosen and fitted inside the training folds."""

from dataclasses import dataclass

import numpy as np

from neurorad.evaluation.combat import fit_combat
from neurorad.evaluation.cox import RiskSets, cumulative_hazard, fit_cox, gradient, log_likelihood, risk_sets
from neurorad.evaluation.elastic_net import elastic_net_path, largest_penalty
from neurorad.evaluation.folds import TRAINED_ONLY, Cell, deal
from neurorad.evaluation.layers import Layer
from neurorad.evaluation.linear import Projection, project, standardisation
from neurorad.evaluation.time_metrics import survival_at
from neurorad.seeds import generator

EVENTS_PER_COMPONENT = 10
SIZES = (1, 2, 4, 8, 16, 32)
"""Candidate numbers of components, as far as the events allow."""
PENALTIES = (0.03, 0.3, 3.0)
"""Ridge penalties per training event; the components have SD 1."""
EVENTS_FOR_A_NET = 50
"""With fewer training events an elastic net is not tried: which features it keeps would be chance."""
L1_RATIOS = (0.1, 0.5)
SHARES = (0.7, 0.5, 0.35, 0.25, 0.18)
"""Elastic-net penalties, as shares of the one that leaves no feature."""
SCREENED = 200
"""The elastic net sees the features of the largest univariate score (sure screening: Fan, Feng and Wu 2010)."""
NAMED_COVARIATES = 4
"""An embedding no wider than this is a list of covariates (age, sex): ridge Cox on all of them, without PCA."""
INNER_FOLDS = 5
RIDGE, ELASTIC_NET = "PCA and ridge", "elastic net"


@dataclass(frozen=True)
class RiskModel:
    """Log risk as one linear layer on the raw features: `x @ weights + intercept`.

    Attributes:
        kind: `RIDGE` or `ELASTIC_NET`, whichever the inner folds preferred.
        size: principal components, or features with a weight.
    """

    weights: np.ndarray
    intercept: float
    kind: str
    size: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[n, d] -> [n]`: log risk."""
        return x @ self.weights + self.intercept


@dataclass(frozen=True)
class Candidates:
    """What the inner folds choose from: ridge sizes x penalties, elastic-net ratios x penalties (none: not tried)."""

    sizes: tuple[int, ...]
    ridges: tuple[float, ...]
    nets: tuple[tuple[float, np.ndarray], ...]


def candidates(x: np.ndarray, event: np.ndarray, everyone: RiskSets) -> Candidates:
    """At most events / 10 components; elastic-net penalties below the one that leaves no feature."""
    ridges = tuple(share * event.sum() for share in PENALTIES)
    if x.shape[1] <= NAMED_COVARIATES:
        return Candidates((x.shape[1],), ridges, ())
    most = max(1, int(event.sum()) // EVENTS_PER_COMPONENT)
    sizes = tuple(size for size in SIZES if size <= most)
    if event.sum() < EVENTS_FOR_A_NET:
        return Candidates(sizes, ridges, ())
    z = screened(x, everyone)(x)
    nets = tuple((ratio, largest_penalty(everyone, z, ratio) * np.array(SHARES)) for ratio in L1_RATIOS)
    usable = z.shape[1] > 0 and nets[0][1].max() > 0
    return Candidates(sizes, ridges, nets if usable else ())


def screened(x: np.ndarray, sets: RiskSets) -> Projection:
    """Standardisation of the `SCREENED` features whose univariate Cox score is largest."""
    mean, sd, kept = standardisation(x)
    z = (x[:, kept] - mean[kept]) / sd[kept]
    score = np.abs(gradient(sets, np.zeros(len(x))) @ z)
    chosen = np.sort(np.argsort(-score, kind="stable")[:SCREENED])
    matrix = np.zeros((x.shape[1], len(chosen)))
    matrix[kept[chosen], np.arange(len(chosen))] = 1 / sd[kept[chosen]]
    return Projection(mean, matrix)


def fit_risk(
    x: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, random: np.random.Generator
) -> RiskModel:
    """The candidate with the highest cross-validated partial likelihood, fitted on everybody given.

    Ridge Cox on whitened PCA scores or elastic-net Cox on standardised features, baseline hazards by stratum. Summed
    over inner folds: l(all) - l(without the fold) (Verweij and van Houwelingen 1993). Of equals, the ridge.
    """
    everyone = risk_sets(days, event, strata)
    tried = candidates(x, event, everyone)
    layers = np.char.add(np.where(event == 1, "dead/", "alive/"), strata.astype(str))
    inner = deal(layers, min(INNER_FOLDS, int(event.sum())), random)
    ridge = np.zeros((len(tried.sizes), len(tried.ridges)))
    nets = np.zeros((len(tried.nets), len(SHARES)))
    for fold in range(inner.max() + 1):
        kept = inner != fold
        sets = risk_sets(days[kept], event[kept], strata[kept])

        def gain(log_risk: np.ndarray, sets: RiskSets = sets, kept: np.ndarray = kept) -> float:
            return log_likelihood(everyone, log_risk) - log_likelihood(sets, log_risk[kept])

        z = project(x[kept], tried.sizes[-1], whiten=True)(x)
        for i, size in enumerate(tried.sizes):
            for j, penalty in enumerate(tried.ridges):
                ridge[i, j] += gain(z[:, :size] @ fit_cox(sets, z[kept, :size], penalty).coefficients)
        if tried.nets:
            z = screened(x[kept], sets)(x)
            for i, (ratio, penalties) in enumerate(tried.nets):
                for j, coefficients in enumerate(elastic_net_path(sets, z[kept], penalties, ratio)):
                    nets[i, j] += gain(z @ coefficients)
    if nets.size and nets.max() > ridge.max():
        i, j = (int(place) for place in np.unravel_index(np.argmax(nets), nets.shape))
        ratio, penalties = tried.nets[i]
        projection = screened(x, everyone)
        coefficients = elastic_net_path(everyone, projection(x), penalties[: j + 1], ratio)[-1]
        return RiskModel(*projection.fold(coefficients, 0.0), ELASTIC_NET, int((coefficients != 0).sum()))
    i, j = (int(place) for place in np.unravel_index(np.argmax(ridge), ridge.shape))
    projection = project(x, tried.sizes[-1], whiten=True)
    projection = Projection(projection.mean, projection.matrix[:, : tried.sizes[i]])
    coefficients = fit_cox(everyone, projection(x), tried.ridges[j]).coefficients
    return RiskModel(*projection.fold(coefficients, 0.0), RIDGE, len(coefficients))


@dataclass(frozen=True)
class OutOfFold:
    """What models say about the n tested patients, whom they never saw.

    Attributes:
        risk: `[repeats, n]` (log risk - training median) / training SD, within the range of the training patients.
        log_risk: `[n]` log risk above the training median, mean over repeats: the linear predictor.
        alive: `[n, grid]` predicted survival at each time of `grid`, mean over repeats.
        reference: `[n, grid]` Kaplan-Meier of the training patients (of the patient's site, if trained on).
        grid: `[grid]` days.
        nets: share of the models that are elastic nets.
        layers: each fold's model, as the layer whose output is `risk`.
    """

    risk: np.ndarray
    log_risk: np.ndarray
    alive: np.ndarray
    reference: np.ndarray
    grid: np.ndarray
    nets: float
    layers: tuple[Layer, ...]


def cross_validate(
    cell: Cell, x: np.ndarray, days: np.ndarray, event: np.ndarray, seed: int, grid: np.ndarray, combat: bool = False
) -> OutOfFold:
    """Everything learned (components, penalty, kind of model, median, baseline hazard) is of the training folds alone.

    Args:
        x: `[n, d]`, rows as `cell.patients`. grid: `[grid]` days at which survival is predicted. combat: harmonise the
            features over sites first, by ComBat of the training folds.
    """
    raw = x
    sites = cell.patients["cohort"].to_numpy(str)
    assignments = cell.assignments()
    risk = np.full(assignments.shape, np.nan)
    log_risk, alive, reference = np.zeros(len(x)), np.zeros((len(x), len(grid))), np.zeros((len(x), len(grid)))
    kinds, layers = [], []
    for repeat, fold_of in enumerate(assignments):
        for fold in np.unique(fold_of[fold_of != TRAINED_ONLY]):
            test = np.flatnonzero(fold_of == fold)
            taught = np.flatnonzero(fold_of != fold)
            random = generator(seed, "survival", cell.protocol, cell.site, repeat, fold)
            if combat:
                x = fit_combat(raw[taught], sites[taught])(raw, sites)
            model = fit_risk(x[taught], days[taught], event[taught], sites[taught], random)
            kinds.append(model.kind)
            seen = model(x[taught])
            middle = np.median(seen)
            spread = seen.std() if seen.std() > 1e-9 else np.inf
            # Nobody is told a risk beyond the most extreme training patient: a linear model extrapolates without end.
            above = np.clip(model(x[test]), seen.min(), seen.max()) - middle
            risk[repeat, test] = above / spread
            ends = ((seen.min() - middle) / spread, (seen.max() - middle) / spread)
            layers.append(Layer(model.weights / spread, (model.intercept - middle) / spread, repeat, int(fold), *ends))
            # A collapsed encoder's features differ by rounding alone: its risk is the median's for everybody.
            above = above if np.isfinite(spread) else np.zeros(len(test))
            log_risk[test] += above
            for mine, like in _by_site(test, taught, sites):
                sets = risk_sets(days[like], event[like], np.zeros(len(like)))
                hazard = cumulative_hazard(sets, days[like], model(x[like]) - middle, grid)
                ratio = np.exp(np.clip(above[np.isin(test, mine)], -50, 50))
                alive[mine] += np.exp(-hazard[None, :] * ratio[:, None])
                reference[mine] += survival_at(days[like], event[like], grid)
    tested = assignments[0] != TRAINED_ONLY
    if not np.isfinite(risk[:, tested]).all():
        raise ArithmeticError(f"{cell.protocol} {cell.site}: a tested patient has no risk")
    n = len(assignments)
    nets = float(np.mean([kind == ELASTIC_NET for kind in kinds]))
    return OutOfFold(
        risk[:, tested],
        log_risk[tested] / n,
        alive[tested] / n,
        reference[tested] / n,
        np.asarray(grid, float),
        nets,
        tuple(layers),
    )


def _by_site(test: np.ndarray, taught: np.ndarray, sites: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tested patients beside the training patients who give them a baseline: their own site's, or all if it is new."""
    pairs = []
    for site in np.unique(sites[test]):
        own = taught[sites[taught] == site]
        pairs.append((test[sites[test] == site], own if len(own) else taught))
    return pairs
