"""What pruning at initialisation scores weights by, and the masks that keep the best: SNIP, GraSP, SynFlow, magnitude.

Scores are larger for weights that should stay. The network that is scored is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ersparse.sparse.layers import Prunable, prunable_modules
from ersparse.sparse.mask import Masks
from ersparse.sparse.topk import topk_mask

Scores = dict[str, Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]


class ScoreError(ValueError):
    """Scores by which nothing can be chosen."""


def magnitude(network: nn.Module) -> Scores:
    """|theta|."""
    return {name: weight.detach().abs() for name, weight in _weights(network).items()}


def snip(network: nn.Module, batches: Batches) -> Scores:
    """|theta dL/dtheta| with L the mean cross-entropy, normalising by each batch (Lee et al. 2019, eq. 5).

    Args:
        batches: images [B, C, H, W] and labels [B]; one of 128 in the paper.
    """
    network = copy.deepcopy(network).train()
    weights = _weights(network)
    gradient = _summed(
        torch.autograd.grad(loss, list(weights.values())) for loss in _losses(network, batches, temperature=1.0)
    )
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), gradient, strict=True)}


def grasp(network: nn.Module, batches: Batches, temperature: float = 200.0) -> Scores:
    """theta * Hg, with g the gradient and H the Hessian of the loss (Wang et al. 2020, eq. 8, with its sign turned).

    Removing weight q changes |g|^2 by -2 theta_q (Hg)_q to first order: the largest scores are what gradient flow
    would lose most by. The paper scores -theta * Hg and removes its largest, which is the same.

    Args:
        batches: as for `snip`; 25 images of each class in the paper. Several need less memory than one.
        temperature: divides the logits.
    """
    network = copy.deepcopy(network).train()
    weights = _weights(network)
    of = list(weights.values())
    gradient = _summed(torch.autograd.grad(loss, of) for loss in _losses(network, batches, temperature))
    along = (
        _dot(gradient, torch.autograd.grad(loss, of, create_graph=True))
        for loss in _losses(network, batches, temperature)
    )
    product = _summed(torch.autograd.grad(slope, of) for slope in along)
    return {name: w.detach() * h for (name, w), h in zip(weights.items(), product, strict=True)}


def synflow(network: nn.Module, shape: Sequence[int]) -> Scores:
    """|theta dR/dtheta|, float64, with R the sum of outputs of `linearised(network)` for an image of ones.

    Tanaka et al. 2020, eq. 2. Float32 overflows in networks as deep as ResNet110.

    Args:
        shape: of an image, (C, H, W).
    """
    return _synflow(linearised(network), shape)


def synflow_masks(
    network: nn.Module,
    shape: Sequence[int],
    count: int,
    rounds: int = 100,
    within: Mapping[str, Tensor] | None = None,
    invert: bool = False,
) -> Masks:
    """Masks of exactly `count` weights, from `rounds` of scoring and pruning (Tanaka et al. 2020, algorithm 1).

    Round t of T keeps N (count/N)^(t/T) weights of the N there were.

    Args:
        within: masks to start from; None starts from the dense network.
        invert: keep the lowest scores of each round.

    Raises:
        ScoreError: as for `largest`.
    """
    network = linearised(network)
    weights = _weights(network)
    masks = dict(within) if within else {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    start = sum(int(mask.sum()) for mask in masks.values())
    for number in range(1, rounds + 1):
        _remove(weights, masks)
        left = count if number == rounds else max(count, round(start * (count / start) ** (number / rounds)))
        scores = _synflow(network, shape)
        masks = largest(inverted(scores) if invert else scores, left, masks)
    return masks


def inverted(scores: Scores) -> Scores:
    """The same scores, the worst first."""
    return {name: -score for name, score in scores.items()}


def largest(scores: Mapping[str, Tensor], count: int, within: Mapping[str, Tensor] | None = None) -> Masks:
    """Masks of exactly the `count` largest scores of all layers together; under ties, those of earlier weights.

    Args:
        within: masks outside which nothing is chosen.

    Raises:
        ScoreError: a score is not finite, or there are fewer than `count` weights to choose from.
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
    """A copy in float64 that is homogeneous and positive: |weights|, no biases, BatchNorm as |gamma| / sqrt(var).

    The running means of a trained network would make it negative, so they go too.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
            if isinstance(module, _BatchNorm | Prunable):
                for tensor, change in ((module.weight, torch.abs_), (module.bias, torch.zero_)):
                    if tensor is not None:
                        change(tensor)
    return network


def _synflow(network: nn.Module, shape: Sequence[int]) -> Scores:
    weights = _weights(network)
    flow = network(torch.ones(1, *shape, dtype=torch.float64)).sum()
    gradient = torch.autograd.grad(flow, list(weights.values()))
    return {name: w.detach() * g for (name, w), g in zip(weights.items(), gradient, strict=True)}


@torch.no_grad()
def _remove(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0.0)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: module.weight for name, module in prunable_modules(network).items()}


def _losses(network: nn.Module, batches: Batches, temperature: float) -> Iterator[Tensor]:
    """The terms of the mean loss, one for each batch."""
    images = sum(len(labels) for _, labels in batches)
    for x, y in batches:
        yield F.cross_entropy(network(x) / temperature, y, reduction="sum") / images


def _dot(these: Sequence[Tensor], those: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(these, those, strict=True)]).sum()


def _summed(terms: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    total: list[Tensor] = []
    for term in terms:
        total = [a + b for a, b in zip(total, term, strict=True)] if total else list(term)
    return total
