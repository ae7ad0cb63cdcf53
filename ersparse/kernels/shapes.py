"""Shapes of all tensors of a fused graph for one shape of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ersparse.kernels.nodes import Concatenation, Convolution, DropoutMask, FusedStep, Node, NotCovered, Product
from ersparse.kernels.reshaping import Requirement


class ImageShape(NamedTuple):
    """Shape of one image or activation, without the batch dimension."""

    channels: int
    height: int
    width: int


def image_shape(sizes: Sequence[int]) -> ImageShape:
    """Return the shape of an image [C, H, W], of a signal [C, L] as one row, or of features [F] as one pixel."""
    channels, *pixels = sizes
    height, width = [1] * (2 - len(pixels)) + pixels
    return ImageShape(channels, height, width)


def infer_shapes(nodes: list[Node], requirements: list[Requirement], image: ImageShape) -> dict[Node, ImageShape]:
    """Return the shape of each node.

    Args:
        nodes: of a fused graph, in the order of computation.
        requirements: conditions on the shapes.
        image: the shape of an input image.

    Raises:
        NotCovered: an operation does not fit its operands, or broadcasts them in a way that has no kernel.
    """
    shapes: dict[Node, ImageShape] = {}
    for node in nodes:
        if isinstance(node, Convolution):
            shapes[node] = _of_convolution(node, shapes[node.source])
        elif isinstance(node, FusedStep):
            shapes[node] = _of_step(node, shapes)
        elif isinstance(node, Product):
            shapes[node] = _of_product(shapes[node.source], shapes[node.factor])
        elif isinstance(node, Concatenation):
            shapes[node] = _of_concatenation([shapes[source] for source in node.sources])
        elif isinstance(node, DropoutMask):
            like = shapes[node.like]
            shapes[node] = ImageShape(like.channels, 1, 1) if node.per_channel else like
        else:
            shapes[node] = image
    for requirement in requirements:
        requirement.check(shapes)
    return shapes


def _of_convolution(node: Convolution, source: ImageShape) -> ImageShape:
    kernel = node.kernel or (source.height, source.width)
    weights = math.prod(node.module.weight.shape[1:]) * node.groups
    inputs = source.channels * math.prod(kernel)
    if weights != inputs:
        raise NotCovered(f"{node.name}, which reads {weights} numbers of {inputs}")
    height, width = (
        (size + before + after - (side - 1) * dilation - 1) // stride + 1
        for size, before, after, side, dilation, stride in zip(
            source[1:], node.padding, node.end_padding, kernel, node.dilation, node.stride, strict=True
        )
    )
    return ImageShape(len(node.module.weight), height, width)


def _of_step(node: FusedStep, shapes: dict[Node, ImageShape]) -> ImageShape:
    source = shapes[node.source]
    if node.norm is not None and node.norm.num_features != source.channels:
        raise NotCovered(f"a normalisation of {node.norm.num_features} features of {source.channels} channels")
    if node.residual is not None and shapes[node.residual] != source:
        raise NotCovered(f"a sum of {list(source)} and {list(shapes[node.residual])} numbers")
    return ImageShape(source.channels, *node.pool.output_size(*source[1:])) if node.pool else source


def _of_product(first: ImageShape, second: ImageShape) -> ImageShape:
    if first.channels == second.channels:
        for shape, factor in ((first, second), (second, first)):
            if factor in (shape, ImageShape(shape.channels, 1, 1)):
                return shape
    raise NotCovered(f"a product of {list(first)} and {list(second)} numbers")


def _of_concatenation(sources: list[ImageShape]) -> ImageShape:
    if len({shape[1:] for shape in sources}) > 1:
        raise NotCovered(f"a concatenation of {' and '.join(str(list(shape)) for shape in sources)} numbers")
    return sources[0]._replace(channels=sum(shape.channels for shape in sources))
