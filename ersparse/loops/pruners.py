"""Pruners by name, for networks and examples of one's own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ersparse.errors import UserError
from ersparse.loops.examples import OwnExamples
from ersparse.sparse import pruners
from ersparse.sparse.mask import Masks
from ersparse.sparse.scores import ScoreError

PRUNERS: dict[str, Callable[..., Masks]] = {
    "snip": pruners.snip,
    "grasp": pruners.grasp,
    "synflow": pruners.synflow,
    "magnitude": pruners.magnitude,
    "phew": pruners.phew,
}


def pruner_masks(network: nn.Module, name: str, count: int, examples: Any, options: Mapping[str, Any]) -> Masks:
    """Return the masks of the `count` weights that a pruner keeps; the network stays as it is.

    Args:
        network: the network to prune.
        name: a name in `PRUNERS`.
        count: number of weights to keep.
        examples: a batch (inputs, labels) or a loader of batches; None for pruners without data.
        options: further arguments of the pruner, such as images=128.

    Raises:
        UserError: examples are missing, an option is unknown, or no masks can be chosen by the scores.
    """
    pruner = PRUNERS[name]
    takes = set(inspect.signature(pruner).parameters) - {"network", "count", "examples"}
    if unknown := sorted(set(options) - takes):
        raise UserError(f"{unknown[0]}={options[unknown[0]]}: {name} has no such option")
    arguments: dict[str, Any] = dict(options)
    if "shape" in takes and "shape" not in options:
        arguments["shape"] = _examples(network, name, examples, "or shape=(C, H, W)").shape()
    if "examples" in inspect.signature(pruner).parameters:
        arguments["examples"] = _examples(network, name, examples)
    try:
        return pruner(copy.deepcopy(network), count, **arguments)
    except ScoreError as error:
        raise UserError(f"{name}: {error}") from None


def _examples(network: nn.Module, name: str, examples: Any, instead: str = "") -> OwnExamples:
    if examples is None:
        also = f" {instead}" if instead else ""
        raise UserError(f"examples=None: {name} needs a batch (inputs, labels) or a loader of batches{also}")
    return OwnExamples(examples, next(network.parameters()).device)
