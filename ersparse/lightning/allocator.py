"""Settings of the C library's memory allocator for training on a CPU."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of mallopt(3)


def keep_freed() -> None:
    """Make glibc keep freed memory in the process for later allocations, instead of returning it to the system.

    Every training step on a CPU allocates and frees its activations. glibc returns much of that memory to the system,
    depending on what lies at the end of the heap, and the kernel clears each page again in the next step; this takes up
    to a tenth of a step. Allocators other than glibc's are unaffected.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)
