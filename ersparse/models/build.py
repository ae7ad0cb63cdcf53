"""Construction of networks from their configuration: the one place where a model's `_target_` is called."""

from __future__ import annotations

import json
from typing import NamedTuple

from torch import nn

from ersparse.errors import UserError
from ersparse.locate import locate


class NetworkSpec(NamedTuple):
    """The arguments that determine a network's architecture.

    Attributes:
        target: import path of the model function or class.
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
        own: further keyword arguments, as a JSON object: a string, so that specifications can be hashed.
    """

    target: str
    num_classes: int
    channels: int
    width: float
    own: str = "{}"

    def build(self) -> nn.Module:
        """Return the network with freshly drawn weights, on PyTorch's current default device.

        Raises:
            UserError: the target cannot be imported, does not take these arguments, or returns no module.
        """
        build, own = locate(self.target), json.loads(self.own)
        try:
            network = build(self.num_classes, channels=self.channels, width=self.width, **own)
        except TypeError as error:
            raise UserError(
                f"model._target_={self.target}: must be callable as (num_classes, channels=..., width=...) ({error})"
            ) from error
        if not isinstance(network, nn.Module):
            raise UserError(
                f"model._target_={self.target}: must return a torch.nn.Module, not {type(network).__name__}"
            )
        return network
