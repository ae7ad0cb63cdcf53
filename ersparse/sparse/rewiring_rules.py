"""Rules of rewiring: which weights of a layer are dropped and grown, and how layers share what is grown.

A rule is a function that returns scores in the shape of the weight: the active weights with the smallest drop scores
are dropped, the free ones with the largest grow scores are grown. It is given those of the following that its
parameters name: `weight`, `mask` (active weights), `gradient` (the dense gradient of the update's step, averaged over
ranks), `momentum` (the optimizer's), `layer`, `random` (a NumPy generator that follows from seed, layer and step), and
`mest_lambda`; when weights are grown also `kept`, the active weights that are not dropped, and `left`, their number. A
share takes the same and returns one number; layers grow in proportion to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.sparse.layers import Layer
from ersparse.sparse.link_prediction import channel_scores
from ersparse.sparse.rewiring import magnitude
from ersparse.sparse.transfer import to_device

Rule = Callable[..., Tensor]
GIVEN = ("weight", "mask", "kept", "left", "gradient", "momentum", "layer", "random", "mest_lambda")


def smallest_weights(weight: Tensor) -> Tensor:
    """Score by |w| (RigL, SET)."""
    return magnitude(weight)


def mest(weight: Tensor, gradient: Tensor, mest_lambda: float) -> Tensor:
    """Score by |w| + lambda |g| (Yuan et al. 2021, section 3.2): small weights that the loss still moves stay."""
    return magnitude(weight) + mest_lambda * magnitude(gradient)


def largest_gradients(gradient: Tensor) -> Tensor:
    """Score by the magnitude of the dense gradient (RigL, Evci et al. 2020, section 3)."""
    return magnitude(gradient)


def uniform(mask: Tensor, random: np.random.Generator) -> Tensor:
    """Score at random (SET, Mocanu et al. 2018)."""
    return torch.from_numpy(random.random(tuple(mask.shape)))


def largest_momentum(momentum: Tensor) -> Tensor:
    """Score by the magnitude of the optimizer's momentum (Dettmers & Zettlemoyer 2019, section 3.2)."""
    return magnitude(momentum)


def ch3(kept: Tensor, layer: Layer, random: np.random.Generator) -> Tensor:
    """Score by CH3-L3 link prediction on the channel graph (Zhang et al. 2024, section 3.1); ties at random.

    All weights of a kernel have the score of its pair of channels, which is 0 if the pair is joined already. The paper
    has linear layers only, where these are single weights.
    """
    pairs = channel_scores(layer, kept)
    kernels = pairs.reshape(*pairs.shape, *[1] * (len(layer.rows_shape) - 2)).expand(layer.rows_shape)
    order = to_device(torch.from_numpy(random.random(layer.rows_shape)), pairs.device)
    ranks = torch.empty(layer.size, dtype=torch.float64, device=pairs.device)
    by_score = order.reshape(-1).argsort()
    by_score = by_score[kernels.reshape(-1)[by_score].argsort(stable=True)]
    ranks[by_score] = torch.arange(layer.size, dtype=torch.float64, device=pairs.device)
    return layer.from_rows(ranks.reshape(layer.rows_shape))


def mean_momentum(mask: Tensor, momentum: Tensor) -> Tensor:
    """Return the mean magnitude of the momentum of active weights (Dettmers & Zettlemoyer 2019, section 3.2)."""
    return _mean(magnitude(momentum), mask)


def mean_gradient(mask: Tensor, gradient: Tensor) -> Tensor:
    """Return the mean magnitude of the gradient of active weights."""
    return _mean(magnitude(gradient), mask)


def remaining(left: int) -> Tensor:
    """Return the number of weights that the layer has left (DSR, Mostafa & Wang 2019, algorithm 1).

    The host knows it, and does not wait for a GPU to count them.
    """
    return torch.tensor(left)


DROP: Mapping[str, Rule] = {"magnitude": smallest_weights, "mest": mest}
GROW: Mapping[str, Rule] = {
    "gradient": largest_gradients, "random": uniform, "momentum": largest_momentum, "ch3": ch3,
}  # fmt: skip
SHARES: Mapping[str, Rule] = {"momentum": mean_momentum, "gradient": mean_gradient, "remaining": remaining}


def rule_named(name: str, table: Mapping[str, Rule], key: str) -> Rule:
    """Return a rule of a table, or the function of an import path.

    Args:
        name: name in the table, or import path.
        table: the built-in rules.
        key: the key that names the rule, for messages.

    Raises:
        UserError: the function cannot be imported, or a parameter of it is given by nobody.
    """
    rule: Rule = table[name] if name in table else locate(name)
    for parameter in inspect.signature(rule).parameters.values():
        if parameter.name not in GIVEN and parameter.default is parameter.empty:
            raise UserError(f"{key}={name}: its parameter {parameter.name} must be one of {', '.join(GIVEN)}")
    return rule


def needs(rule: Rule | None, what: str) -> bool:
    """Return whether a rule takes `what`, such as "gradient"."""
    return rule is not None and what in inspect.signature(rule).parameters


def apply_rule(rule: Rule, given: Mapping[str, Callable[[], Any]]) -> Tensor:
    """Call a rule with those of `given` that it takes; the values are computed only then."""
    names = [name for name in inspect.signature(rule).parameters if name in given]
    return rule(**{name: given[name]() for name in names})


def momentum_of(state: Mapping[str, Any], name: str) -> Tensor:
    """Return the momentum of a weight from its optimizer state: SGD's buffer, or Adam's mean over its deviation.

    Raises:
        UserError: the optimizer has neither.
    """
    if isinstance(buffer := state.get("momentum_buffer"), Tensor):
        return buffer
    if "exp_avg" in state:
        scale = state["exp_avg_sq"].sqrt() + 1e-8 if "exp_avg_sq" in state else 1.0
        moment: Tensor = state["exp_avg"] / scale
        return moment
    raise UserError(f"optimizer: has no momentum of {name}, by which weights are to be grown or layers to share")


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(dtype=torch.float64) / mask.sum().clamp_min(1)
