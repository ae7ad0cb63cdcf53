"""Training with the largest weights only, and gradients for some more (Top-KAST, Jayakumar et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from ersparse.config.schema import Settings
from ersparse.config.types import In
from ersparse.errors import UserError
from ersparse.methods.base import Method, RunContext
from ersparse.sparse.layers import Layer
from ersparse.sparse.redistribution import allocate
from ersparse.sparse.reparametrization import LargestOf
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


class TopKast(Method):
    """Computes with the largest weights of each layer, and trains some more, so that these can take their place.

    Attributes:
        final_sparsity: sparsity of the weights that the network computes with, in every step and at the end.
        backward_sparsity: sparsity of the weights that are trained.
    """

    final_sparsity: Annotated[float, In("(0, 1)")]
    backward_sparsity: Annotated[float, In("[0, 1)")]

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        if source.nominal < 1:
            raise UserError(f"sparsity={settings.sparsity.name}: must be dense with method={self.name}")
        if self.backward_sparsity > self.final_sparsity:
            raise UserError(
                f"method.backward_sparsity={self.backward_sparsity}: must be at most "
                f"method.final_sparsity={self.final_sparsity}"
            )
        for key, value in settings.optimizer.ham.model_dump().items():
            if value:
                raise UserError(f"optimizer.ham.{key}={value}: must be 0 with method={self.name}")

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        """Return the module, in which weight decay of the pruned layers is that of their rules."""
        from ersparse.lightning.reparametrization import Reparametrization

        module = super().module(run, network, eval_names)
        optimizer = module.optimizer_settings
        decay: dict[str, float] = {}
        for group in module.parameter_groups():
            decay |= dict.fromkeys(group.names, group.keys.get("weight_decay", optimizer.weight_decay))
        module.reparametrization = Reparametrization(self.rules(run.layers, decay))
        undecayed = {layer.name: {"weight_decay": 0.0} for layer in run.layers}
        module.optimizer_settings = optimizer.model_copy(update={"layers": (optimizer.layers or {}) | undecayed})
        return module

    def rules(self, layers: list[Layer], decay: Mapping[str, float]) -> dict[str, LargestOf]:
        """Return the rule of each layer; all have the same densities, up to rounding, and the totals are exact."""
        sizes = [layer.size for layer in layers]
        forward = counts(sizes, 1 - self.final_sparsity, [1] * len(sizes))
        backward = counts(sizes, 1 - self.backward_sparsity, forward)
        return {
            layer.name: LargestOf(used, trained, decay[layer.name])
            for layer, used, trained in zip(layers, forward, backward, strict=True)
        }

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.zeros_as_mask import ZerosAsMask

        return [FixedMask(), ZerosAsMask(run.layers, 0.0)]


def counts(sizes: list[int], density: float, lower: list[int]) -> list[int]:
    """Return the number of weights of each layer at the same density, at least `lower`, which add up to the budget."""
    return allocate(max(round(density * sum(sizes)), sum(lower)), sizes, lower, sizes)
