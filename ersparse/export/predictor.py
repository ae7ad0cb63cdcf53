"""Inference with exported networks, by the sparse kernels where they can be compiled."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork
from ersparse.export.int8 import Int8Network
from ersparse.export.ranges import Ranges, observe
from ersparse.export.single_image import SingleImageNetwork
from ersparse.kernels.buffers import VECTOR_SIZE, Precision
from ersparse.kernels.compile import KernelsUnavailable
from ersparse.kernels.network import SparseNetwork
from ersparse.kernels.nodes import NotCovered

MAX_BATCH_SIZE = 512  # images; larger inputs are split
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
MAX_SINGLE_IMAGES = 4  # images up to which one image at a time is faster than blocks of sixteen

log = logging.getLogger("ersparse")


class Predictor:
    """Computes the logits of any number of images.

    Attributes:
        network: maps normalised float32 images [B, channels, side, side] to logits [B, classes].
        inputs: the images that the network expects.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], inputs: sparse_file.InputSpec) -> None:
        self.network, self.inputs = network, inputs
        self._lock = threading.Lock()  # the kernels compute in buffers that calls share

    @torch.no_grad()
    def __call__(self, images: Tensor | np.ndarray) -> Tensor:
        """Return logits [N, classes].

        Args:
            images: uint8 [N, side, side, channels], as in data sets, or float [N, channels, side, side], normalised as
                for training.

        Raises:
            UserError: the images have another type or shape, or there are none.
        """
        images = torch.as_tensor(images)
        self._check("images", images)
        with self._lock:
            return torch.cat([self.network(self._normalize(batch)) for batch in torch.split(images, MAX_BATCH_SIZE)])

    def normalized(self, name: str, images: Tensor | np.ndarray) -> Tensor:
        """Return images as the network takes them; errors call them `name`.

        Raises:
            UserError: as for a prediction.
        """
        images = torch.as_tensor(images)
        self._check(name, images)
        return self._normalize(images)

    def _normalize(self, images: Tensor) -> Tensor:
        return self.inputs.normalize(images) if images.dtype == torch.uint8 else images.float()

    def _check(self, name: str, images: Tensor) -> None:
        side, channels = self.inputs.side, self.inputs.channels
        is_uint8 = images.dtype == torch.uint8
        shape = (side, side, channels) if is_uint8 else (channels, side, side)
        if images.shape[1:] != shape or not (is_uint8 or images.is_floating_point()):
            raise UserError(
                f"{name}={images.dtype} {list(images.shape)}: must be uint8 [N, {side}, {side}, {channels}] "
                f"or float [N, {channels}, {side}, {side}]"
            )
        if not len(images):
            raise UserError(f"{name}={images.dtype} {list(images.shape)}: must contain at least one image")


def load_sparse(
    path: str | Path, storage: str = "float32", calibration: Tensor | np.ndarray | None = None
) -> Predictor:
    """Load a file that `python -m ersparse export` wrote, for inference on the CPU.

    Without a C++ compiler the network is computed by PyTorch's dense layers, with a warning.

    Args:
        path: the path of the file, by default `network.sparse` in the run folder.
        storage: the type in which activations are stored between layers: "float32"; "bfloat16", which is faster for
            batches of more than 16 images and rounds their activations to 8 bits of precision; or "int8", which is
            faster still on processors with AVX-512 VNNI, and rounds activations and kept weights to 256 and 255
            values. In float32 and bfloat16, weights and sums are float32.
        calibration: for "int8", some hundreds of training images, on which the ranges of activations are measured, as
            `Predictor` takes them; None for the ranges that `export --int8` wrote into the file.

    Raises:
        UserError: the file is missing, damaged, of another version, or not a sparse network; there is no such storage;
            or for "int8" there are neither ranges nor images, images or activations are not finite, or a layer is too
            large for 32-bit sums or offsets.
    """
    if storage not in STORAGE:
        raise UserError(f"storage={storage!r}: must be one of {', '.join(STORAGE)}")
    if storage != "int8" and calibration is not None:
        raise UserError(f"calibration with storage={storage!r}: must be None, or storage='int8'")
    network, inputs, ranges = sparse_file.read(Path(path))
    dense = Predictor(network, inputs)
    if calibration is not None:
        ranges = observe(network, dense.normalized("calibration", calibration))
    elif storage == "int8" and ranges is None:
        raise UserError(
            f"storage='int8': {path} holds no ranges of activations; write it with `ersparse export --int8`, "
            "or pass calibration=images"
        )
    try:
        return Predictor(sparse_forward(network, inputs, STORAGE[storage], ranges), inputs)
    except NotCovered as layer:
        raise UserError(f"storage={storage!r}: there is no kernel for {layer}; must be float32 or bfloat16") from None
    except KernelsUnavailable as reason:
        log.warning(f"{reason}; predicting with dense layers in float32")
        return dense


def sparse_forward(
    network: FoldedNetwork,
    inputs: sparse_file.InputSpec,
    storage: torch.dtype = torch.float32,
    ranges: Ranges | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return a function that computes `network` by the sparse kernels, in the layout that suits the batch size.

    Args:
        network: with masks attached.
        inputs: the images that it expects.
        storage: the type of activations; in place of bfloat16, batches of up to `VECTOR_SIZE` images use float32.
        ranges: of the network's tensors, for int8.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
        NotCovered: a layer is too large for 32-bit sums or offsets in int8.
    """
    if storage == torch.int8:
        assert ranges is not None
        return _int8_forward(network, inputs, ranges)
    single, batched = SingleImageNetwork(network, inputs.channels, inputs.side), SparseNetwork(network).eval()
    large = batched if storage == torch.float32 else SparseNetwork(network, Precision(storage_dtype=storage)).eval()

    def forward(x: Tensor) -> Tensor:
        """Compute the logits of a batch."""
        suited = single if len(x) <= MAX_SINGLE_IMAGES else batched if len(x) <= VECTOR_SIZE else large
        return suited(x)

    return forward


def _int8_forward(network: FoldedNetwork, inputs: sparse_file.InputSpec, ranges: Ranges) -> Int8Network:
    int8 = Int8Network(network, inputs.channels, inputs.side, ranges)
    if not int8.is_fast:
        log.warning("storage='int8': this processor has no AVX-512 VNNI; float32 is faster")
    return int8
