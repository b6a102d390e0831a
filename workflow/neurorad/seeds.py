"""Seeds that depend on names, never on the order in which things are drawn."""

import hashlib

import numpy as np


def seed_of(*names: object) -> int:
    """A 63-bit seed from the names, equal on every machine: `seed_of(0, "ucsf-pdgm", "patient-3")`."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*names: object) -> np.random.Generator:
    """A NumPy generator seeded by `seed_of(*names)`."""
    return np.random.default_rng(seed_of(*names))
