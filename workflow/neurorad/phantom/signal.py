"""From tissue to signal: the spin-echo and inversion-recovery equations, contrast agent, receive field and noise."""

from typing import Any

import numpy as np

TISSUES = ("csf", "gm", "wm", "vessel", "oedema", "necrosis", "tumour", "enhancing", "cavity")
"""Order of the tissue fractions inside the brain."""


def spin_echo(pd: float, t1: float, t2: float, tr: float, te: float) -> float:
    """Signal of a spin echo, S = PD (1 - exp(-TR/T1)) exp(-TE/T2) for TE << TR; times in ms (Bernstein 2004, eq. 14.40)."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(pd: float, t1: float, t2: float, tr: float, te: float, ti: float) -> float:
    """Signed signal after an ideal 180 degree inversion, S = PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2).

    Times in ms; zero at TI = T1 (ln 2 - ln(1 + exp(-TR/T1))): the null point that makes CSF dark in FLAIR
    (Bydder and Young 1985, J Comput Assist Tomogr 9:659).
    """
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def with_contrast(t1: float, t2: float, concentration: float, r1: float, r2: float) -> tuple[float, float]:
    """T1 and T2 in ms at a concentration (mM) of an agent with relaxivities r1, r2 (1/(mM s)): 1/T = 1/T0 + r C."""
    return 1 / (1 / t1 + r1 * concentration / 1000), 1 / (1 / t2 + r2 * concentration / 1000)


def tissue_signals(
    recipe: dict[str, Any], sequence: dict[str, Any], field: float, contrast: bool, uptake: float, tumour_t1: float
) -> dict[str, float]:
    """Signed signal of every tissue of the recipe.

    Args:
        recipe: `tissues` and `contrast` are used.
        sequence: kind, tr, te and for inversion recovery ti, in ms.
        field: 1.5 or 3.0 tesla.
        contrast: True after injection.
        uptake: concentration in the enhancing tumour, mM.
        tumour_t1: factor on the T1 of the non-enhancing tumour (its square root on T2): large = T2-FLAIR mismatch.
    """
    agent = recipe["contrast"]
    signals = {}
    for tissue, entry in recipe["tissues"].items():
        t1, t2 = entry["t1"][field], entry["t2"][field]
        if tissue == "tumour":
            t1, t2 = t1 * tumour_t1, t2 * np.sqrt(tumour_t1)
        concentration = uptake if tissue == "enhancing" else agent.get(tissue, 0.0)
        if contrast:
            t1, t2 = with_contrast(t1, t2, concentration, agent["r1"], agent["r2"])
        if sequence["kind"] == "se":
            signals[tissue] = spin_echo(entry["pd"], t1, t2, sequence["tr"], sequence["te"])
        else:
            signals[tissue] = inversion_recovery(entry["pd"], t1, t2, sequence["tr"], sequence["te"], sequence["ti"])
    return signals


def receive_field(shape: tuple[int, int, int], strength: float, rng: np.random.Generator) -> list[np.ndarray]:
    """A smooth positive field as the product of three profiles, one an axis; mean of the log about 0, SD `strength`.

    Returns:
        Three float32 arrays that broadcast to `shape`.
    """
    profiles = []
    for axis, length in enumerate(shape):
        x = np.linspace(-1, 1, length)
        slope, bend = rng.standard_normal(2)
        log = slope * x + 0.8 * bend * (x**2 - 1 / 3) + 0.4 * np.cos(np.pi * x + rng.uniform(0, 2 * np.pi))
        log *= strength / (np.sqrt(3) * max(log.std(), 1e-9))
        profiles.append(np.exp(log).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]))
    return profiles


def rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of `signal` plus complex Gaussian noise of SD `sigma` a channel (Gudbjartsson and Patz 1995)."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.sqrt(real**2 + imaginary**2)
