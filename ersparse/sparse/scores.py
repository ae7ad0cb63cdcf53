"""Scores of pruning at initialisation (SNIP, GraSP, SynFlow, magnitude), and the masks of the largest scores.

Larger scores mean weights that should stay. Scoring leaves the network unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ersparse.sparse.layers import prunable_weights, weight_keys
from ersparse.sparse.mask import Masks
from ersparse.sparse.topk import topk_mask

Scores = dict[str, Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]
Names = Collection[str] | None


class ScoreError(ValueError):
    """Scores from which no mask of the requested size can be selected."""


def magnitude(network: nn.Module, among: Names = None) -> Scores:
    """Return |theta| by layer name; `among` as for `snip`."""
    return {name: weight.detach().abs() for name, weight in _weights(network, among).items()}


def snip(network: nn.Module, batches: Batches, among: Names = None) -> Scores:
    """Return |theta dL/dtheta|, with L the mean cross-entropy in training mode (SNIP, Lee et al. 2019, eq. 5).

    Args:
        network: the network to score.
        batches: images [B, C, H, W] and labels [B]; one batch of 128 in the paper. BatchNorm normalises by batch.
        among: names of the layers that are scored; None scores all.
    """
    network = copy.deepcopy(network).train()
    weights = _weights(network, among)
    gradient = _sum_terms(
        torch.autograd.grad(loss, list(weights.values())) for loss in _loss_terms(network, batches, temperature=1.0)
    )
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), gradient, strict=True)}


def grasp(network: nn.Module, batches: Batches, temperature: float = 200.0, among: Names = None) -> Scores:
    """Return theta * Hg, with g the gradient and H the Hessian of the loss (GraSP, Wang et al. 2020, eq. 8, negated).

    Removing weight q changes |g|^2 by -2 theta_q (Hg)_q to first order, so the weights with the largest scores
    contribute most to gradient flow. The GraSP paper removes the largest of -theta * Hg, which selects the same
    weights.

    Args:
        network: the network to score.
        batches: as for `snip`; 25 images of each class in the GraSP paper. Several batches need less memory than one.
        temperature: divisor of the logits.
        among: as for `snip`.
    """
    network = copy.deepcopy(network).train()
    weights = _weights(network, among)
    inputs = list(weights.values())
    gradient = _sum_terms(torch.autograd.grad(loss, inputs) for loss in _loss_terms(network, batches, temperature))
    products = (
        _inner_product(gradient, torch.autograd.grad(loss, inputs, create_graph=True))
        for loss in _loss_terms(network, batches, temperature)
    )
    hessian_gradient = _sum_terms(torch.autograd.grad(product, inputs) for product in products)
    return {name: w.detach() * h for (name, w), h in zip(weights.items(), hessian_gradient, strict=True)}


def synflow(network: nn.Module, shape: Sequence[int]) -> Scores:
    """Return |theta dR/dtheta| in float64 (SynFlow, Tanaka et al. 2020, eq. 2).

    R is the sum of the outputs of `linearised(network)` for an all-ones image. In float32 it overflows in networks as
    deep as ResNet110.

    Args:
        network: the network to score.
        shape: shape of an image, (C, H, W).
    """
    return _synflow(linearised(network), shape)


def synflow_masks(
    network: nn.Module,
    shape: Sequence[int],
    count: int,
    rounds: int = 100,
    within: Mapping[str, Tensor] | None = None,
    invert: bool = False,
    among: Names = None,
) -> Masks:
    """Return masks of exactly `count` weights after iterative SynFlow pruning (Tanaka et al. 2020, algorithm 1).

    Round t of T keeps N (count/N)^(t/T) of the N weights at the start.

    Args:
        network: the network to prune.
        shape: shape of an image, (C, H, W).
        count: number of weights to keep.
        rounds: number of rounds T of scoring and pruning.
        within: masks to start from; None starts from the dense network.
        invert: keep the smallest scores of each round, as a control.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: as for `largest`.
    """
    network = linearised(network)
    weights = _weights(network, among)
    masks = dict(within) if within else {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    start = sum(int(mask.sum()) for mask in masks.values())
    for number in range(1, rounds + 1):
        _zero_removed(weights, masks)
        left = count if number == rounds else max(count, round(start * (count / start) ** (number / rounds)))
        scores = _synflow(network, shape, among)
        masks = largest(inverted(scores) if invert else scores, left, masks)
    return masks


def inverted(scores: Scores) -> Scores:
    """Return the negated scores: the control that keeps the worst weights (Frankle et al. 2021)."""
    return {name: -score for name, score in scores.items()}


def largest(scores: Mapping[str, Tensor], count: int, within: Mapping[str, Tensor] | None = None) -> Masks:
    """Return masks of exactly the `count` largest scores of all layers; ties go to earlier weights.

    Args:
        scores: scores by layer name.
        count: number of weights to keep.
        within: masks outside which nothing is kept; None allows every weight.

    Raises:
        ScoreError: a score is not finite, or fewer than `count` weights are allowed.
    """
    for name, score in scores.items():
        if not score.isfinite().all():
            raise ScoreError(f"layer {name}: a score is not finite; score in float64")
    values = torch.cat([score.reshape(-1) for score in scores.values()])
    if within is not None:
        allowed = torch.cat([within[name].reshape(-1) for name in scores])
        values = values.masked_fill(~allowed, -torch.inf)
    available = int((values > -torch.inf).sum())
    if not 0 <= count <= available:
        raise ScoreError(f"{count} weights cannot be kept: must lie in [0, {available}]")
    parts = torch.split(topk_mask(values, count)[0], [score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def linearised(network: nn.Module) -> nn.Module:
    """Return a float64 copy that is linear in its input for positive inputs (Tanaka et al. 2020, algorithm 1).

    Weights are replaced by their magnitudes, biases by 0, and BatchNorm by the scale |gamma| / sqrt(var). Running means
    are set to 0, because those of a trained network would make activations negative.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
            prunable = list(weight_keys(module))
            for name, tensor in module.named_parameters(recurse=False):
                if name in prunable or (isinstance(module, _BatchNorm) and name == "weight"):
                    tensor.abs_()
                elif "bias" in name and (prunable or isinstance(module, _BatchNorm)):
                    tensor.zero_()
    return network


def _synflow(network: nn.Module, shape: Sequence[int], among: Names = None) -> Scores:
    weights = _weights(network, among)
    flow = network(torch.ones(1, *shape, dtype=torch.float64, device=next(network.parameters()).device)).sum()
    gradient = torch.autograd.grad(flow, list(weights.values()))
    return {name: w.detach() * g for (name, w), g in zip(weights.items(), gradient, strict=True)}


@torch.no_grad()
def _zero_removed(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0.0)


def _weights(network: nn.Module, among: Names = None) -> dict[str, Tensor]:
    weights = prunable_weights(network, embeddings=among is not None)
    return {name: held.weight for name, held in weights.items() if among is None or name in among}


def _loss_terms(network: nn.Module, batches: Batches, temperature: float) -> Iterator[Tensor]:
    """Yield the terms of the mean loss over all images, one for each batch.

    Dropout and stochastic depth draw the same numbers for the same batch whenever it is scored.
    """
    images = sum(len(labels) for _, labels in batches)
    for number, (x, y) in enumerate(batches):
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(number)
            loss = F.cross_entropy(network(x) / temperature, y, reduction="sum") / images
        yield loss


def _inner_product(these: Sequence[Tensor], those: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(these, those, strict=True)]).sum()


def _sum_terms(terms: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Add up tuples of tensors, element by element."""
    total: list[Tensor] = []
    for term in terms:
        total = [a + b for a, b in zip(total, term, strict=True)] if total else list(term)
    return total
