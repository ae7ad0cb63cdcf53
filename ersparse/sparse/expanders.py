"""Expanders: masks whose channel graph is biregular and Ramanujan (Hoang et al. 2023; Stewart et al. 2023).

A bipartite graph with degrees c and d is Ramanujan if the second largest singular value of its adjacency matrix is at
most sqrt(c - 1) + sqrt(d - 1), the least that large graphs of these degrees can have.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.flow_repair import Random
from ersparse.sparse.layers import Layer

TRIES = 20  # graphs that are drawn until one is Ramanujan; a random one is with a probability of about a half


def draw_expander(layer: Layer, fan_in: int, random: Random) -> Tensor:
    """Draw a mask with `fan_in` weights for each output channel and, up to one, as many for each input channel.

    The kernels of an output channel have the same number of weights, up to one. Those that have one more form a
    Ramanujan graph of channels, as far as one is found. Positions within kernels are uniform.

    Args:
        layer: the layer.
        fan_in: weights of each output channel.
        random: the random number generator.
    """
    rows, columns, size = layer.n_out // layer.groups, layer.n_in // layer.groups, math.prod(layer.shape[2:])
    least, degree = divmod(fan_in, columns)
    graphs = [ramanujan_graph(rows, columns, degree, random) for _ in range(layer.groups)]
    numbers = least + np.concatenate(graphs).astype(int)
    ranks = random.random((*numbers.shape, size)).argsort(axis=2).argsort(axis=2)
    kept = torch.from_numpy(ranks < numbers[:, :, None])
    return layer.from_rows(kept.reshape(layer.rows_shape))


def ramanujan_graph(rows: int, columns: int, degree: int, random: Random) -> np.ndarray:
    """Draw a biregular bipartite graph, bool [rows, columns]; the best of `TRIES` if none is Ramanujan.

    Graphs with a degree of 1 or less fall into stars, for which there is no bound; the first is taken.
    """
    best = biregular_graph(rows, columns, degree, random)
    if degree * rows < 2 * columns or degree < 2:
        return best
    for _ in range(TRIES - 1):
        if second_singular_value(best) <= ramanujan_bound(best):
            return best
        best = min(best, biregular_graph(rows, columns, degree, random), key=second_singular_value)
    return best


def biregular_graph(rows: int, columns: int, degree: int, random: Random) -> np.ndarray:
    """Draw a graph with `degree` edges for each row, and numbers of edges of columns that differ by one at most.

    Each row in turn chooses among the columns with the fewest edges, ties at random.
    """
    edges, load = np.zeros((rows, columns), dtype=bool), np.zeros(columns)
    for row in range(rows):
        chosen = np.lexsort((random.random(columns), load))[:degree]
        edges[row, chosen] = True
        load[chosen] += 1
    return edges


def second_singular_value(edges: np.ndarray) -> float:
    """Return the second largest singular value of an adjacency matrix; 0 if there is one only."""
    values = np.linalg.svd(edges.astype(float), compute_uv=False)
    return float(values[1]) if len(values) > 1 else 0.0


def ramanujan_bound(edges: np.ndarray) -> float:
    """Return sqrt(c - 1) + sqrt(d - 1) for the largest degrees c of rows and d of columns."""
    return math.sqrt(max(0, edges.sum(1).max() - 1)) + math.sqrt(max(0, edges.sum(0).max() - 1))
