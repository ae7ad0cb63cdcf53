"""How often a network uses each weight for one image, from which its FLOPs follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence

from ersparse.sparse.layers import prunable_weights, weight_keys
from ersparse.sparse.zero_pass import zero_pass

Uses = Callable[[Any, str, Any, Any, Any], int]  # (module, key, arguments, keyword arguments, output) -> uses


def positions(module: nn.Module, channels: int, size: int | tuple[int, int]) -> dict[str, int]:
    """Return how often one image uses each weight: once for each output pixel of a convolution, 1 for a linear layer.

    A linear, attention or recurrent layer uses its weights once for each token, a transposed convolution once for each
    input pixel. A layer that is called several times, or whose weight another layer shares, adds up; one that is never
    called has 0. The forward pass of a layer takes 2 x kept weights x positions FLOPs, since a multiply-add counts as
    two.

    The count comes from the forward pass of a zero image by `zero_pass`; one on the meta device would make PyTorch
    import its compiler.

    Args:
        module: the network, on any device, including the meta device.
        channels: number of channels of an image.
        size: height and width of an image in pixels, or both as one number.
    """
    height, width = (size, size) if isinstance(size, int) else size
    found: Counter[str] = Counter()
    hooks = [
        part.register_forward_hook(partial(_count, found, keys), with_kwargs=True)
        for part, keys in _keys_by_module(module).items()
    ]
    try:
        zero_pass(module, 1, (channels, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found[name] for name in prunable_weights(module)}


def _keys_by_module(network: nn.Module) -> dict[nn.Module, dict[str, str]]:
    """Return, for each module that is called, the name in the network of each of its weights, shared ones too.

    Attention computes its output projection itself, without a call of that layer.
    """
    found: dict[nn.Module, dict[str, str]] = {}
    names = {held.parameter: name for name, held in prunable_weights(network).items()}
    for part in network.modules():
        held_here = {key: part._parameters.get(key) for key in weight_keys(part)}
        if keys := {key: names[weight] for key, weight in held_here.items() if weight is not None}:
            found[part] = keys
    for part in [part for part in found if isinstance(part, nn.MultiheadAttention)]:
        if projection := found.pop(part.out_proj, None):
            found[part]["out_proj"] = projection["weight"]
    return found


def _count(found: Counter[str], keys: dict[str, str], part: Any, args: Any, kwargs: Any, output: Any) -> None:
    uses = next(count for kind, count in USES if isinstance(part, kind))
    for key, name in keys.items():
        found[name] += uses(part, key, args, kwargs, output)


def _pixels_out(part: Any, key: str, args: Any, kwargs: Any, output: Tensor) -> int:
    return output.numel() // len(part.weight)


def _pixels_in(part: Any, key: str, args: Any, kwargs: Any, output: Tensor) -> int:
    x: Tensor = args[0] if args else kwargs["input"]
    return x.numel() // len(part.weight)


def _tokens(part: Any, key: str, args: Any, kwargs: Any, output: Any) -> int:
    """Return the tokens that a projection of attention reads; the mean of the three for a joint one."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query, keys, values = (int(given[name][..., 0].numel()) for name in ("query", "key", "value"))
    by_key = {"k_proj_weight": keys, "v_proj_weight": values, "in_proj_weight": (query + keys + values) // 3}
    return by_key.get(key, query)


def _steps(part: Any, key: str, args: Any, kwargs: Any, output: Any) -> int:
    """Return the length of the sequences, or 1 for a cell."""
    x: Tensor | PackedSequence = args[0] if args else kwargs["input"]
    x = x.data if isinstance(x, PackedSequence) else x
    return int(x.numel()) // int(x.shape[-1])


USES: list[tuple[Any, Uses]] = [
    (_ConvTransposeNd, _pixels_in),
    (nn.MultiheadAttention, _tokens),
    (nn.RNNBase | nn.RNNCellBase, _steps),
    (nn.Module, _pixels_out),
]
