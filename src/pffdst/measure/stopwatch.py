"""Where a round's time goes: seconds by part, and a trace of individual operations on request."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar, final

import torch

from pffdst.core.messages import Timings

__all__ = ["TRACE_FILE", "Stopwatch", "tracing"]

TRACE_FILE: Final = "trace.json.gz"
_TRACED: Final = 2  # rounds, after a first warm-up round

T = TypeVar("T")


@final
class Stopwatch:
    """Adds up the seconds of a round by part.

    `PARTS` follow one another in this process: the plan, encoding for the cohort, waiting for clients, decoding and
    averaging what they send, evaluation, then logging and the checkpoint. The last two are those of the previous round,
    since a row is written before they end. `CLIENTS` are sums over the cohort, across all processes or streams.
    """

    PARTS = ("plan", "encode", "clients", "aggregate", "evaluate", "log", "checkpoint")
    CLIENTS = ("client_decode", "client_train", "client_encode")

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the seconds inside towards a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._now[name] += time.perf_counter() - began  # type: ignore[assignment]

    def over(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Counts the seconds spent waiting for each item towards a part."""
        while True:
            with self.part(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def client(self, timings: Timings) -> None:
        """Adds the timings of a client's turn."""
        self._now.update(dict(zip(self.CLIENTS, (timings.decode, timings.train, timings.encode), strict=True)))

    def lap(self) -> dict[str, float]:
        """The seconds of every part since the last lap."""
        seconds = {name: float(self._now[name]) for name in (*self.PARTS, *self.CLIENTS)}
        self.total.update(self._now)
        self._now.clear()
        return seconds


@contextlib.contextmanager
def tracing(folder: Path | None) -> Iterator[Callable[[], None]]:
    """Traces the second and third round with torch.profiler into `folder`; call the yielded function after every round.

    The trace opens in chrome://tracing or Perfetto. It covers this process and its work on the device. None traces
    nothing.
    """
    if folder is None:
        yield lambda: None
        return
    profiler = torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=_TRACED, repeat=1),
        on_trace_ready=lambda found: found.export_chrome_trace(str(folder / TRACE_FILE)),
    )
    with profiler:
        yield profiler.step
