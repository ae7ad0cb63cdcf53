"""Cannistraci-Hebb link prediction on the channel graph of a layer: CH3-L3 (Zhang et al. 2024, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


def channel_scores(layer: Layer, mask: Tensor) -> Tensor:
    """Return the CH3-L3 score of each pair of an output and an input channel, float64 [n_out, n_in / groups].

    Channels are joined if their kernel keeps at least one weight. Groups are separate graphs.

    Args:
        layer: the layer.
        mask: its mask, on any device; the scores are on the same one.
    """
    kernels = layer.to_rows(mask).reshape(layer.groups, layer.n_out // layer.groups, layer.n_in // layer.groups, -1)
    return torch.cat([ch3_l3(edges) for edges in kernels.any(3)])


def ch3_l3(edges: Tensor) -> Tensor:
    """Return the sum over paths v - i - o - u of three edges of 1 / sqrt(d(o) d(i)), for each output v and input u.

    d of a node on the path is 1 plus its external degree: its edges to nodes that are neither u nor v nor, as the local
    community has it, on a path of three edges from u to v. In a bipartite graph those on a path are the common
    neighbours of the node and the seed on its own side, whose number is an entry of the product of the adjacency matrix
    with its transpose.

    Args:
        edges: adjacency matrix, bool [outputs, inputs].

    Returns:
        Scores, float64 [outputs, inputs]; 0 for pairs that are joined.
    """
    a = edges.double()
    common_outputs, common_inputs = a @ a.T, a.T @ a  # shared inputs of two outputs, shared outputs of two inputs
    outputs = (a.sum(1)[:, None] - common_outputs).clamp_min(1).rsqrt()  # [o, v]: d(o) for the seed v
    inputs = (a.sum(0)[:, None] - common_inputs).clamp_min(1).rsqrt()  # [i, u]: d(i) for the seed u
    scores = torch.zeros_like(a)
    for u in range(a.shape[1]):
        # outputs o that u feeds; on a GPU all of them, since the host would wait for their numbers
        near = edges[:, u].nonzero()[:, 0] if a.device.type == "cpu" else slice(None)
        paths = (a[near] * inputs[:, u]) @ a.T  # [o, v]: sum over i
        scores[:, u] = (paths * outputs[near] * a[near, u, None]).sum(0)
    return scores.masked_fill(edges, 0.0).round(decimals=9)  # equal scores stay equal in any order of summation
