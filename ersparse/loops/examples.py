"""Labelled examples that a pruner scores with, from a batch or a loader of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.sparse.scores import Batches

MAX_BATCH_SIZE = 256  # images


class OwnExamples:
    """The first examples of a batch (inputs, labels), or of an iterable of such batches, such as a DataLoader.

    Args:
        examples: the batch, or the batches.
        device: the device of the network.

    Raises:
        UserError: `examples` is neither.
    """

    def __init__(self, examples: Any, device: torch.device) -> None:
        pair = isinstance(examples, (tuple, list)) and len(examples) == 2 and isinstance(examples[0], Tensor)
        self.batches: Iterable[Any] = [examples] if pair else examples
        self.device = device
        if not isinstance(self.batches, Iterable) or isinstance(examples, Tensor):
            kind = type(examples).__name__
            raise UserError(f"examples={kind}: must be a batch (inputs, labels) or a loader of batches")

    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input."""
        return tuple(self.some(1)[0][0].shape[1:])

    def some(self, count: int) -> Batches:
        """Return one batch of the first `count` examples, or of all if there are fewer."""
        inputs, labels, found = [], [], 0
        for x, y in map(self._pair, self.batches):
            inputs.append(x[: count - found])
            labels.append(y[: count - found])
            found += len(x)
            if found >= count:
                break
        return [self._moved(torch.cat(inputs), torch.cat(labels))]

    def of_each_class(self, count: int) -> Batches:
        """Return the first `count` examples of each class, or as many as there are, in class-balanced batches."""
        pairs = [self._pair(batch) for batch in self.batches]
        inputs, labels = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
        by_class = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]  # type: ignore[no-untyped-call]
        longest = max(map(len, by_class))
        chosen = torch.cat([index[turn : turn + 1] for turn in range(longest) for index in by_class])
        parts = chosen.chunk(-(-len(chosen) // MAX_BATCH_SIZE))
        return [self._moved(inputs[part], labels[part]) for part in parts]

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
            raise UserError("examples: must have batches (inputs, labels) of two tensors")
        return batch[0], batch[1]

    def _moved(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.to(self.device), y.to(self.device)
