"""A device without hardware: tensors that report the device `fake:0`, whose operations are computed on the CPU.

It refuses what a GPU refuses: operands on two devices, and NumPy on device memory. It counts what a GPU's host would
wait for: values read by the host, and copies that are not asynchronous. Results equal those of the CPU bit for bit, so
a run on it can be compared with the same run on the CPU.

    with fake_device(), Watch() as seen:
        ...                      # code under test, with tensors on "fake"
    seen.waits                   # Counter of (operation, "file:line" of the innermost frame in ersparse)

Not imitated: autocast, streams, cuDNN, collectives of several devices, and the rounding of GPU arithmetic.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ersparse.sparse import mask, mask_buffer
from ersparse.sparse.mask_buffer import MaskBuffer
from ersparse.sparse.mask_buffer import as_mask_buffer as mask_buffer_on_host
from ersparse.sparse.mask_buffer import plain as plain_on_host

NAME = "fake"
VALUES = {"_local_scalar_dense", "is_nonzero", "equal"}  # results are Python numbers
SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}  # depend on values
COPIES = {"_to_copy", "copy_", "_copy_from", "_foreach_copy_"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
FREE = {"detach", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
WATCHES: list[Watch] = []
RECORDINGS = []  # at most one


class DeviceTensor(torch.Tensor):
    """A tensor that reports the device fake:0; `host` holds its values."""

    @staticmethod
    def __new__(cls, host):
        return torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, host):
        self.host = host

    def __repr__(self):
        return f"DeviceTensor({self.host!r})"

    def numpy(self, *args, **options):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def tolist(self):
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        copy = DeviceTensor(self.host.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return execute(function, args, kwargs or {})


class DeviceMask(MaskBuffer, DeviceTensor):
    """A mask buffer on the device: a wrapper of its own, since PyTorch re-labels ordinary tensors only."""


def as_mask_buffer(tensor):
    if not isinstance(tensor, DeviceTensor):
        return mask_buffer_on_host(tensor)
    buffer = DeviceMask(tensor.host)
    buffer.owner = None
    return buffer


def plain(tensor):
    if not isinstance(tensor, DeviceTensor):
        return plain_on_host(tensor)
    return DeviceTensor(tensor.host) if isinstance(tensor, DeviceMask) else tensor


class Watch:
    """Records the operations on the device during a `with` block.

    Attributes:
        operations: number of each operation that would launch a kernel.
        waits: number of operations for which the host would wait, by (operation, place in the code).
    """

    def __init__(self, refuse_waits=False):
        self.refuse_waits = refuse_waits
        self.operations, self.waits = Counter(), Counter()

    def __enter__(self):
        WATCHES.append(self)
        return self

    def __exit__(self, *_):
        WATCHES.remove(self)


def execute(function, args, kwargs):
    """Execute an operation with operands on the device, or with a result there, as the device would."""
    name = function._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    _check_devices(name, args, ours, tensors)
    target = kwargs.get("device")
    to_device = bool(ours) if target is None else torch.device(target).type == NAME
    _watch(function, name, args, kwargs, ours, tensors, to_device)
    host_args, host_kwargs = tree_map(
        lambda leaf: leaf.host if isinstance(leaf, DeviceTensor) else leaf, (args, kwargs)
    )
    if host_kwargs.get("device") is not None:
        host_kwargs["device"] = torch.device("cpu")
    if host_kwargs.get("pin_memory"):
        host_kwargs["pin_memory"] = False
    for recording in RECORDINGS:
        recording.keep_state((host_args, host_kwargs))
    result = function(*host_args, **host_kwargs)
    for recording in RECORDINGS:
        recording.add(function, host_args, host_kwargs, result)
    if name == "_to_copy" and to_device != bool(ours) and result is host_args[0]:
        result = result.clone()  # memory is never shared between devices
    if name in VALUES or not to_device:
        return result
    known = {id(tensor.host): tensor for tensor in ours}  # operations in place return their operand
    return tree_map(lambda leaf: _on_device(leaf, known), result)


def _on_device(leaf, known):
    if not isinstance(leaf, torch.Tensor) or isinstance(leaf, DeviceTensor):
        return leaf
    return known.get(id(leaf)) if id(leaf) in known else DeviceTensor(leaf)


def _check_devices(name, args, ours, tensors):
    """Refuse operands on two devices, except copies, indices on the host, and scalars, as PyTorch does."""
    on_host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor) and tensor.dim()]
    indexed = name in INDEXED and isinstance(args[0], DeviceTensor)
    if ours and on_host and name not in COPIES and not indexed:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
            f"({name}, {place()})"
        )


def _watch(function, name, args, kwargs, ours, tensors, to_device):
    wait = bool(ours) and (name in VALUES | SIZES or (name in INDEXED and _needs_host(tensors)))
    if name in COPIES and not kwargs.get("non_blocking", len(args) > 2 and args[2] is True):
        ends = [to_device if name == "_to_copy" else isinstance(args[0], DeviceTensor)]
        wait |= ends[0] != isinstance(args[0 if name == "_to_copy" else 1], DeviceTensor)
    for watch in WATCHES:
        if wait and watch.refuse_waits:
            raise RuntimeError(f"operation not permitted when stream is capturing ({name}, {place()})")
        if wait:
            watch.waits[name, place()] += 1
        if not function.is_view and name not in FREE:
            watch.operations[name] += 1


def _needs_host(tensors):
    """Return whether an index is boolean, whose number of elements the host has to know, or lies on the host."""
    return any(
        tensor.dtype in (torch.bool, torch.uint8) or not isinstance(tensor, DeviceTensor) for tensor in tensors[1:]
    )


def place():
    """Return "file:line" of the innermost frame in the package, or in Lightning or torchmetrics."""
    for folder in ("/ersparse/", "/pytorch_lightning/", "/torchmetrics/"):
        frame = sys._getframe(1)
        while frame:
            file = frame.f_code.co_filename
            if folder in file and ("site-packages" in file) == (folder != "/ersparse/"):
                return f"{file.split(folder, 1)[1]}:{frame.f_lineno}"
            frame = frame.f_back
    return "?"


class _Dispatch(TorchDispatchMode):
    """Sends operations that create or receive tensors of the device to `execute`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == NAME:
            return execute(function, args, kwargs)
        if DeviceTensor in types:
            return execute(function, args, kwargs)
        return function(*args, **kwargs)


class _Backend:
    """What PyTorch asks the module of a device for. It is available during `fake_device` alone."""

    available = False

    def is_available(self):
        return self.available

    def is_initialized(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def set_device(self, device):
        pass

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        pass

    def get_rng_state(self, *_):
        return torch.get_rng_state()

    def set_rng_state(self, *_):
        pass

    def synchronize(self, *_):
        pass


def _register():
    """Register the device with PyTorch; before the first backward pass of the process, which counts the devices."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    library = torch.library.Library("aten", "IMPL")

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return DeviceTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        return execute(torch.ops.aten.copy_.default, (target, source, non_blocking), {})

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


LIBRARY = _register()


@contextmanager
def fake_device():
    """Make `device="fake"` work during the `with` block."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `parameter.data = ...` would leave `host` behind
    _Backend.available = True  # DataParallel, for one, moves networks to whatever device is available
    try:
        with ExitStack() as stack:
            for module in (mask, mask_buffer):
                stack.enter_context(mock.patch.object(module, "as_mask_buffer", as_mask_buffer))
                stack.enter_context(mock.patch.object(module, "plain", plain))
            stack.enter_context(_Dispatch())
            yield torch.device(NAME, 0)
    finally:
        _Backend.available = False
        torch.__future__.set_overwrite_module_params_on_conversion(before)
