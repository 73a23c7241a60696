"""Messages between the server, the engines and the clients of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

from torch import Tensor

from pffdst.core.model import Stage
from pffdst.core.positions import Positions

__all__ = ["ClientTask", "Kept", "Residual", "RoundPlan", "Timings", "Update"]


@final
@dataclass(frozen=True)
class RoundPlan:
    """The server's decisions for round t before anything is sent: `cohort` is asked, `wanted` (K) updates suffice.

    Both have the same size unless more clients are asked than wanted, or fewer are available.
    """

    t: int
    stage: Stage
    cohort: tuple[int, ...]
    pruned: int = 0
    grown: int = 0
    froze: bool = False
    wanted: int = 0


@final
@dataclass(frozen=True)
class ClientTask:
    """One client's work in a round: the bytes it receives in round t. They contain all that it may know."""

    client: int
    t: int
    payload: bytes


@final
@dataclass(frozen=True, eq=False)
class Residual:
    """The rounding error of a client's update: `values` [k] at the positions `at`."""

    at: Positions
    values: Tensor


class Timings(NamedTuple):
    """Seconds that a client spent decoding, training and encoding."""

    decode: float = 0.0
    train: float = 0.0
    encode: float = 0.0


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """What a client keeps for itself between rounds, besides what it was sent.

    `residual` is the rounding error of its last update; `memory` is what its rules keep, by name.
    """

    residual: Residual | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether there is something to keep."""
        return self.residual is not None or bool(self.memory)


@final
@dataclass(frozen=True)
class Update:
    """A client's answer: bytes, or why there are none.

    `timings` and `kept` are not sent: the client keeps `kept` for itself until it is asked again.
    """

    client: int
    payload: bytes | None
    problem: str | None = None
    timings: Timings = field(default_factory=Timings)
    kept: Kept = field(default_factory=Kept)
