"""Measurements of vgg16 at sparsity 0.999 (docs/paper.md, "Trained cells").

python -m results.trained_cells.measure gradients RUN [BATCHES]    relative errors of gradients, of a finished run
python -m results.trained_cells.measure decay RUN                  decay.csv, while that run is in progress
python -m results.trained_cells.measure small RUN                  the counts of decay.csv, of a finished run
"""

from __future__ import annotations

import copy
import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ersparse
from ersparse.data.batches import normalised
from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork
from ersparse.storage.checkpoints import NAME
from ersparse.storage.packed_tensors import unpack
from ersparse.storage.run_folder import RunFolder

HERE = Path(__file__).resolve().parent
COLUMNS = ("epoch", "kept weights", "below 0.001 in size", "channels", "batch variance below 1e-5")
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def gradients(run: Path, batches: int = 20) -> None:
    """Print each layer's error of the gradient in float32 and bfloat16 storage, relative to float64, over batches."""
    network, images = ersparse.load(run).train(), ersparse.load_images(run)
    dataset = (RunFolder(run).read() or {})["config"]["dataset"]
    mean, std = torch.tensor(dataset["mean"]), torch.tensor(dataset["std"])
    exact = SparseNetwork(copy.deepcopy(network).double(), Precision(torch.float64, torch.float64))
    others = {name: SparseNetwork(copy.deepcopy(network), Precision(torch.float32, s)) for name, s in STORED.items()}
    names = [name for name, _ in network.named_parameters()]
    errors, sizes = {name: np.zeros(len(names)) for name in STORED}, np.zeros(len(names))
    random = np.random.default_rng(0)
    for _ in range(batches):
        chosen = torch.from_numpy(random.choice(len(images.x_train), 128, replace=False))
        x, y = normalised(images.x_train[chosen], mean, std), images.y_train[chosen]
        wanted = gradient(exact, x.double(), y)
        sizes += [float(g.square().sum()) for g in wanted]
        for name, sparse in others.items():
            found = gradient(sparse, x, y)
            errors[name] += [float((a.double() - b).square().sum()) for a, b in zip(found, wanted, strict=True)]
    print("parameter,", ", ".join(STORED))
    for i, parameter in enumerate(names):
        print(f"{parameter},", ", ".join(f"{(errors[name][i] / sizes[i]) ** 0.5:.2g}" for name in STORED))


def gradient(sparse: SparseNetwork, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the gradients of the loss of one batch."""
    parameters: list[nn.Parameter] = sparse.trainable_parameters()
    return list(torch.autograd.grad(F.cross_entropy(sparse(x), y), parameters))


def decay(run: Path) -> None:
    """Append a row for every fourth epoch to decay.csv, as the run writes its checkpoints, until it is done."""
    seen: set[int] = set()
    while (RunFolder(run).read() or {}).get("state") != "done":
        for path in (run / "checkpoints").glob("*.ckpt"):
            if (epoch := int(NAME.fullmatch(path.name)[1])) % 4 == 0 and epoch not in seen:
                seen.add(epoch)
                write_row((epoch, *counts(unpack(torch.load(path, weights_only=True))["state_dict"])))
        time.sleep(1)


def small(run: Path) -> None:
    """Print the counts of a finished run."""
    print(dict(zip(COLUMNS[1:], counts(ersparse.load(run).state_dict()), strict=True)))


def counts(state: dict[str, Tensor]) -> tuple[int, ...]:
    """Return the counts of a network's state: kept weights, small ones, channels, those of small variance."""
    kept = [state[name.removesuffix("_mask")][mask] for name, mask in state.items() if name.endswith("_mask")]
    variances = [variance for name, variance in state.items() if name.endswith("running_var")]
    return (
        sum(map(len, kept)), sum(int((w.abs() < 1e-3).sum()) for w in kept),
        sum(map(len, variances)), sum(int((v < 1e-5).sum()) for v in variances),
    )  # fmt: skip


def write_row(row: tuple[int, ...]) -> None:
    """Append the counts of one checkpoint."""
    path = HERE / "decay.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([COLUMNS, row] if new else [row])


if __name__ == "__main__":
    {"gradients": gradients, "decay": decay, "small": small}[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
