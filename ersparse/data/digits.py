"""Handwritten digits that come with scikit-learn (Alpaydin & Kaynak 1998): real scans, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from ersparse.data.arrays import Arrays


def load(root: Path, download: bool) -> Arrays:
    """1 797 images, 8x8, of which every fifth is for testing: 1 437 and 360. `root` and `download` are not needed."""
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 0
    return Arrays(images[~test], labels[~test], images[test], labels[test])
