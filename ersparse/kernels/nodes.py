"""Nodes of a fused graph: the tensors that the kernels compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ersparse.kernels.activations import Activation
from ersparse.kernels.pooling import Pool


class NotCovered(ValueError):
    """The network contains an operation without a sparse kernel; the message names the operation."""


@dataclass(eq=False)
class Node:
    """A tensor that the network computes.

    Attributes:
        position: index in the traced graph of the last operation that is fused into this node.
        users: the nodes that read this one.
    """

    position: int
    users: list[Node] = field(default_factory=list, init=False)

    @property
    def operands(self) -> list[Node]:
        """The nodes that this one reads."""
        return []


@dataclass(eq=False)
class Input(Node):
    """The batch of images that the network receives."""


@dataclass(eq=False)
class DropoutMask(Node):
    """Random factors of dropout, drawn anew in each forward pass: 0, or 1 / (1 - p).

    Attributes:
        like: the node whose shape they have.
        p: the probability of 0.
        per_channel: whether there is one factor for each channel of an image.
    """

    like: Node
    p: float
    per_channel: bool


@dataclass(eq=False)
class Convolution(Node):
    """A convolution, or a linear layer, which is a convolution whose kernel covers the whole image.

    Attributes:
        name: parameter name of the weight.
        kernel: kernel height and width; None for a linear layer.
        stride: in rows and columns.
        padding: zero rows above and zero columns left of the image.
        end_padding: zero rows below and zero columns right of it.
        dilation: distance between the weights of a kernel in rows and columns.
    """

    source: Node
    name: str
    module: nn.Conv1d | nn.Conv2d | nn.Linear
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    end_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)

    @property
    def operands(self) -> list[Node]:
        """The nodes that this one reads."""
        return [self.source]


@dataclass(eq=False)
class FusedStep(Node):
    """Fused operations pool(activation(norm(source) + residual)), any of which may be absent.

    Maxima and averages are fused with activations that clamp; after another one they are a step of their own.
    """

    source: Node
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    residual: Node | None = None
    activation: Activation | None = None
    pool: Pool | None = None

    @property
    def operands(self) -> list[Node]:
        """The nodes that this one reads."""
        return [self.source] if self.residual is None else [self.residual, self.source]

    @property
    def materialized(self) -> bool:
        """Whether the result is stored until the backward pass; otherwise its only reader recomputes it."""
        return not (len(self.users) == 1 and isinstance(self.users[0], Convolution))

    def accepts(self, operation: str) -> bool:
        """Return whether an operation that follows can be fused into this step: residual, activation or pool."""
        if self.pool:
            return False
        if operation == "pool":
            return self.activation is None or self.activation.clamps
        return not self.activation and not (operation == "residual" and self.residual)


@dataclass(eq=False)
class Product(Node):
    """The product of two tensors of one shape, or of a tensor and one factor for each of its channels."""

    source: Node
    factor: Node

    @property
    def operands(self) -> list[Node]:
        """The nodes that this one reads."""
        return [self.factor, self.source]


@dataclass(eq=False)
class Concatenation(Node):
    """The channels of several tensors, one after the other."""

    sources: list[Node]

    @property
    def operands(self) -> list[Node]:
        """The nodes that this one reads."""
        return self.sources
