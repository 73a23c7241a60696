"""When a mask moves: exact rounds, and a share that falls to nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import Stage
from pffdst.methods.schedule import Every

lengths, starts = st.integers(1, 120), st.integers(0, 50)


@given(lengths, starts, st.integers(1, 20), st.integers(0, 30), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_rounds_are_due_every_interval_from_the_first_on_until_the_end(
    length: int, start: int, interval: int, first: int, until: float
) -> None:
    rule, stage = Every(interval, first, until), Stage(0, start, start + length, ())
    due = [t - start for t in range(start, start + length) if rule.due(stage, t)]
    assert due == [t for t in range(first, length, interval) if t < until * length]
    assert rule.end(stage) == until * length


@given(lengths, starts, st.integers(1, 200))
def test_rounds_may_stand_in_for_the_share(length: int, start: int, rounds: int) -> None:
    rule, stage = Every(1, rounds=rounds), Stage(0, start, start + length, ())
    assert sum(rule.due(stage, t) for t in range(start, start + length)) == min(rounds, length)


@given(st.integers(2, 120), starts, st.sampled_from([0.25, 0.5, 1.0]))
def test_the_decay_is_a_cosine_from_two_to_zero(length: int, start: int, until: float) -> None:
    rule, stage = Every(until=until), Stage(0, start, start + length, ())
    found = [rule.decay(stage, start + t) for t in range(length)]
    assert found[0] == 2.0
    assert found == sorted(found, reverse=True)
    for t, value in enumerate(found):
        assert value == (1 + math.cos(math.pi * t / (until * length)) if t < until * length else 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("interval", 0), ("first", -1), ("rounds", -1), ("until", 0.0), ("until", 1.1), ("until", float("nan"))],
)
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"schedule.{key}.*{value}"):
        Every(**{key: value})
