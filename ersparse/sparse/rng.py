"""Random number generators that depend on a seed and names alone."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *words: str) -> np.random.Generator:
    """Return a NumPy generator seeded by the SHA-256 of `seed` and `words`.

    The stream is the same on every device, rank and batch size, whatever else was drawn before.
    """
    digest = hashlib.sha256("/".join([str(seed), *words]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
