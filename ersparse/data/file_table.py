"""Image files as a few arrays: a million names as Python objects would take gigabytes in a dozen worker processes."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np


class ImageFile(NamedTuple):
    """An image file.

    Attributes:
        name: path below the root, with slashes.
        label: number of its class.
        size: in bytes; 0 for a broken link.
        modified: time of the last modification in nanoseconds.
    """

    name: str
    label: int
    size: int
    modified: int


class FileTable(Sequence[ImageFile]):
    """A sequence of image files, kept in arrays.

    Args:
        names: all names, one after the other, as bytes.
        ends: where each name ends in `names`, int64 [N].
        numbers: label, size and time of modification of each file, int64 [N, 3].
    """

    def __init__(self, names: bytes, ends: np.ndarray, numbers: np.ndarray) -> None:
        self._names, self._ends, self._numbers = names, ends, numbers

    @classmethod
    def of(cls, files: Iterable[ImageFile]) -> FileTable:
        """Return a table of `files`."""
        names, ends, numbers = bytearray(), array("q"), array("q")
        for name, *rest in files:
            names += os.fsencode(name)
            ends.append(len(names))
            numbers.extend(rest)  # type: ignore[arg-type]
        return cls(bytes(names), np.array(ends, np.int64), np.array(numbers, np.int64).reshape(-1, 3))

    @property
    def labels(self) -> np.ndarray:
        """The number of the class of each file, int64 [N]."""
        return np.ascontiguousarray(self._numbers[:, 0])

    @property
    def total_size(self) -> int:
        """The size of all files in bytes."""
        return int(self._numbers[:, 1].sum())

    @property
    def longest_name(self) -> int:
        """The length of the longest name in bytes."""
        return int(np.diff(self._ends, prepend=0).max(initial=0))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageFile]: ...
    def __getitem__(self, index: int | slice) -> ImageFile | list[ImageFile]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        name = os.fsdecode(self._names[start : int(self._ends[index])])
        return ImageFile(name, *self._numbers[index].tolist())

    def __iter__(self) -> Iterator[ImageFile]:
        return (self[number] for number in range(len(self)))

    def without(self, names: Iterable[str]) -> FileTable:
        """Return the table without the files of these names."""
        left_out = set(names)
        return FileTable.of(file for file in self if file.name not in left_out) if left_out else self


def by_name(tables: Sequence[FileTable]) -> Iterator[ImageFile]:
    """Yield the files of all tables in the order of their names."""
    longest = max((table.longest_name for table in tables), default=0)
    names = np.empty(sum(map(len, tables)), f"S{max(1, longest)}")  # whose order is that of the names
    for number, file in enumerate(itertools.chain(*tables)):
        names[number] = os.fsencode(file.name)
    ends = np.cumsum([0, *map(len, tables)])
    for position in np.argsort(names, kind="stable").tolist():
        table = int(np.searchsorted(ends, position, "right")) - 1
        yield tables[table][position - int(ends[table])]
