"""Handwritten digits shipped with scikit-learn (Alpaydin & Kaynak 1998), which need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ersparse.data.arrays import Arrays


def load(root: Path, download: bool) -> Arrays:
    """Load 1 797 images of 8x8 pixels in 10 classes: 1 437 for training, and every fifth, 360 in all, for testing.

    Args:
        root: unused; all data sets share this signature.
        download: unused.
    """
    package = find_spec("sklearn")  # its load_digits reads the same file, but takes a second to import
    assert package and package.origin
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 0
    return Arrays(images[~test], labels[~test], images[test], labels[test])
