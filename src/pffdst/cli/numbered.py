"""Prefixes a job's lines with its number when jobs run in parallel and share a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO, final

__all__ = ["numbered"]


@contextmanager
def numbered(number: int | str | None) -> Iterator[None]:
    """Inside, every line printed or logged to the terminal begins with `[number] `; None changes nothing."""
    if number is None:
        yield
        return
    prefix = f"[{number}] "
    out, err = _Numbered(sys.stdout, prefix), _Numbered(sys.stderr, prefix)
    streams = {id(out.stream): out, id(err.stream): err}
    with ExitStack() as undo:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in streams:
                undo.callback(handler.setStream, handler.stream)
                handler.setStream(streams[id(handler.stream)])
        undo.enter_context(redirect_stdout(out))
        undo.enter_context(redirect_stderr(err))
        yield


@final
class _Numbered:
    """A text stream whose lines begin with a prefix. Lines are written whole, so those of two jobs do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", "utf-8")
        self._prefix = prefix
        self._begun = ""

    def write(self, text: str) -> int:
        """Buffers the last line until it ends."""
        *lines, self._begun = (self._begun + text).split("\n")
        self.stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Flushes complete lines; an incomplete one waits."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Always False: a moving progress bar would garble the lines of other jobs."""
        return False

    def fileno(self) -> int:
        """The terminal's file descriptor."""
        return self.stream.fileno()
