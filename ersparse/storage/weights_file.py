"""Weights to start from: the network of a finished run, or a state dict that any other program has written."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ersparse.errors import UserError
from ersparse.storage.run_folder import network_tensors, read_network

SUFFIXES = (".pt", ".pth", ".safetensors")
NESTED = ("state_dict", "model_state_dict", "model", "network", "net")  # keys of checkpoints that hold the state dict
COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm, and of averages of networks


def read_weights(path: Path, where: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a network by name, and the SHA-256 of their file.

    Names lose the prefixes that wrappers add: `_orig_mod.` of `torch.compile`, and `module.` of DataParallel, DDP and
    averages, if all names have it. Nothing but tensors is read from a file, so it may be anybody's.

    Args:
        path: folder of a finished run, or a file that ends in .pt, .pth or .safetensors.
        where: the key and value that name the file, with which error messages begin.

    Raises:
        UserError: the file cannot be read, is damaged, or has no state dict.
    """
    if path.is_dir() or path.suffix not in SUFFIXES:
        return read_network(path, where)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from None
    try:
        content = load(data) if path.suffix == ".safetensors" else _unpickled(data)
    except Exception as error:  # damaged bytes make the unpickler raise anything, such as IndexError or struct.error
        reason = str(error).split("\n")[0].split(". ")[0][:120] or type(error).__name__
        raise UserError(
            f"{where}: is damaged or has more than tensors, must be a state dict as of "
            f"torch.save(network.state_dict(), ...) ({reason})"
        ) from None
    return _without_prefixes(_state_dict(content, where)), hashlib.sha256(data).hexdigest()


def _unpickled(data: bytes) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of the pickle protocol; what cannot be read is an error
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors by name, from a state dict or a checkpoint that has one."""
    while isinstance(content, Mapping):
        nested = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            break
        content = nested
    tensors = content if isinstance(content, Mapping) else {}
    found = {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    if not found:
        raise UserError(f"{where}: has no tensors by name; must be a state dict, perhaps in {', '.join(NESTED)}")
    return found


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items() if name != "n_averaged"}
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def fitting(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, model: str, fresh: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the part of `state` that a network takes, masks included, and the names of its tensors that are left out.

    Args:
        state: tensors of a network by name, perhaps with masks.
        expected: the state dict of the network.
        where: the key and value that name the file, with which error messages begin.
        model: name of the model, for messages.
        fresh: leave out what does not fit; otherwise that is an error.

    Raises:
        UserError: a tensor is missing, is not one of the network, or has another shape; or none fits.
    """
    theirs = network_tensors(state)
    extra = sorted(theirs.keys() - expected.keys())
    wrong = [name for name, tensor in expected.items() if name not in theirs or theirs[name].shape != tensor.shape]
    wrong = [name for name in wrong if name in theirs or not name.endswith(COUNTERS)]
    if wrong == [name for name in expected if not name.endswith(COUNTERS)] and fresh:
        raise UserError(f"{where}: has no tensor that fits model={model}, such as {wrong[0]}")
    if not fresh:
        _refuse(theirs, expected, extra, wrong, f"{where}: ", model)
    left = {*extra, *wrong}
    return {key: tensor for key, tensor in state.items() if not left & {key, key.removesuffix("_mask")}}, wrong


def _refuse(
    theirs: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    extra: list[str],
    wrong: list[str],
    where: str,
    model: str,
) -> None:
    hint = "; model.init_mismatch=fresh leaves out what does not fit"
    if extra:
        raise UserError(f"{where}has {extra[0]}, model={model} has no such tensor{hint}")
    if wrong:
        name = wrong[0]
        found = list(theirs[name].shape) if name in theirs else "missing"
        raise UserError(f"{where}its {name} is {found}, model={model} has {list(expected[name].shape)}{hint}")
