"""Construction of networks from their configuration: the one place where a model's `_target_` is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ersparse.errors import UserError
from ersparse.locate import describe_failure, is_below, locate, locate_defined
from ersparse.models.libraries import refuse_pretrained
from ersparse.models.signature import SignatureError, keywords, result_class

NETWORKS = ("ersparse.models", "torchvision.models", "timm.models")  # where records of runs may name networks


class NetworkSpec(NamedTuple):
    """The arguments that determine a network's architecture.

    Attributes:
        target: import path of the model function or class.
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
        own: further keyword arguments, as a JSON object: a string, so that specifications can be hashed.
        image_size: side of a square input image in pixels, or its height and width.
    """

    target: str
    num_classes: int
    channels: int
    width: float
    own: str = "{}"
    image_size: int | tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an input image in pixels; (1, 1) if they are unknown."""
        size = self.image_size or 1
        return (size, size) if isinstance(size, int) else size

    def build_as_recorded(self, trust: Sequence[str] = ()) -> nn.Module:
        """Return the network that the record of a run describes, as `build` does; the record may be anybody's.

        The target must be a class of networks, or a function that is annotated as returning one, of `NETWORKS`, and
        must not download or read weights. Packages in `trust` are not restricted.

        Raises:
            UserError: the target is elsewhere, or `build` raises it.
        """
        key = "model._target_"
        target = locate_defined(self.target, NETWORKS, trust, key)
        if not is_below(self.target, trust):
            refuse_pretrained(json.loads(self.own))
            if result_class(target) is None:
                raise UserError(f"{key}={self.target}: must be a class of networks, or a function that returns one")
        return self._build(target)

    def build(self) -> nn.Module:
        """Return the network with freshly drawn weights, on PyTorch's current default device.

        The target is given those of the attributes that its signature names (`ersparse.models.signature`). Lazy modules
        get their shapes from an image of zeros.

        Raises:
            UserError: the target cannot be imported, does not take these arguments, raises, or returns no module.
        """
        return self._build(locate(self.target))

    def _build(self, build: Any) -> nn.Module:
        where = f"model._target_={self.target}"
        if isinstance(build, nn.Module):
            raise UserError(f"{where}: must be a class or function that makes networks, not a network")
        known: dict[str, Any] = {"num_classes": self.num_classes, "channels": self.channels, "width": self.width}
        if self.image_size is not None:
            known["image_size"] = self.image_size
        try:
            network = build(**keywords(build, known, json.loads(self.own)))
        except SignatureError as error:
            raise UserError(f"{where}: {error}") from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where}: {describe_failure(error)}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{where}: must return a torch.nn.Module, not {type(network).__name__}")
        return self._with_shapes(network)

    def _with_shapes(self, network: nn.Module) -> nn.Module:
        """Return the network after its lazy modules, if there are any, have seen the shape of an image."""
        tensors = [*network.parameters(), *network.buffers()]
        if not any(is_lazy(tensor) for tensor in tensors):
            return network
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, self.channels, *self.size))
        except Exception as error:
            raise UserError(f"model._target_={self.target}: has lazy modules; {describe_failure(error)}") from error
        return network.train()
