"""Predictions of an exported network, by the sparse kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import Folded
from ersparse.export.single_image import FewImages
from ersparse.kernels.compile import KernelsUnavailable
from ersparse.kernels.network import SparseNetwork

AT_ONCE = 512  # images; more are taken in turns
FEW = 4  # images, up to which one after the other is faster than sixteen abreast

log = logging.getLogger("ersparse")


class Predictor:
    """Logits of images, in any number.

    Attributes:
        images: what the network takes.
        network: [B, channels, side, side], normalised -> logits [B, classes], in float32.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], images: sparse_file.Images) -> None:
        self.network, self.images = network, images

    @torch.no_grad()
    def __call__(self, images: Tensor | np.ndarray) -> Tensor:
        """Logits [N, classes].

        Args:
            images: uint8 [N, side, side, channels], as data sets have them, or float [N, channels, side, side],
                normalised, as training has them.

        Raises:
            UserError: they are neither, or none.
        """
        images, takes = torch.as_tensor(images), self.images
        pixels = images.dtype == torch.uint8
        one = (takes.side, takes.side, takes.channels) if pixels else (takes.channels, takes.side, takes.side)
        if images.shape[1:] != one or not (pixels or images.is_floating_point()):
            raise UserError(
                f"images={images.dtype} {list(images.shape)}: must be uint8 [N, {takes.side}, {takes.side}, "
                f"{takes.channels}] or float [N, {takes.channels}, {takes.side}, {takes.side}]"
            )
        if not len(images):
            raise UserError("images: must be one at least")
        parts = torch.split(images, AT_ONCE)
        return torch.cat([self.network((takes.normalised(p) if pixels else p).float()) for p in parts])


def load_sparse(path: str | Path) -> Predictor:
    """What `python -m ersparse export` wrote, ready to predict on the CPU.

    Without a compiler it computes with dense layers, and says so.

    Raises:
        UserError: the file is damaged, of another version, or none of ours.
    """
    network, images = sparse_file.read(Path(path))
    try:
        return Predictor(computed(network, images), images)
    except KernelsUnavailable as reason:
        log.warning(f"{reason}; predicting with dense layers, to the same result")
        return Predictor(network, images)


def computed(network: Folded, images: sparse_file.Images) -> Callable[[Tensor], Tensor]:
    """What computes `network` with its kept weights: one image or sixteen at a time, as the batch is.

    Raises:
        KernelsUnavailable: they cannot be compiled here.
    """
    few, many = FewImages(network, images.channels, images.side), SparseNetwork(network).eval()
    return lambda x: few(x) if len(x) <= FEW else many(x)
