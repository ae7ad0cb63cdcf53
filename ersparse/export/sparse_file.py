"""Sparse network files, `network.sparse`: a safetensors file whose layers are compressed rows.

Any safetensors library reads it. Its metadata, all of them strings, are

    format    "ersparse.network"
    version   "1"
    network   JSON: "images" (channels, side, mean and std for pixels from 0 to 1) and "parts", as in folded.py
    sha256    of `network` and all tensors in the order of their names

and for the n-th part, from 1, it has, if that part has a layer with weights [n_out, n_in / groups, height, width],

    n.rows      uint32 [n_out + 1]: the kept weights of output channel c are those from rows[c] to rows[c + 1]
    n.columns   uint16, or uint32 where that is too small: place of each of them in weight[c], read as one vector
    n.values    float32: the weights, times what normalises their channel
    n.bias      float32 [n_out]
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export.folded import Folded, Layer, Part
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.mask import attach, masks_of
from ersparse.storage.atomic import write_bytes

FORMAT, VERSION = "ersparse.network", "1"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Images:
    """What the network takes: square images, normalised by `mean` and `std` [channels] of pixels from 0 to 1."""

    channels: int
    side: int
    mean: list[float]
    std: list[float]

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [N, side, side, channels] -> float32 [N, channels, side, side]."""
        mean, std = 255 * torch.tensor([self.mean, self.std])
        normalised: Tensor = (pixels.float() - mean) / std
        return normalised.permute(0, 3, 1, 2)


def write(path: Path, network: Folded, images: Images) -> None:
    """The file is there whole, or not at all."""
    arrays = _compressed(network)
    described = json.dumps({"images": asdict(images), "parts": [asdict(part) for part in network.parts]})
    metadata = {"format": FORMAT, "version": VERSION, "network": described, "sha256": _digest(described, arrays)}
    write_bytes(path, save(arrays, metadata))


def read(path: Path) -> tuple[Folded, Images]:
    """The network, its masks attached, and what it takes.

    Raises:
        UserError: the file is not there, damaged, or of another version.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path}: is no sparse network; must be a file that `ersparse export` wrote")
            if (version := metadata.get("version")) != VERSION:
                raise UserError(f"{path}: version {version}, must be {VERSION}; export the run again")
            arrays = load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); export the run again") from None
    if metadata.get("sha256") != _digest(metadata["network"], arrays):
        raise UserError(f"{path}: damaged (its checksum is another); export the run again")
    described = json.loads(metadata["network"])
    network = Folded([_part(part) for part in described["parts"]])
    _fill(network, arrays)
    return network, Images(**described["images"])


def _part(described: dict[str, Any]) -> Part:
    layer = described.pop("layer")
    return Part(layer=Layer(**layer) if layer else None, **described)


def _numbered(network: Folded) -> list[tuple[int, str, Any]]:
    """The number of each part with a layer, from 1, the name of its weight in `network`, and what holds it."""
    numbers = [number for number, part in enumerate(network.parts, 1) if part.layer]
    return [(n, *item) for n, item in zip(numbers, prunable_modules(network).items(), strict=True)]


def _compressed(network: Folded) -> Arrays:
    masks, arrays = masks_of(network), Arrays()
    for number, name, module in _numbered(network):
        kept, weight = masks[name].flatten(1).numpy(), module.weight.flatten(1).numpy()
        arrays |= {
            f"{number}.rows": np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.uint32),
            f"{number}.columns": np.nonzero(kept)[1].astype(np.min_scalar_type(max(256, kept.shape[1] - 1))),
            f"{number}.values": weight[kept],
            f"{number}.bias": module.bias.numpy(),
        }
    return arrays


def _fill(network: Folded, arrays: Arrays) -> None:
    masks = {}
    for number, name, module in _numbered(network):
        rows, columns, values, bias = (arrays[f"{number}.{key}"] for key in ("rows", "columns", "values", "bias"))
        kept, weight = np.zeros((2, len(bias), module.weight[0].numel()), np.float32)
        at = np.repeat(np.arange(len(bias)), np.diff(rows)), columns
        kept[at], weight[at] = 1, values
        module.weight.copy_(torch.from_numpy(weight).view_as(module.weight))
        module.bias.copy_(torch.from_numpy(bias))
        masks[name] = torch.from_numpy(kept).view_as(module.weight).bool()
    attach(network, masks)


def _digest(described: str, arrays: Arrays) -> str:
    state = hashlib.sha256(described.encode())
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(arrays[name].tobytes())
    return state.hexdigest()
