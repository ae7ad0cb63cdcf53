"""Memory that buffers of a program share, because they are not in use at the same time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.nodes import Convolution, DropoutMask, FusedStep, Node


def share_gradients(graph: FusedGraph, sizes: Mapping[Node, int]) -> tuple[dict[Node, int], list[int]]:
    """Assign the gradients of steps and of the input to as few pieces of memory as the backward pass allows.

    It takes the steps from the last to the first. The gradient of a step is in use from the first operation that adds
    to it, which belongs to one of its readers, until the step's own operations have read it. The convolution before a
    step computes the gradient of its own input after that, so that this gradient may take the same memory. Each block
    of images has a region of its own in every piece: another thread may be at an earlier operation of its block.

    Args:
        graph: the fused graph.
        sizes: the size of each node's gradient in one block, in any unit.

    Returns:
        The index of each node's piece, and the size of each piece.
    """
    places: dict[Node, int] = {}
    pieces: list[int] = []
    free: list[int] = []

    def take(node: Node) -> None:
        if isinstance(node, Convolution | DropoutMask) or node in places:
            return
        if not free:
            free.append(len(pieces))
            pieces.append(0)
        places[node] = place = max(free, key=lambda index: pieces[index])
        free.remove(place)
        pieces[place] = max(pieces[place], sizes[node])

    take(graph.output.source if isinstance(graph.output, Convolution) else graph.output)
    for node in reversed(graph.nodes):
        if node.operands and not isinstance(node, Convolution):
            take(node)
            for operand in node.operands:
                take(operand)
            free.append(places[node])
            if isinstance(node, FusedStep) and isinstance(node.source, Convolution):
                take(node.source.source)
    return places, pieces


class Scratch:
    """Scratch memory of threads by layout: buffers of one layout, borders included, share their memory.

    The border of a buffer is zero from the beginning, and operations write inside it only, so memory can be shared by
    buffers whose borders are in the same places.
    """

    def __init__(self) -> None:
        self._memory: dict[object, Tensor] = {}

    def get(self, layout: object, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return zeros of this size, the same ones for every buffer of the same layout."""
        key = (layout, size, dtype)
        if key not in self._memory:
            self._memory[key] = torch.zeros(size, dtype=dtype)
        return self._memory[key]
