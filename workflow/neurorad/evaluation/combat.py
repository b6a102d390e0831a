"""ComBat (Johnson, Li and Rabinovic 2007): location and scale of every feature made equal over sites, learned in training."""

from dataclasses import dataclass

import numpy as np

from neurorad.evaluation.linear import CONSTANT

ROUNDS = 100


@dataclass(frozen=True)
class Combat:
    """Adjustment of embeddings, site by site.

    Attributes:
        mean, sd: `[d]` over the training sites (sd pooled within sites). sites: `[s]` names.
        shift, scale: `[s, d]` what each site adds and multiplies, in units of sd, shrunk over the features.
    """

    mean: np.ndarray
    sd: np.ndarray
    sites: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def __call__(self, x: np.ndarray, site: np.ndarray) -> np.ndarray:
        """`[n, d]` adjusted; patients of a site that was not in training stay as they are."""
        z = (x - self.mean) / self.sd
        for name, shift, scale in zip(self.sites, self.shift, self.scale, strict=True):
            mine = site == name
            z[mine] = (z[mine] - shift) / scale
        return z * self.sd + self.mean


def fit_combat(x: np.ndarray, site: np.ndarray) -> Combat:
    """Parametric empirical Bayes without covariates: what sites differ in by case mix is taken away with the rest.

    The published model with an intercept alone: grand mean weighted by site size, variance within sites, normal prior
    on shifts and inverse-gamma prior on variances by the method of moments, iterated to the posterior. With one site,
    or a site of one patient, nothing can be learned about it and it is left alone.

    Args:
        x: `[n, d]` training features. site: `[n]` names.
    """
    names, counts = np.unique(site, return_counts=True)
    names = names[counts > 1] if len(names) > 1 else names[:0]
    mean = x.mean(axis=0)
    within = np.concatenate([x[site == name] - x[site == name].mean(axis=0) for name in np.unique(site)])
    sd = np.sqrt((within**2).mean(axis=0))
    flat = sd <= CONSTANT * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
    sd = np.where(flat, 1.0, sd)
    z = (x - mean) / sd
    shifts, scales = np.zeros((len(names), x.shape[1])), np.ones((len(names), x.shape[1]))
    for i, name in enumerate(names):
        if (~flat).any():
            shift, variance = _posterior(z[site == name][:, ~flat])
            shifts[i, ~flat], scales[i, ~flat] = shift, np.sqrt(variance)
    return Combat(mean, sd, names, shifts, scales)


def _posterior(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrunken location and variance `[d]` of one site's standardised features `[n, d]` (equations 3.1 and 3.2)."""
    n = len(z)
    seen, spread = z.mean(axis=0), z.var(axis=0, ddof=1)
    spread = np.maximum(spread, 1e-6)
    centre, tau2 = seen.mean(), seen.var(ddof=1) if z.shape[1] > 1 else 0.0
    m, s2 = spread.mean(), spread.var(ddof=1) if z.shape[1] > 1 else 0.0
    if s2 < 1e-12 or tau2 < 1e-12:
        return seen, spread
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    shift, variance = seen, spread
    for _ in range(ROUNDS):
        new_shift = (tau2 * n * seen + variance * centre) / (tau2 * n + variance)
        squares = ((z - new_shift) ** 2).sum(axis=0)
        new_variance = (0.5 * squares + b) / (n / 2 + a - 1)
        moved = max(np.abs(new_shift - shift).max(), np.abs(new_variance / variance - 1).max())
        shift, variance = new_shift, new_variance
        if moved < 1e-6:
            break
    return shift, variance
