"""When a round closes: at the K-th answer, at the deadline, or when nobody is waited for any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.device import Device
from pffdst.cost.clock import RoundClock
from pffdst.methods.time import TimeModel, Untimed


@final
@dataclass(frozen=True)
class Unit(TimeModel):
    """A byte up takes a second, and so does a byte down."""

    def device(self, client: int, seed: int) -> Device:
        return Device(8e-6, 8e-6, 1.0)


def clock(times: list[int], wanted: int, deadline: float | None = None, broken: tuple[int, ...] = ()) -> RoundClock:
    made = RoundClock(Unit(), 0, len(times) + len(broken), wanted, deadline)
    for client, seconds in enumerate(times):
        made.answers(client, down=0, flops=0, up=seconds)
    for client, seconds in enumerate(broken, start=len(times)):
        made.breaks(client, down=seconds)
    return made


def late(made: RoundClock, clients: int) -> list[int]:
    return [client for client in range(clients) if made.late(client)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 9))
def test_exactly_the_first_k_are_in_time(times: list[int], wanted: int) -> None:
    made = clock(times, wanted)
    first = sorted(range(len(times)), key=lambda k: (times[k], k))[:wanted]
    assert late(made, len(times)) == [k for k in range(len(times)) if k not in first]
    assert made.closed() == max(times[k] for k in first)


def test_a_deadline_closes_for_whoever_is_not_in() -> None:
    made = clock([1, 5, 3], wanted=3, deadline=3.0)
    assert late(made, 3) == [1]
    assert made.closed() == 3.0
    assert late(clock([3, 9, 3], wanted=2, deadline=3.0), 3) == [1], "at the deadline is in time"
    assert clock([1, 2], wanted=2, deadline=9.0).closed() == 2.0
    assert clock([1, 2], wanted=2, deadline=9.0, broken=(1,)).closed() == 2.0, "K are in"
    assert clock([1], wanted=2, deadline=9.0, broken=(1,)).closed() == 9.0, "one is waited for"
    assert clock([1], wanted=2, deadline=9.0).closed() == 1.0, "all that were asked are in"


def test_without_a_deadline_a_broken_connection_is_noticed() -> None:
    assert clock([1, 2], wanted=3, broken=(7,)).closed() == 7.0
    assert clock([], wanted=3, broken=(4, 7)).closed() == 7.0
    assert clock([], wanted=3).closed() == 0.0, "nobody was asked"


def test_without_a_model_nobody_is_late_and_there_is_no_time() -> None:
    made = RoundClock(Untimed(), 0, 9, 2, 1.0)
    for client in range(9):
        made.answers(client, down=10**9, flops=10**9, up=10**9)
    assert late(made, 9) == []
    assert made.closed() is None
    assert not made.needs_all
