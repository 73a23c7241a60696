"""What passes between the server, the engines and the clients of a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, final

from torch import Tensor

from pffdst.core.model import Stage

__all__ = ["ClientTask", "Residual", "RoundPlan", "Timings", "Update"]


@final
@dataclass(frozen=True)
class RoundPlan:
    """What the server decided for round t before anything is sent."""

    t: int
    stage: Stage
    cohort: tuple[int, ...]
    pruned: int = 0
    grown: int = 0
    froze: bool = False


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
    """What rounding took from a client's update: `values` [n] at the True positions of `mask`, a bitmap of W bits."""

    mask: bytes
    values: Tensor


class Timings(NamedTuple):
    """Seconds that a client's turn took: decoding, training, encoding."""

    decode: float = 0.0
    train: float = 0.0
    encode: float = 0.0


@final
@dataclass(frozen=True)
class Update:
    """What came back from a client: bytes, or why there are none.

    `timings` and `residual` did not travel: the residual is what the client keeps to itself until its next turn.
    """

    client: int
    payload: bytes | None
    problem: str | None = None
    timings: Timings = field(default_factory=Timings)
    residual: Residual | None = None
