"""Memory in which a worker leaves the bytes of its update: a pipe would copy them four times, a piece at a time."""

from __future__ import annotations

import mmap
from typing import final

__all__ = ["Slab"]


@final
class Slab:
    """`size` bytes that this process and those forked from it share; what nobody has written to takes no memory.

    One side puts, says so to the other, and puts again once the other has taken. OSError where there is no such memory.
    """

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size)

    def put(self, payload: bytes) -> bool:
        """Leaves bytes for the other side; False where they are more than there is room for."""
        if len(payload) > len(self._memory):
            return False
        self._memory[: len(payload)] = payload
        return True

    def take(self, length: int) -> bytes:
        """The bytes that were put last."""
        return self._memory[:length]

    def release(self) -> None:
        """Gives the pages back until something is put again."""
        self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Lets go of the memory."""
        self._memory.close()
