"""Freed memory is reused, as the number of page faults shows."""

import platform
import resource

import pytest
import torch

from ersparse.lightning.allocator import keep_freed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_freed_memory_is_reused_without_page_faults():
    """48 MiB are 12288 pages of 4 KiB, more than glibc keeps of its own accord.

    The first rounds may need new ones: small pieces go to its caches, seven of a size, and keep a block from growing
    together again.
    """
    keep_freed()
    faults = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(48 << 18)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert max(faults[-3:]) < 100
