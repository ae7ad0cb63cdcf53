"""Sparse network files, `network.sparse`: safetensors files that hold each layer in compressed sparse rows.

Any safetensors library can read them. The metadata, all of them strings, are

    format    "ersparse.network"
    version   "1"
    network   JSON: "images" (channels, side, mean and std of pixels in [0, 1]), "parts", the steps of folded.py, and
              "ranges", if they were measured for 8-bit prediction: for the images and for each step a list of pairs
    sha256    digest of `network` and of all tensors in the order of their names

For each step n, counted from 1, whose layer has weights [n_out, n_in / groups, height, width], the file holds

    n.rows      uint32 [n_out + 1]: the kept weights of output channel c are those from rows[c] to rows[c + 1]
    n.columns   uint16, or uint32 if that is too small: index of each kept weight in weight[c].flatten()
    n.values    float32: the kept weights, scaled by the folded batch normalisation
    n.bias      float32 [n_out]
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export.folded import FoldedNetwork
from ersparse.export.ranges import Range, Ranges
from ersparse.export.step_fields import fields_of, step_from
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import attach, masks_of
from ersparse.storage.atomic import write_bytes

FORMAT, VERSION = "ersparse.network", "1"
NamedArrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class InputSpec:
    """The images that a network expects: square, normalised by the channel means and deviations of pixels in [0, 1].

    Attributes:
        channels: the channels of an image.
        side: height and width in pixels.
        mean, std: [channels].
    """

    channels: int
    side: int
    mean: list[float]
    std: list[float]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Convert uint8 [N, side, side, channels] to normalised float32 [N, channels, side, side]."""
        mean, std = 255 * torch.tensor([self.mean, self.std])
        normalized: Tensor = (pixels.float() - mean) / std
        return normalized.permute(0, 3, 1, 2)


class SparseFile(NamedTuple):
    """What a file holds.

    Attributes:
        network: with masks attached.
        inputs: the images that it expects.
        ranges: of its tensors on sample images; None if they were not measured.
    """

    network: FoldedNetwork
    inputs: InputSpec
    ranges: Ranges | None


def write(path: Path, network: FoldedNetwork, inputs: InputSpec, ranges: Ranges | None = None) -> None:
    """Write the file atomically."""
    arrays = _compress(network)
    fields: dict[str, Any] = {"images": asdict(inputs), "parts": [fields_of(step) for step in network.steps]}
    description = json.dumps(fields | ({"ranges": ranges} if ranges else {}))
    metadata = {"format": FORMAT, "version": VERSION, "network": description, "sha256": _digest(description, arrays)}
    write_bytes(path, save(arrays, metadata))


def read(path: Path) -> SparseFile:
    """Read a file.

    Raises:
        UserError: the file is missing, damaged, or of another version.
    """
    metadata, arrays = _read_verified(path)
    description = json.loads(metadata["network"])
    network = FoldedNetwork([step_from(fields) for fields in description["parts"]])
    _decompress(network, arrays)
    ranges = [[Range(*limits) for limits in stages] for stages in description.get("ranges", ())]
    return SparseFile(network, InputSpec(**description["images"]), ranges or None)


def _read_verified(path: Path) -> tuple[dict[str, str], NamedArrays]:
    """Return metadata and tensors of a file whose format, version and checksum are right."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; must be a file written by `ersparse export`")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path}: is not a sparse network; must be a file written by `ersparse export`")
            if (version := metadata.get("version")) != VERSION:
                raise UserError(f"{path}: version {version}, must be {VERSION}; export the run again")
            arrays = load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); export the run again") from None
    if metadata.get("sha256") != _digest(metadata["network"], arrays):
        raise UserError(f"{path}: damaged (checksum mismatch); export the run again")
    return metadata, arrays


def _numbered_layers(network: FoldedNetwork) -> list[tuple[int, str, Any]]:
    """Return for each layer the number of its step, from 1, the name of its weight in `network`, and its module."""
    numbers = [number for number, step in enumerate(network.steps, 1) if step.layer]
    weights = prunable_weights(network).items()
    return [(n, name, held.module) for n, (name, held) in zip(numbers, weights, strict=True)]


def _compress(network: FoldedNetwork) -> NamedArrays:
    masks, arrays = masks_of(network), NamedArrays()
    for number, name, module in _numbered_layers(network):
        mask, weight = masks[name].flatten(1).numpy(), module.weight.flatten(1).numpy()
        arrays |= {
            f"{number}.rows": np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.uint32),
            f"{number}.columns": np.nonzero(mask)[1].astype(np.min_scalar_type(max(256, mask.shape[1] - 1))),
            f"{number}.values": weight[mask],
            f"{number}.bias": module.bias.numpy(),
        }
    return arrays


def _decompress(network: FoldedNetwork, arrays: NamedArrays) -> None:
    """Copy the weights and biases into `network`, and attach its masks."""
    masks = {}
    for number, name, module in _numbered_layers(network):
        rows, columns, values, bias = (arrays[f"{number}.{key}"] for key in ("rows", "columns", "values", "bias"))
        mask, weight = np.zeros((2, len(bias), module.weight[0].numel()), np.float32)
        kept = np.repeat(np.arange(len(bias)), np.diff(rows)), columns
        mask[kept], weight[kept] = 1, values
        module.weight.copy_(torch.from_numpy(weight).view_as(module.weight))
        module.bias.copy_(torch.from_numpy(bias))
        masks[name] = torch.from_numpy(mask).view_as(module.weight).bool()
    attach(network, masks)


def _digest(description: str, arrays: NamedArrays) -> str:
    state = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(arrays[name].tobytes())
    return state.hexdigest()
