"""How much memory a run uses, over all its processes."""

from __future__ import annotations

import ctypes
import errno
import sys
from typing import final

import psutil

__all__ = ["PeakMemory", "is_out_of_memory", "memory_mb", "release_free_memory"]


def memory_mb() -> float:
    """Memory of this process and its descendants now, in MB (1e6 bytes).

    A page shared by several processes is divided among them (PSS) if the system reports it; else it counts in each.
    """
    this = psutil.Process()
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(info, "pss", 0) or info.rss
    return total / 1e6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory, in Python's, the system's or torch's own words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    signs = ("cannot allocate memory", "can't allocate memory", "out of memory", "not enough memory", "failed to map")
    return any(sign in str(error).lower() for sign in signs)


def release_free_memory() -> None:
    """Returns memory freed by this process to the system: the C library keeps it, and evaluations fragment it.

    Does nothing if the C library is not glibc.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@final
class PeakMemory:
    """The largest of the samples taken."""

    def __init__(self) -> None:
        self.mb = 0.0

    def sample(self) -> None:
        """Takes a sample: measures the memory in use now."""
        self.mb = max(self.mb, memory_mb())
