"""Tunes glibc's allocator for a process that handles megabyte messages all day.

By default every buffer of 1 MiB is a fresh mmap, and a page fault for each of its 256 pages costs
more than the copy into it. Measured in docs/performance.md. It is for the server process alone:
a library must not do this to a user's trainer.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_big_blocks() -> bool:
    """Makes malloc reuse big blocks. To be called before anything is allocated.

    Returns whether the C library knows `mallopt` (glibc does, musl and macOS do not).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_THRESHOLD, 1 << 30),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_TOP_PAD, 64 << 20),
        # What one of gRPC's threads allocates another one frees. With an arena a thread the free
        # blocks gather in the wrong ones, and the process grows.
        (_M_ARENA_MAX, 1),
    )
    results = [bool(mallopt(option, value)) for option, value in settings]
    return all(results)
