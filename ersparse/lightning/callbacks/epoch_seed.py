"""Random numbers of training steps, such as those of dropout and stochastic depth, that depend on the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytorch_lightning as pl
import torch

from ersparse.sparse.rng import generator


class EpochSeed(pl.Callback):
    """Seeds the random generators of PyTorch, on all devices, of NumPy and of Python at the start of each epoch.

    A resumed run begins with an epoch, so it continues with the random numbers of a run that was not interrupted. Each
    rank has random numbers of its own. Masks, weights and batches have generators of their own, and do not change.

    Args:
        seed: seed of the run's data order, to which dropout belongs.
        rank: which process this is.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seed = int(generator(self.seed, "epoch", str(trainer.current_epoch), f"rank{self.rank}").integers(2**62))
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the generators of the CPU after the block, so that a run in a notebook does not seed what follows."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
