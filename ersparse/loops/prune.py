"""Pruning in a loop of one's own: iterative magnitude pruning and other scores, with exact counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ersparse.config.types import plain
from ersparse.errors import UserError
from ersparse.loops.examples import OwnExamples
from ersparse.loops.usable import usable_layers
from ersparse.sparse import mask, scores
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import Masks
from ersparse.sparse.rewiring import random_growth_scores
from ersparse.sparse.wrappers import unwrapped

SCORES = ("magnitude", "random", "snip", "grasp", "synflow")
Score = Callable[[nn.Module], scores.Scores]


def prune(
    network: nn.Module,
    level: float,
    by: str | Score = "magnitude",
    *,
    scope: str = "global",
    examples: Any = None,
    seed: int = 0,
) -> Masks:
    """Prune `network` in place to sparsity `level`, of which the masks it has already are a part.

    Weights that are removed stay removed, so a loop of training and pruning is iterative pruning (Han et al. 2015;
    Frankle & Carbin 2019). Counts are exact. `keep_masks` or the callback `FixedMask` keeps removed weights at zero in
    between, also if it was called before.

    Args:
        network: any network with prunable weights, dense or with masks, trained or not; also in a wrapper.
        level: sparsity afterwards, in [0, 1): the fraction of all prunable weights that is removed, not of those left.
        by: which weights are kept: those with the largest "magnitude", "snip", "grasp" or "synflow" score (once, for
            the network as it is), or "random" ones; or a function from the network to scores by parameter name.
        scope: "global" compares the weights of all layers, "layer" prunes each layer to `level`, but for those that are
            sparser already.
        examples: for "snip" and "grasp" a batch (inputs, labels) or a loader of batches; for "synflow" as well, whose
            score depends on the shape of an input only.
        seed: seed of random scores.

    Returns:
        The masks by parameter name, in the memory of the network's buffers.

    Raises:
        UserError: an argument is not allowed, the network is sparser than `level` already, or a score is not finite.
            The message is one line, and the network is unchanged.

    Example:
        >>> for level in (0.5, 0.75, 0.875):
        ...     train(network)
        ...     ersparse.prune(network, level)
    """
    level, seed, network = plain(level), plain(seed), unwrapped(network)
    before = mask.masks_of(network)
    layers = [layer for layer in usable_layers(network) if not before or layer.name in before]
    if not (isinstance(level, (int, float)) and 0 <= level < 1):
        raise UserError(f"level={level}: must lie in [0, 1)")
    if scope not in ("global", "layer"):
        raise UserError(f"scope={scope}: must be one of global, layer")
    sizes = {layer.name: layer.size for layer in layers}
    within = before or {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    kept = {name: round((1 - level) * size) for name, size in sizes.items()}
    count = round((1 - level) * sum(sizes.values())) if scope == "global" else sum(kept.values())
    if count > sum(int(m.sum()) for m in within.values()):
        raise UserError(f"level={level}: must be at least the network's sparsity {1 - mask.density_of(within):.6g}")
    try:
        found = {name: score for name, score in _scores(network, by, examples, seed).items() if name in sizes}
        if scope == "global":
            masks = scores.largest(found, count, _on_device_of(found, within))
        else:
            masks = _by_layer(found, kept, within)
    except scores.ScoreError as error:
        raise UserError(f"by={by if isinstance(by, str) else _name(by)}: {error}") from None
    mask.attach(network, masks)
    mask.enforce(network)
    mask.enforce_on_load(network)
    return mask.masks_of(network)


def _by_layer(found: scores.Scores, kept: dict[str, int], within: Masks) -> Masks:
    """Return the masks of the best weights of each layer: so many, or all that are left if these are fewer."""
    within = _on_device_of(found, within)
    counts = {name: min(kept[name], int(within[name].sum())) for name in found}
    return {n: scores.largest({n: score}, counts[n], {n: within[n]})[n] for n, score in found.items()}


def _on_device_of(found: scores.Scores, within: Masks) -> Masks:
    return {name: within[name].to(score.device) for name, score in found.items()}


def _scores(network: nn.Module, by: str | Score, examples: Any, seed: int) -> scores.Scores:
    """Return the scores of all prunable weights.

    Raises:
        UserError: `by` is unknown, examples are missing, or a function has returned scores of other shapes.
    """
    weights = {name: weight.weight for name, weight in prunable_weights(network).items()}
    if by == "magnitude":
        return scores.magnitude(network)
    if by == "random":
        return {n: random_growth_scores(tuple(w.shape), seed, n, 0).to(w.device) for n, w in weights.items()}
    if not isinstance(by, str):
        return _own_scores(by(network), weights, _name(by))
    if by not in SCORES:
        raise UserError(f"by={by}: must be one of {', '.join(SCORES)}, or a function from the network to scores")
    if examples is None:
        raise UserError(f"examples=None: by={by} needs a batch (inputs, labels) or a loader of batches")
    own = OwnExamples(examples, next(network.parameters()).device)
    if by == "synflow":
        return scores.synflow(network, own.shape())
    return scores.snip(network, own.some(128)) if by == "snip" else scores.grasp(network, own.of_each_class(25))


def _own_scores(found: Any, weights: dict[str, Tensor], name: str) -> scores.Scores:
    if set(found) != set(weights) or any(found[n].shape != weight.shape for n, weight in weights.items()):
        raise UserError(f"by={name}: must return scores in the shape of each weight, for {', '.join(weights)}")
    return {n: found[n].detach() for n in weights}


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
