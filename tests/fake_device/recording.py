"""What CUDA graphs are to a GPU, for the fake device: operations are recorded, and executed again by a replay.

As on a GPU, recording leaves the state of the device as it was, refuses operations for which the host would wait, and
fixes the memory that operations read and write. A replay executes nothing but these operations on this memory.
"""

from contextlib import nullcontext
from typing import ClassVar

import torch
from fake_device.tensors import RECORDINGS, Watch
from torch.utils._pytree import tree_leaves


class FakeRecorder:
    """Takes the place of `CudaRecorder`.

    Attributes:
        recorded: all recordings.
    """

    recorded: ClassVar[list] = []

    def beside(self):
        return nullcontext()

    def record(self, step):
        recording = Recording()
        RECORDINGS.append(recording)
        try:
            with Watch(refuse_waits=True):
                outputs = step()
        finally:
            RECORDINGS.clear()
            recording.restore_state()
        self.recorded.append(recording)
        return outputs, recording.replay

    def forget(self):
        pass

    def address(self, tensor):
        return tensor.data.host.data_ptr()


class Recording:
    """Operations in their order.

    Attributes:
        operations: function, arguments and result of each operation.
        replays: how often they were executed again.
    """

    def __init__(self):
        self.operations, self.replays = [], 0
        self.before, self.own = {}, set()

    def keep_state(self, arguments):
        """Copy the memory that an operation could change, unless the recording has allocated it."""
        for storage in self._storages(arguments):
            if storage.data_ptr() not in self.own:
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def add(self, function, args, kwargs, result):
        self.operations.append((function, args, kwargs, result))
        known = {storage.data_ptr() for storage in self._storages((args, kwargs))}
        self.own |= {storage.data_ptr() for storage in self._storages(result)} - known

    def restore_state(self):
        for storage, values in self.before.values():
            storage.copy_(values)

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.operations:
            if not function.is_view:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.copy_(new)

    @staticmethod
    def _storages(tree):
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
