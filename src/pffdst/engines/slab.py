"""Memory in which a worker leaves the bytes of its updates: a pipe would copy them four times, a piece at a time."""

from __future__ import annotations

import mmap
from typing import final

__all__ = ["Slab"]


@final
class Slab:
    """Room for two payloads of at most `size` bytes, shared by this process and those forked from it.

    One side puts and says so, the other takes in the same order; a third may be put once the first was taken. What
    nobody has written to takes no memory. OSError where the system gives none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, 2 * size)
        self._puts = self._takes = 0  # each side counts its own

    def put(self, payload: bytes) -> bool:
        """Leaves bytes for the other side; False where they are more than there is room for."""
        if len(payload) > self._size:
            return False
        at = self._puts % 2 * self._size
        self._memory[at : at + len(payload)] = payload
        self._puts += 1
        return True

    def take(self, length: int) -> bytes:
        """The bytes that were put first of those not taken yet."""
        at = self._takes % 2 * self._size
        self._takes += 1
        return self._memory[at : at + length]

    def release(self) -> None:
        """Gives the pages back until something is put again."""
        self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Lets go of the memory."""
        self._memory.close()
