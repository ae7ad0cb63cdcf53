"""Small runs of ersparse on the fake device, and on the CPU for comparison."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from unittest import mock

import pytorch_lightning as pl
import torch
from conftest import ROOT
from fake_device.tensors import NAME, Watch, fake_device
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

import ersparse
from ersparse.config.options import CONF
from ersparse.data import digits
from ersparse.data.arrays import Arrays
from ersparse.runs import run as runs
from ersparse.runs import train

SMALL = [
    "model._target_=plain.plain", "model.name=plain", "model.width=0.5", "dataset=digits", "dataset.image_size=8",
    "optimizer.lr=0.1", "dataset.batch_size=48", "trainer.precision=32-true", "trainer.execution=masked",
]  # fmt: skip
IMAGES = 112  # three steps an epoch, of which the last is smaller


class FakeAccelerator(CPUAccelerator):
    """Lightning's accelerator of the fake device, which needs no set-up."""

    def setup_device(self, device):
        pass

    @staticmethod
    def name():
        return NAME


class Steps(pl.Callback):
    """Watches each training step, from one batch to the next, and can interrupt the run after its first epoch.

    Attributes:
        watches: by the number of the step, from 1; parts of the last step of an epoch lie in its end.
    """

    def __init__(self, interrupt=False):
        self.interrupt, self.watches, self.current = interrupt, {}, None

    def on_train_epoch_start(self, trainer, module):
        if self.interrupt and trainer.current_epoch == 1:
            raise KeyboardInterrupt

    def on_train_batch_start(self, trainer, module, batch, index):
        self._finish()
        self.current = self.watches[trainer.global_step + 1] = Watch()
        self.current.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index + 1 == trainer.num_training_batches:
            self._finish()

    def _finish(self):
        if self.current:
            self.current.__exit__()
            self.current = None


def run(folder: Path, words, device: str, callback: pl.Callback) -> Path:
    """Do a run, and return its folder.

    Args:
        folder: where its outputs go.
        words: overrides of the configuration.
        device: "cpu", "gpu", or "fake".
        callback: a further callback of the Trainer.
    """
    config = composed((*SMALL, *words))
    config["paths"] |= {"root": str(folder), "cache": f"{folder}/cache"}
    config["trainer"]["accelerator"] = "cpu" if device == "cpu" else "gpu"
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.object(runs, "load_arrays", return_value=few_digits()))
        enter(mock.patch.object(sys, "path", [str(ROOT / "tests/runs"), *sys.path]))
        enter(mock.patch.object(train.pl, "Trainer", partial(_trainer, pl.Trainer, device == NAME, callback)))
        if device == NAME:
            enter(mock.patch.object(runs, "first_device", return_value=torch.device(NAME, 0)))
            enter(fake_device())
            enter(mock.patch("torch.cuda.device_count", return_value=1))
            enter(mock.patch("torch.cuda.get_device_name", return_value=NAME))
            enter(mock.patch("torch.backends.cudnn.version", return_value=91000))
            enter(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor, *_: tensor))
        return ersparse.run(config)


def composed(words):
    """Return the configuration that a command line with these overrides composes."""
    return deepcopy(_composed(words))


@cache
def _composed(words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    return {str(key): value for key, value in values.items()}


@cache
def few_digits() -> Arrays:
    whole = digits.load(None, False)
    return Arrays(whole.x_train[:IMAGES], whole.y_train[:IMAGES], whole.x_test[:40], whole.y_test[:40])


def _trainer(trainer, on_device, callback, **options):
    options["callbacks"] = [callback, *options["callbacks"]]
    if on_device:
        options["strategy"] = SingleDeviceStrategy(torch.device(NAME, 0), accelerator=FakeAccelerator())
        options["accelerator"] = "auto"
    return trainer(**options)
