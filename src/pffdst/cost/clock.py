"""The modelled time of a round: when each answer is in, and when the server closes."""

from __future__ import annotations

from functools import cached_property
from typing import final

from pffdst.methods.time import TimeModel, Untimed

__all__ = ["RoundClock"]


@final
class RoundClock:
    """All `asked` begin together; the server closes at the K-th answer (`wanted`), or at the `deadline` in seconds.

    With fewer answers than that it waits for the deadline; without a deadline until every client has answered or its
    connection broke. Of equal times the lower number of a client comes first. Where time is not modelled, every answer
    is in time and a round takes none.
    """

    def __init__(self, model: TimeModel, seed: int, asked: int, wanted: int, deadline: float | None = None) -> None:
        self._model, self._seed = model, seed
        self._asked, self._wanted, self._deadline = asked, wanted, deadline
        self.timed = not isinstance(model, Untimed)
        self._in: dict[int, float] = {}
        self._broken: list[float] = []

    @property
    def needs_all(self) -> bool:
        """Whether who is late is known only once all answers are in: more are asked than are wanted."""
        return self.timed and self._asked > self._wanted

    def answers(self, client: int, *, down: int, flops: int, up: int) -> None:
        """A client's turn: bytes down, operations, bytes up."""
        if (seconds := self._seconds(client, down, flops, up)) is not None:
            self._in[client] = seconds

    def breaks(self, client: int, *, down: int, flops: int = 0) -> None:
        """The turn of a client that is lost after so many bytes down and operations."""
        if (seconds := self._seconds(client, down, flops, 0)) is not None:
            self._broken.append(seconds)

    def late(self, client: int) -> bool:
        """Whether a client's answer comes when the round is closed; with `needs_all` to be asked once all are in."""
        seconds = self._in.get(client)
        if seconds is None:
            return False
        if self._deadline is not None and seconds > self._deadline:
            return True
        return self.needs_all and client not in self._first

    def closed(self) -> float | None:
        """Seconds that the round took; None where time is not modelled."""
        if not self.timed:
            return None
        found = [self._in[client] for client in self._first]
        if len(found) < min(self._wanted, self._asked):
            return max([0.0, *self._broken, *found]) if self._deadline is None else self._deadline
        return max(found, default=0.0)

    def _seconds(self, client: int, down: int, flops: int, up: int) -> float | None:
        device = self._model.device(client, self._seed)
        return None if device is None else device.seconds(down=down, flops=flops, up=up)

    @cached_property
    def _first(self) -> frozenset[int]:
        """The first K that answer by the deadline."""
        by = sorted((seconds, client) for client, seconds in self._in.items())
        return frozenset(c for s, c in by[: self._wanted] if self._deadline is None or s <= self._deadline)
