"""What passes between the server, the engines and the clients of a round."""

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
    """What the server decided for round t before anything is sent: `cohort` is asked, `wanted` (K) updates are enough.

    Both are of one size unless more clients are asked than are wanted, or fewer can be.
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
    """One client's turn: the bytes it receives in round t. Everything it may know arrives in them."""

    client: int
    t: int
    payload: bytes


@final
@dataclass(frozen=True, eq=False)
class Residual:
    """What rounding took from a client's update: `values` [k] at the positions `at`."""

    at: Positions
    values: Tensor


class Timings(NamedTuple):
    """Seconds that a client's turn took: decoding, training, encoding."""

    decode: float = 0.0
    train: float = 0.0
    encode: float = 0.0


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """What a client keeps to itself between its turns, beside what it was sent.

    `residual` is what rounding took from its last update; `memory` is what its rules keep, by name.
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
    """What came back from a client: bytes, or why there are none.

    `timings` and `kept` did not travel: the client keeps the second to itself until its next turn.
    """

    client: int
    payload: bytes | None
    problem: str | None = None
    timings: Timings = field(default_factory=Timings)
    kept: Kept = field(default_factory=Kept)
