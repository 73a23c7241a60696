"""Output that is no longer read, as after `| head`: the run continues to its end without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, final

__all__ = ["outlived"]


@contextmanager
def outlived(quiet: bool = False) -> Iterator[None]:
    """Inside, a closed standard output stops nothing: what is printed to it is dropped, with one notice.

    `quiet` suppresses the notice. Standard error is treated the same way, always without a notice.
    """
    out = _Lasting(sys.stdout, "" if quiet else "the output is no longer read: it is dropped and the run continues")
    with redirect_stderr(_Lasting(sys.stderr, "")), redirect_stdout(out):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


@final
class _Lasting:
    """A text stream that discards everything once its reader is gone."""

    def __init__(self, stream: TextIO, told: str) -> None:
        self._stream = stream
        self._told = told

    def write(self, text: str) -> int:
        """Returns the length of the text, whether or not it is read."""
        self._lasting(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered, or drops it."""
        self._lasting(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lasting(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what the stream still buffers goes there too
            os.close(nowhere)
            if self._told:
                print(self._told, file=sys.stderr)
