"""The modelled time of a round: when each answer arrives, and when the server closes the round."""

from __future__ import annotations

from functools import cached_property
from typing import final

from pffdst.methods.time import TimeModel, Untimed

__all__ = ["RoundClock"]


@final
class RoundClock:
    """All `asked` clients start together; a round closes at the K-th answer (`wanted`) or at the `deadline` (seconds).

    With fewer than K answers the server waits for the deadline or, without one, until every client has answered or its
    connection has broken. If times are equal, the client with the lower number comes first. If time is not modelled,
    every answer is in time and a round takes no time.
    """

    def __init__(self, model: TimeModel, seed: int, asked: int, wanted: int, deadline: float | None = None) -> None:
        self._model, self._seed = model, seed
        self._asked, self._wanted, self._deadline = asked, wanted, deadline
        self.timed = not isinstance(model, Untimed)
        self._in: dict[int, float] = {}
        self._broken: list[float] = []

    @property
    def needs_all(self) -> bool:
        """Whether late clients are only known once all answers are in, because more are asked than wanted."""
        return self.timed and self._asked > self._wanted

    def answers(self, client: int, *, down: int, flops: int, up: int) -> None:
        """Records a client's turn: bytes down, operations, bytes up."""
        if (seconds := self._seconds(client, down, flops, up)) is not None:
            self._in[client] = seconds

    def breaks(self, client: int, *, down: int, flops: int = 0) -> None:
        """Records the turn of a client that is lost after so many bytes down and operations."""
        if (seconds := self._seconds(client, down, flops, 0)) is not None:
            self._broken.append(seconds)

    def late(self, client: int) -> bool:
        """Whether a client's answer came after the round closed; with `needs_all`, ask only once all are in."""
        seconds = self._in.get(client)
        if seconds is None:
            return False
        if self._deadline is not None and seconds > self._deadline:
            return True
        return self.needs_all and client not in self._first

    def closed(self) -> float | None:
        """Seconds that the round took; None if time is not modelled."""
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
        """The first K clients to answer by the deadline."""
        by = sorted((seconds, client) for client, seconds in self._in.items())
        return frozenset(c for s, c in by[: self._wanted] if self._deadline is None or s <= self._deadline)
