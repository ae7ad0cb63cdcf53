"""Which weights are effective, by automatic differentiation of a network whose values are all positive.

This is independent of the channel graph. A weight is effective if its input changes with the network's input, and its
output changes the network's output. All weights, biases and other parameters are positive; functions that saturate are
replaced by ones that increase everywhere, and normalisations by adding a constant, since their means would subtract.
"""

import functools
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from ersparse.sparse.channel_graph import trace
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import attach, enforce
from ersparse.sparse.reachability import cut, on_paths


def increasing(x, *args, **kwargs):
    """A function in place of sigmoids, which is positive at zero."""
    return 1 + torch.log1p(x)


def normalised(x, dim=-1, *args, **kwargs):
    """A function in place of a softmax: positive, and each result depends on all arguments."""
    x = torch.log1p(x.abs())  # masks are negative
    return (1 + x) / (1 + x).sum(dim, keepdim=True) + x * 1e-3


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    scores = q @ k.transpose(-2, -1)
    return normalised(scores if attn_mask is None else scores + attn_mask) @ v


def shifted(x, *args, **kwargs):
    return x + 0.1


def unchanged(x, *args, **kwargs):
    return x


def pool(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)


REPLACED = {
    "sigmoid": increasing, "hardsigmoid": increasing, "softmax": normalised, "scaled_dot_product_attention": attention,
    "layer_norm": shifted, "batch_norm": shifted, "group_norm": shifted, "hardtanh": unchanged, "relu6": unchanged,
    "hardswish": unchanged, "silu": unchanged, "gelu": unchanged, "relu": unchanged, "max_pool2d": pool,
    "dropout": unchanged,
}  # fmt: skip


@contextmanager
def positive_functions():
    with ExitStack() as stack:
        for name, function in REPLACED.items():
            stack.enter_context(mock.patch.object(F, name, function))
            if hasattr(torch, name) and name in ("sigmoid", "softmax", "relu"):
                stack.enter_context(mock.patch.object(torch, name, function))
                stack.enter_context(mock.patch.object(torch.Tensor, name, function))
        yield


@contextmanager
def recorded_layers():
    """Record (weight, input, output, options) of each call of a linear layer or a convolution."""
    calls, linear, convolutions = [], F.linear, {d: getattr(F, f"conv{d}d") for d in (1, 2, 3)}

    def recorded_linear(x, weight, bias=None):
        calls.append((weight, x, linear(x, weight, bias), None))
        calls[-1][2].retain_grad()
        return calls[-1][2]

    def recorded_convolution(x, weight, bias=None, *options, convolution):
        calls.append((weight, x, convolution(x, weight, bias, *options), options))
        calls[-1][2].retain_grad()
        return calls[-1][2]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "linear", recorded_linear))
        for d, convolution in convolutions.items():
            recorded = functools.partial(recorded_convolution, convolution=convolution)
            stack.enter_context(mock.patch.object(F, f"conv{d}d", recorded))
        yield calls


def make_positive(network, masks, seed):
    """Attach `masks`, and make all parameters positive; the weights of a channel add up to one."""
    random = torch.Generator().manual_seed(seed)
    network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=random) * 0.1 + 0.1)
        for name, parameter in network.named_parameters():
            if name in masks:
                kept = parameter * masks[name]
                parameter.div_(kept.flatten(1).sum(1).clamp(min=0.05).reshape(-1, *[1] * (parameter.dim() - 1)))
    attach(network, masks)
    enforce(network)


def effective_weights(network, masks, inputs, seed=0):
    """Return the effective weights of `masks` by layer, where kernels count as a whole."""
    make_positive(network, masks, seed)
    with positive_functions(), recorded_layers() as calls:
        network(inputs)
        before = [x.detach().clone() for _, x, _, _ in calls]
        calls.clear()
        if hasattr(network, "queries"):
            network.queries.data *= 1.5
        result = network(inputs * 1.5 + 0.1)
        result = result if isinstance(result, torch.Tensor) else result[0]
        assert result.isfinite().all()
        result.sum().backward()
    owners = {p.untyped_storage().data_ptr(): (n, p) for n, p in network.named_parameters() if n in masks}
    found = {name: torch.zeros(mask.shape, dtype=torch.bool) for name, mask in masks.items()}
    for (weight, x, out, options), old in zip(calls, before, strict=True):
        name, whole = owners[weight.untyped_storage().data_ptr()]
        changed = (x.detach() - old).abs() > 1e-12 * x.detach().abs().max()
        needed = out.grad.abs() > 1e-14 * out.grad.abs().max() if out.grad is not None else torch.zeros_like(out)
        start = (weight.storage_offset() - whole.storage_offset()) // whole[0].numel()
        found[name][start : start + len(weight)] |= _pairs(weight, changed.double(), needed.double(), options) > 0
    return {name: found[name] & mask for name, mask in masks.items()}


def _pairs(weight, changed, needed, options):
    """Return for each weight how often a changed input meets an output that is needed."""
    if options is None:
        return torch.einsum("...o,...i->oi", needed, changed)
    stride, padding, dilation, groups = options
    product = torch.nn.grad.conv2d_weight(changed, weight.shape, needed, stride, padding, dilation, groups)
    return (product > 0.5).flatten(2).any(2).double().reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def drawn(layers, density, seed):
    """Return masks that keep kernels as a whole, since their pixels do not matter, and 1.5 in each row on average."""
    random, masks = torch.Generator().manual_seed(seed), {}
    for layer in layers:
        kept = torch.rand(*layer.shape[:2], *[1] * len(layer.shape[2:]), generator=random)
        masks[layer.name] = (kept < min(0.8, max(density, 1.5 / layer.shape[1]))).expand(layer.shape)
    return masks


def compare(network, inputs, density, seed, shape=None):
    """Compare the effective weights of a random mask with those that gradients reach; return their share.

    The network is traced with an input of `shape`, which has to be found if it is None.
    """
    layers = prunable_layers(network)
    masks = drawn(layers, density, seed)
    graph = trace(network.eval(), shape)
    expected = effective_weights(network, masks, inputs, seed)
    live = on_paths(masks, layers, graph)
    for layer in layers:
        assert live[layer.name].equal(expected[layer.name]), layer.name
    assert bool(cut(masks, layers, graph)) == (not any(mask.any() for mask in expected.values()))
    return sum(int(m.sum()) for m in live.values()) / sum(int(m.sum()) for m in masks.values())


def network_of(forward, **modules):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return forward(self, x)

    return Network()


def linear(n_in, n_out, bias=False):
    return nn.Linear(n_in, n_out, bias=bias)
