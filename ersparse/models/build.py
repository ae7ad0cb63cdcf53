"""Construction of networks from their configuration: the one place where a model's `_target_` is called."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ersparse.locate import locate


class NetworkSpec(NamedTuple):
    """The arguments that determine a network's architecture.

    Attributes:
        target: import path of the model function or class.
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """

    target: str
    num_classes: int
    channels: int
    width: float

    def build(self) -> nn.Module:
        """Return the network with freshly drawn weights, on PyTorch's current default device."""
        network = locate(self.target)(self.num_classes, channels=self.channels, width=self.width)
        assert isinstance(network, nn.Module)
        return network
