"""Memory allocation of a program: shapes, activations, gradients and weights of every node of a fused graph."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ersparse.kernels.buffer_reuse import Scratch, share_gradients
from ersparse.kernels.buffers import ActivationBuffer, BatchNormBuffers, Precision, SparseWeights
from ersparse.kernels.csr import CSRPattern
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.nodes import Concatenation, Convolution, DropoutMask, FusedStep, Input, Node
from ersparse.kernels.shapes import ImageShape

MAX_VECTORS = 8  # of images in a row, if there are no pixels: sums of a kept weight that fill the registers


class Workspace:
    """Buffers in which the kernels compute a network on up to `max_images` images of one shape.

    Args:
        graph: the fused graph of the network.
        masks: boolean masks, by parameter name.
        values: kept weights as vectors in the order of `weight[mask]`, by parameter name.
        shape: the shape of an input image.
        max_images: the largest batch.
        precision: data types of computation and storage.
        threads: number of threads that run the program.
        training: allocate gradients and keep what the backward pass reads; otherwise the activations of all nodes but
            the input and the output are scratch memory of one block per thread, which a later result of the same
            layout reuses.
        needs_input_gradient: whether the backward pass also computes the gradient of the images.

    Attributes:
        image_shape: shape of an input image.
        abreast: number of vectors of images that stand in a row; more than 1 only if the graph has no pixels.
        blocks: number of image blocks.
        shapes: shape of each node's result.
        activations, gradients: buffer of each node's result and of its gradient.
        weights: kept weights of each convolution.
        transposed: for each convolution the CSR pattern of the input gradient, and the permutation of its values.
        norms: batch normalisation of each fused step and concatenation, which has none.

    Raises:
        NotCovered: an operation does not fit its operands.
    """

    def __init__(
        self,
        graph: FusedGraph,
        masks: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        shape: ImageShape,
        max_images: int,
        precision: Precision,
        threads: int,
        training: bool,
        needs_input_gradient: bool = False,
    ) -> None:
        self.graph, self.precision, self.max_images, self.threads = graph, precision, max_images, threads
        self.training, self.needs_input_gradient = training, needs_input_gradient
        self.image_shape = shape
        self.abreast = 1
        if not graph.has_pixels:
            shape = ImageShape(shape.channels * shape.height * shape.width, 1, 1)
            self.abreast = min(-(-max_images // precision.images_per_block), MAX_VECTORS // precision.vectors)
        self.blocks = -(-max_images // (self.abreast * precision.images_per_block))
        self.shapes = graph.shapes(shape)
        self.activations: dict[Node, ActivationBuffer] = {}
        self.gradients: dict[Node, ActivationBuffer] = {}
        self.weights: dict[Convolution, SparseWeights] = {}
        self.transposed: dict[Convolution, tuple[CSRPattern, Tensor]] = {}
        self.norms: dict[Node, BatchNormBuffers] = {}
        self._step_scratch, self._gradient_scratch = Scratch(), Scratch()  # a layer reads one of each
        self._free: dict[object, list[ActivationBuffer]] = defaultdict(list)
        done_after = defaultdict(list) if training else self._last_readers()
        for node in graph.nodes:
            if isinstance(node, Convolution):
                self._allocate_convolution(node, masks[node.name], values[node.name])
            elif isinstance(node, FusedStep):
                self._allocate_step(node)
            else:
                self._allocate_result(node)
            if isinstance(node, Concatenation):
                self.norms[node] = BatchNormBuffers(None, self.shapes[node].channels, 1, precision.compute_dtype)
            for operand in done_after[node]:
                self._free[self._layout(operand)].append(self.activations[operand])
        if training:
            self._allocate_gradients()

    @property
    def input(self) -> Input:
        """The node of the images."""
        return next(node for node in self.graph.nodes if isinstance(node, Input))

    def is_stored(self, node: Node) -> bool:
        """Return whether all blocks of a result are stored: it is input or output, or the backward pass reads it."""
        if isinstance(node, Input) or node is self.graph.output:
            return True
        return self.training and (node.materialized if isinstance(node, FusedStep) else True)

    def is_convolution_epilogue(self, node: Node) -> bool:
        """Return whether the convolution before a step computes it: a sum, ReLU and 2 x 2 maxima, in evaluation."""
        if self.training or not isinstance(node, FusedStep) or node.norm or not isinstance(node.source, Convolution):
            return False
        clamps = node.activation is None or node.activation.clamps
        before = node.residual is None or self._computed_at(node.residual).position < node.source.position
        return clamps and before and (node.pool is None or node.pool.is_2x2_maximum)

    def needs_gradient(self, node: Node) -> bool:
        """Return whether the backward pass computes the gradient of a result."""
        return not isinstance(node, DropoutMask) and (self.needs_input_gradient or not isinstance(node, Input))

    def parameter_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter with the tensor into which the backward pass writes its gradient."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for w in self.weights.values():
            pairs += [(w.values, w.gradient), *([(w.bias, w.bias_gradient)] if w.bias is not None else [])]
        for norm in self.norms.values():
            if norm.module is not None:
                pairs += [(norm.module.weight, norm.weight_gradient), (norm.module.bias, norm.bias_gradient)]
        return pairs

    def _allocate_convolution(self, node: Convolution, mask: Tensor, values: Tensor) -> None:
        images = self.precision.images_per_block
        w = SparseWeights(node, mask, values, self.activations[node.source], self.shapes[node], images)
        self.weights[node] = w
        result = next(filter(self.is_convolution_epilogue, node.users), node)
        self._allocate_result(result)
        self.activations[node] = self.activations[result]
        if self.training:
            per_thread = node is not self.graph.output
            scratch = self._gradient_scratch if per_thread else None
            gradient = self._buffer(w.output_shape, per_thread=per_thread, scratch=scratch, **w.gradient_layout())
            self.gradients[node] = gradient
            self.transposed[node] = w.coordinates.transposed_pattern(gradient.rows, gradient.columns, images)
        del w.coordinates  # they take more memory than the weights

    def _allocate_step(self, node: FusedStep) -> None:
        channels = self.shapes[node].channels
        self.norms[node] = BatchNormBuffers(node.norm, channels, self.blocks, self.precision.compute_dtype)
        if not self.is_convolution_epilogue(node):
            self._allocate_result(node)

    def _allocate_result(self, node: Node) -> None:
        shape, border = self._layout(node)
        stored, free = self.is_stored(node), self._free[shape, border]
        if free and not stored:
            self.activations[node] = free.pop()
            return
        scratch = self._step_scratch if self.training and not stored else None
        self.activations[node] = self._buffer(shape, border=border, per_thread=not stored, scratch=scratch)

    def _layout(self, node: Node) -> tuple[ImageShape, tuple[int, int]]:
        """Return the shape of a result, and the largest border that a convolution which reads it needs."""
        paddings = [p for user in node.users if isinstance(user, Convolution) for p in (user.padding, user.end_padding)]
        return self.shapes[node], (max([0, *(p[0] for p in paddings)]), max([0, *(p[1] for p in paddings)]))

    def _last_readers(self) -> dict[Node, list[Node]]:
        """Return the results whose memory is free after the operations of each node, in evaluation."""
        order = {node: index for index, node in enumerate(self.graph.nodes)}
        done_after: dict[Node, list[Node]] = defaultdict(list)
        for node in self.graph.nodes:
            has_memory = not (isinstance(node, Convolution) and any(map(self.is_convolution_epilogue, node.users)))
            if has_memory and not self.is_stored(node):
                readers = [node, *map(self._computed_at, node.users)]
                done_after[max(readers, key=order.__getitem__)].append(node)
        return done_after

    def _computed_at(self, node: Node) -> Node:
        """Return the node with whose operations a result is computed: its own, its source's or its reader's."""
        if not isinstance(node, FusedStep):
            return node
        if self.is_convolution_epilogue(node):
            return node.source
        return node if node.materialized else node.users[0]  # or computed where it is read

    def _allocate_gradients(self) -> None:
        """Allocate the gradients of steps and of the input, in as few pieces as their uses allow."""
        images, dtype = self.abreast * self.precision.images_per_block, self.precision.storage_dtype
        places, pieces = share_gradients(self.graph, {node: math.prod(s) * images for node, s in self.shapes.items()})
        memory = [torch.zeros(self.blocks, size, dtype=dtype) for size in pieces]
        for node, place in places.items():
            self.gradients[node] = self._buffer(self.shapes[node], memory=memory[place])

    def _buffer(self, shape: ImageShape, per_thread: bool = False, **layout: Any) -> ActivationBuffer:
        blocks = min(self.blocks, self.threads) if per_thread else self.blocks
        return ActivationBuffer(shape, blocks, self.precision, per_thread=per_thread, abreast=self.abreast, **layout)
