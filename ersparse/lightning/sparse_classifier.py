"""A classifier that is trained with sparse execution: only kept weights are parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ersparse.distributed.collectives import mean_over_ranks
from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork, to_dense, to_kept
from ersparse.lightning.classifier import Classifier
from ersparse.sparse.mask import attach, masks_of

PREFIX = "sparse."


class SparseClassifier(Classifier):
    """Its checkpoints are those of masked execution: dense weights, masks, dense optimizer state with zeros."""

    sparse: SparseNetwork
    grows = False  # whether a step also leaves the gradients of all weights, removed ones too, in the dense network

    def setup(self, stage: str) -> None:
        """After the masks have been drawn."""
        if not hasattr(self, "sparse"):
            real = next(self.network.parameters()).dtype
            bf16 = str(self.trainer.precision).startswith("bf16")
            self.sparse = SparseNetwork(self.network, Precision(real, torch.bfloat16 if bf16 else real))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.sparse(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        if self.grows:
            self._leave_dense_gradients(*batch)
        return super().training_step(batch, batch_index)

    def _leave_dense_gradients(self, x: Tensor, y: Tensor) -> None:
        """By PyTorch's own layers; running statistics stay as they are."""
        self.sparse.scatter()
        weights = {name: module.weight.detach().requires_grad_() for name, module in self.sparse.layers.items()}
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        logits = functional_call(self.network, {**weights, **buffers}, self.laid_out(x))
        loss = mean_over_ranks(F.cross_entropy(logits, y), len(y))
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            self.network.get_parameter(name).grad = gradient

    def product(self) -> dict[str, Tensor]:
        self.sparse.scatter()
        return super().product()

    def trained(self) -> Iterable[nn.Parameter]:
        return self.sparse.trainable_parameters()

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        if hasattr(self, "sparse"):
            self.sparse.scatter()
        state = super().state_dict(*arguments, **options)
        return {name: value for name, value in state.items() if not name.startswith(PREFIX)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = {PREFIX + name: value for name, value in self.sparse.state_dict().items()}
        loaded = super().load_state_dict({**state_dict, **own}, strict, assign)
        self.sparse.gather()
        return loaded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._convert(checkpoint, self._dense)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        masks = {name: checkpoint["state_dict"][f"network.{name}_mask"] for name in masks_of(self.network)}
        attach(self.network, masks)
        self._convert(checkpoint, to_kept)

    def _dense(self, state: Tensor, mask: Tensor) -> Tensor:
        """In the memory layout of the weights, which fused optimizers rely on."""
        return to_dense(state, mask).to(memory_format=self.memory_format) if mask.dim() == 4 else to_dense(state, mask)

    def _convert(self, checkpoint: dict[str, Any], change: Callable[..., Tensor]) -> None:
        """The optimizer's state of each layer's weights, from kept to dense or back."""
        masks = self.sparse.masks()
        names = {number: name for number, (name, _) in enumerate(self.network.named_parameters()) if name in masks}
        for optimizer in checkpoint.get("optimizer_states", []):
            for number, name in names.items():
                if number in optimizer["state"]:  # replaced, not changed: it is the optimizer's own
                    optimizer["state"][number] = changed(optimizer["state"][number], partial(change, mask=masks[name]))


def changed(memory: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What an optimizer remembers of a layer, its tensors of single weights changed, Adam's count of steps not."""
    return {key: change(value) if isinstance(value, Tensor) and value.dim() else value for key, value in memory.items()}
