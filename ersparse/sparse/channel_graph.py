"""Tracing the channel graph of a module: which channels are computed from which, and through which weights.

The module's own `forward` runs on tensors without values whose elements have labels (`ersparse.sparse.channel_tracer`).
An operation without a rule is an error, because a wrong effective density would go unnoticed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ersparse.sparse.channel_inputs import possible_inputs
from ersparse.sparse.channel_tracer import ChannelTracer, GraphError
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.wrappers import eager, unwrapped

__all__ = ["GraphError", "trace"]


def trace(network: nn.Module, shape: tuple[int, ...] | None = None) -> list[ChannelOp]:
    """Return the channel graph of `network`, in the order of computation.

    Arguments of `forward` that have a default keep it. The network, its buffers and the random number generators stay
    as they are.

    Args:
        network: the network, on any device.
        shape: shape of its input, [B, ...]; if None, shapes are tried (`ersparse.sparse.channel_inputs`).

    Raises:
        GraphError: an operation is not supported, or `forward` takes none of the inputs that were tried.
    """
    network = unwrapped(network)
    failures: list[tuple[int, str]] = []
    for inputs in possible_inputs(network, shape):
        tracer = ChannelTracer(network)
        try:
            with _undisturbed(network):
                results = tracer.run(network, inputs.arguments)
        except GraphError:
            raise
        except Exception as error:  # the module's own code runs on labels, and may raise anything
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            failures.append((len(tracer.builder.ops), f"{inputs} {tracer.place(error)}: {reason}".replace(" :", ":")))
        else:
            if inputs.accepts(results):
                return tracer.builder.ops
            failures.append((len(tracer.builder.ops), f"{inputs}: forward changes the size of the batch"))
    tried = max(failures, key=lambda failure: failure[0])[1] if failures else "the shape of its input is unknown"
    raise GraphError(
        f"the network cannot be traced ({tried}); its attribute example_input_array may give an input that it takes, "
        "or flow=none needs no channel graph"
    )


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Restore the random number generators, and make PyTorch use plain operations for attention."""
    fast, state = torch.backends.mha.get_fastpath_enabled(), random.getstate()
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # views of tensors would keep them alive, and writing into a view is refused while the whole tensor is alive
        no_views = torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))
        with torch.random.fork_rng(list(devices)), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), eager(network):
            with no_views:
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(state)
