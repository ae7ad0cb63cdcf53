"""A real Trainer on a few digits, for tests of what happens while it trains."""

import pytorch_lightning as pl
import torch

from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.data import digits
from ersparse.data.batches import ImageTable, InMemoryDataLoader

SGD = OptimizerSettings(
    name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=False, milestones=[0.5, 0.75], gamma=0.1
)


def optimizer(name, **keys):
    """Settings of another built-in optimizer."""
    kept = SGD.model_dump(exclude={"target", "name"})
    return OptimizerSettings.model_validate(kept | {"name": name, "lr": 0.01} | keys)


def batches(count=256, size=64):
    data = digits.load(None, True)
    table = ImageTable.from_images(data.x_train, data.y_train, [0.3], [0.3], torch.device("cpu"))
    return InMemoryDataLoader(table, torch.arange(count), size, seed=0)


def trainer(callbacks, epochs=1, **options):
    return pl.Trainer(
        max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
