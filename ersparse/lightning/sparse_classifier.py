"""The LightningModule of sparse execution: only kept weights are parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork, to_dense, to_kept
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.older_checkpoints import rename_callbacks
from ersparse.sparse.mask import attach, masks_of

PREFIX = "sparse."


class SparseClassifier(Classifier):
    """Trains a network with sparse kernels (`ersparse.kernels`).

    Checkpoints are those of masked execution, so that either can resume the other's: dense weights, masks, and dense
    optimizer state with zeros for removed weights. Dense weights exist from a checkpoint, evaluation of a copy or
    rewiring, which need them, to the next training step.

    Attributes:
        sparse: the sparse network, once the masks have been drawn.
        needs_dense_gradients: whether the next training step also computes the gradients of all weights, including
            removed ones, and stores them in the dense network. Rewiring by gradient sets it.
    """

    sparse: SparseNetwork
    needs_dense_gradients = False

    def setup(self, stage: str) -> None:
        """Build the sparse network; Lightning calls this after the callbacks that draw masks."""
        if not hasattr(self, "sparse"):
            real = next(self.network.parameters()).dtype
            bf16 = str(self.trainer.precision).startswith("bf16")
            self.sparse = SparseNetwork(self.network, Precision(real, torch.bfloat16 if bf16 else real))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [B, num_classes] of images."""
        logits: Tensor = self.sparse(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss, after storing dense gradients if rewiring needs them; dense weights are freed."""
        if self.needs_dense_gradients:
            self._store_dense_gradients(*batch, batch_index)
        self.sparse.release()
        return super().training_step(batch, batch_index)

    def on_train_end(self) -> None:
        """Restore the dense weights, which callbacks and the caller may read from now on."""
        super().on_train_end()
        self.sparse.scatter()

    def _store_dense_gradients(self, x: Tensor, y: Tensor, batch_index: int) -> None:
        """Add the gradients of all weights to those that the dense network stores; running statistics stay as they are.

        PyTorch's own layers compute them, because the sparse kernels compute gradients of kept weights only.
        """
        self.sparse.scatter()
        weights = {name: held.weight.detach().requires_grad_() for name, held in self.sparse.layers.items()}
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        logits = functional_call(self.network, {**weights, **buffers}, self.to_memory_format(x))
        loss = self.mean_over_ranks(self.loss(logits, y), len(y), batch_index) / self.trainer.accumulate_grad_batches
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            weight = self.network.get_parameter(name)
            weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def final_state(self) -> dict[str, Tensor]:
        """Return dense weights, buffers and masks."""
        self.sparse.scatter()
        return super().final_state()

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return the vectors of kept weights, and the other parameters of the network, in the network's order."""
        return self.sparse.trainable_parameters()

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Return the state of the dense network; the vectors of kept weights are left out."""
        if hasattr(self, "sparse"):
            self.sparse.scatter()
        state = super().state_dict(*arguments, **options)
        return {name: value for name, value in state.items() if not name.startswith(PREFIX)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the state of a dense network, and gather its kept weights."""
        self.sparse.scatter()
        own = {PREFIX + name: value for name, value in self.sparse.state_dict().items()}
        loaded = super().load_state_dict({**state_dict, **own}, strict, assign)
        self.sparse.gather()
        return loaded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Convert the optimizer state, and the parts of weights, to those of a dense network."""
        super().on_save_checkpoint(checkpoint)
        self._convert_parts(checkpoint, self._dense_state)
        self._convert_optimizer_state(checkpoint, self._dense_state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Attach the checkpoint's masks, and convert its optimizer state and parts to those of the kept weights."""
        rename_callbacks(checkpoint)
        masks = {name: checkpoint["state_dict"][f"network.{name}_mask"] for name in masks_of(self.network)}
        attach(self.network, masks)
        self._convert_parts(checkpoint, to_kept)
        self.stored_parts = checkpoint.get("parts", {})
        self._convert_optimizer_state(checkpoint, to_kept)

    def _dense_state(self, state: Tensor, mask: Tensor) -> Tensor:
        """Return dense optimizer state in the memory format of the weights, as fused optimizers require."""
        return to_dense(state, mask).to(memory_format=self.memory_format) if mask.dim() == 4 else to_dense(state, mask)

    def _convert_parts(self, checkpoint: dict[str, Any], convert: Callable[..., Tensor]) -> None:
        """Convert the parts of each layer's weights by `convert`, a function of (tensor, mask)."""
        masks, parts = self.sparse.masks(), checkpoint.get("parts", {})
        for name, pair in parts.items():
            parts[name] = [convert(part, masks[name]) for part in pair]

    def _convert_optimizer_state(self, checkpoint: dict[str, Any], convert: Callable[..., Tensor]) -> None:
        """Convert the optimizer state of each layer's weights by `convert`, a function of (tensor, mask)."""
        masks = self.sparse.masks()
        names = {index: name for index, name in enumerate(self.optimized_names()) if name in masks}
        for optimizer in checkpoint.get("optimizer_states", []):
            states = optimizer["state"]
            for index, name in names.items():
                if index in states:  # the entry is replaced, not modified, since it is the optimizer's own
                    states[index] = map_state(states[index], partial(convert, mask=masks[name]))


def map_state(state: Mapping[str, Any], convert: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Apply `convert` to the per-weight tensors of a parameter's optimizer state; scalars (step counts) stay."""
    return {key: convert(value) if isinstance(value, Tensor) and value.dim() else value for key, value in state.items()}
