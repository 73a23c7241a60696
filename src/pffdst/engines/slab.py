"""Shared memory for the bytes of a worker's updates: a pipe would copy them four times, piece by piece."""

from __future__ import annotations

import mmap
from typing import final

__all__ = ["Slab"]


@final
class Slab:
    """Room for two payloads of at most `size` bytes, shared by this process and its forks.

    One side puts and reports it, the other takes in the same order; a third may be put once the first was taken.
    Pages never written to take no memory. OSError if the system provides none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, 2 * size)
        self._puts = self._takes = 0  # each side counts its own

    def put(self, payload: bytes) -> bool:
        """Stores bytes for the other side; False if they do not fit."""
        if len(payload) > self._size:
            return False
        at = self._puts % 2 * self._size
        self._memory[at : at + len(payload)] = payload
        self._puts += 1
        return True

    def take(self, length: int) -> bytes:
        """The oldest bytes not taken yet."""
        at = self._takes % 2 * self._size
        self._takes += 1
        return self._memory[at : at + length]

    def release(self) -> None:
        """Frees the pages until something is put again."""
        self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Frees the memory."""
        self._memory.close()
