"""A label and features that know it."""

import numpy as np

N = 90


def planted(seed: int, strength: float = 1.5, d: int = 12, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Label and features of which the first knows it."""
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.4).astype(float)
    x = random.normal(size=(n, d))
    x[:, 0] += strength * y
    return y, x
