"""Networks of torchvision and timm by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ersparse.errors import UserError
from ersparse.models.signature import SignatureError, keywords

PRETRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_cfg", "checkpoint_path")
RGB = 3


def torchvision_network(
    num_classes: int, channels: int = 3, width: float = 1.0, image_size: int = 224, *, name: str, **args: Any
) -> nn.Module:
    """Build a classifier of torchvision with random weights.

    torchvision's networks take images of three channels. For another number, the first convolution is replaced by one
    with PyTorch's default initialisation.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor of all hidden widths, for networks that take `width_mult`.
        image_size: height and width of an input image, in pixels, for networks that take it.
        name: name of torchvision's function, such as "mobilenet_v2".
        **args: further arguments of the function, or of the class that it returns.

    Raises:
        UserError: torchvision has no such network, or it does not take an argument.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UserError(f"model.args.name={name}: must be a classifier of torchvision, such as {', '.join(names[:4])}")
    known = {"num_classes": num_classes, "width": width, "image_size": image_size}
    network = _call(models.get_model_builder(name), known, args, f"model.args.name={name}")
    if channels != RGB:
        replace_first_convolution(network, channels)
    return network


def timm_network(
    num_classes: int, channels: int = 3, image_size: int = 224, *, model_name: str, **args: Any
) -> nn.Module:
    """Build a network of timm with random weights.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        image_size: height and width of an input image, in pixels, for networks that take it.
        model_name: timm's name of the network, such as "vit_tiny_patch16_224".
        **args: further arguments of the network.

    Raises:
        UserError: timm is not installed, it has no such network, or the network does not take an argument.
    """
    where = f"model.args.model_name={model_name}"
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"{where}: timm is not installed; pip install 'ersparse[timm]'")
    import timm

    if not timm.is_model(model_name):
        raise UserError(f"{where}: timm {timm.__version__} has no such network; timm.list_models() lists them")
    known = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    return _call(timm.model_entrypoint(model_name), known, {"in_chans": channels} | args, where)


def _call(build: Callable[..., nn.Module], known: Mapping[str, Any], args: Mapping[str, Any], where: str) -> nn.Module:
    refuse_pretrained(args)
    try:
        return build(**keywords(build, known, args))
    except SignatureError as error:
        raise UserError(f"{where}: {error}") from None


def refuse_pretrained(args: Mapping[str, Any]) -> None:
    """Check that no arguments of torchvision and timm ask for weights, which these would download or read.

    Raises:
        UserError: one does.
    """
    if loaded := next((key for key in PRETRAINED if args.get(key)), None):
        raise UserError(
            f"model.args.{loaded}={args[loaded]}: must be left out; model.init_from takes a file of weights, whose "
            "content then is part of the run's hash"
        )


def replace_first_convolution(network: nn.Module, channels: int) -> None:
    """Replace the first convolution of `network` by one that takes `channels` channels, and is otherwise the same."""
    name, old = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,  # type: ignore[arg-type]
        bias=old.bias is not None, padding_mode=old.padding_mode,
    )  # fmt: skip
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new.to(old.weight.dtype))
