"""Networks and images of finished runs, for notebooks and scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.model_settings import ModelSettings
from ersparse.data.load import load_arrays
from ersparse.data.streamed import ImageData
from ersparse.errors import UserError
from ersparse.locate import locate_defined
from ersparse.models.build import NetworkSpec
from ersparse.sparse import mask
from ersparse.storage.run_folder import RunFolder, network_masks, network_tensors, read_network


def load(run: str | Path, *, trust: Sequence[str] = ()) -> nn.Module:
    """Load the network of a finished run, on the CPU and in evaluation mode.

    The folder may be somebody else's: its record may name networks of ersparse, torchvision and timm only.

    Args:
        run: path of the run folder.
        trust: packages, modules or classes whose code the record may name besides, such as that of your own network.

    Returns:
        The network with its trained weights; its masks are attached as buffers, and removed weights are zero.

    Raises:
        UserError: the folder holds no finished run that trained, network.safetensors is damaged, or the record names
            code that is not trusted.

    Example:
        >>> network = ersparse.load("outputs/runs/resnet20-digits-balanced0.9-fixed-0123abcd/s0")
        >>> logits = network(images)
    """
    record = RunFolder(Path(run)).read()
    if record and record.get("state") == "done" and not record.get("metrics"):
        raise UserError(f"{run}: has no network, it was only drawn; must be the folder of a run that trained")
    state, _ = read_network(Path(run), str(run))
    if record is None:
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a finished run")
    model, dataset = record["config"]["model"], record["config"]["dataset"]
    size = dataset["image_size"]
    own = {key: model[key] for key in model.keys() - {"_target_", *ModelSettings.model_fields}} | model.get("args", {})
    network = NetworkSpec(
        model["_target_"],
        dataset["num_classes"],
        dataset["channels"],
        model["width"],
        json.dumps(own),
        size if isinstance(size, int) else tuple(size),
    ).build_as_recorded(trust)
    network.load_state_dict(network_tensors(state))
    mask.attach(network, network_masks(state))
    mask.enforce(network)
    mask.enforce_on_load(network)
    return network.eval()


def load_images(run: str | Path, *, trust: Sequence[str] = ()) -> ImageData:
    """Load the images that a run was trained and tested on.

    Args:
        run: path of the run folder.
        trust: packages, modules or functions whose code the record may name besides those of ersparse.

    Returns:
        Training and test images, uint8 and in the image size of the run, with their labels.

    Raises:
        UserError: the folder holds no run, the data set is not available, or the record names code that is not
            trusted.

    Example:
        >>> images = ersparse.load_images("outputs/runs/resnet20-digits-balanced0.9-fixed-0123abcd/s0")
        >>> images.x_test.shape, images.y_test.shape
    """
    record = RunFolder(Path(run)).read()
    if record is None or "dataset" not in record.get("config", {}):
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a run")
    dataset = record["config"]["dataset"]
    locate_defined(str(dataset.get("_target_")), ["ersparse.data"], trust, "dataset._target_")
    return load_arrays(build(DatasetSettings, dataset, "dataset."))
