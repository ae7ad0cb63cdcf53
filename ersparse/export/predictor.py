"""Inference with exported networks, by the sparse kernels where they can be compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork
from ersparse.export.single_image import SingleImageNetwork
from ersparse.kernels.buffers import VECTOR_SIZE, Precision
from ersparse.kernels.compile import KernelsUnavailable
from ersparse.kernels.network import SparseNetwork

MAX_BATCH_SIZE = 512  # images; larger inputs are split
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
        self._check(images)
        batches = torch.split(images, MAX_BATCH_SIZE)
        if images.dtype == torch.uint8:
            return torch.cat([self.network(self.inputs.normalize(batch)) for batch in batches])
        return torch.cat([self.network(batch.float()) for batch in batches])

    def _check(self, images: Tensor) -> None:
        side, channels = self.inputs.side, self.inputs.channels
        is_uint8 = images.dtype == torch.uint8
        shape = (side, side, channels) if is_uint8 else (channels, side, side)
        if images.shape[1:] != shape or not (is_uint8 or images.is_floating_point()):
            raise UserError(
                f"images={images.dtype} {list(images.shape)}: must be uint8 [N, {side}, {side}, {channels}] "
                f"or float [N, {channels}, {side}, {side}]"
            )
        if not len(images):
            raise UserError(f"images={images.dtype} {list(images.shape)}: must contain at least one image")


def load_sparse(path: str | Path, storage: str = "float32") -> Predictor:
    """Load a file that `python -m ersparse export` wrote, for inference on the CPU.

    Without a C++ compiler the network is computed by PyTorch's dense layers, with a warning.

    Args:
        path: the path of the file, by default `network.sparse` in the run folder.
        storage: the type in which activations are stored between layers: "float32", or "bfloat16", which is faster
            for batches of more than 16 images and rounds activations to 8 bits of precision; weights and sums are
            float32 in either case, and so are the activations of smaller batches.

    Raises:
        UserError: the file is missing, damaged, of another version, or not a sparse network, or there is no such
            storage.
    """
    if storage not in STORAGE:
        raise UserError(f"storage={storage!r}: must be one of {', '.join(STORAGE)}")
    network, inputs = sparse_file.read(Path(path))
    try:
        return Predictor(sparse_forward(network, inputs, STORAGE[storage]), inputs)
    except KernelsUnavailable as reason:
        log.warning(f"{reason}; predicting with dense layers, to the same result")
        return Predictor(network, inputs)


def sparse_forward(
    network: FoldedNetwork, inputs: sparse_file.InputSpec, storage: torch.dtype = torch.float32
) -> Callable[[Tensor], Tensor]:
    """Return a function that computes `network` by the sparse kernels, in the layout that suits the batch size.

    Args:
        network: with masks attached.
        inputs: the images that it expects.
        storage: the type of activations in batches of more than `VECTOR_SIZE` images.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
    """
    single, batched = SingleImageNetwork(network, inputs.channels, inputs.side), SparseNetwork(network).eval()
    large = batched if storage == torch.float32 else SparseNetwork(network, Precision(storage_dtype=storage)).eval()

    def forward(x: Tensor) -> Tensor:
        """Compute the logits of a batch."""
        suited = single if len(x) <= MAX_SINGLE_IMAGES else batched if len(x) <= VECTOR_SIZE else large
        return suited(x)

    return forward
