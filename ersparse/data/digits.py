"""Handwritten digits that come with scikit-learn (Alpaydin & Kaynak 1998): real scans, no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ersparse.data.arrays import Arrays


def load(root: Path, download: bool) -> Arrays:
    """1 797 images, 8x8, of which every fifth is for testing: 1 437 and 360. `root` and `download` are not needed."""
    package = find_spec("sklearn")  # whose load_digits takes a second to import, and reads this file
    assert package and package.origin
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 0
    return Arrays(images[~test], labels[~test], images[test], labels[test])
