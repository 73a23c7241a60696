"""How a run is divided into stages, and the weights over them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.facts import Facts
from pffdst.methods.freeze.none import NoFreezing
from pffdst.methods.freeze.two_stage import TwoStage

counts = st.lists(st.integers(1, 10**6), min_size=1, max_size=6)


@given(st.integers(2, 1000), counts)
def test_two_stages_share_rounds_and_weights_in_halves(rounds: int, k: list[int]) -> None:
    first, second = TwoStage().stages(rounds, k)
    assert (first.index, first.start, first.stop) == (0, 0, rounds // 2)
    assert (second.index, second.start, second.stop) == (1, rounds // 2, rounds)
    assert first.counts == tuple(n // 2 for n in k)
    assert tuple(a + b for a, b in zip(first.counts, second.counts, strict=True)) == tuple(k)


@given(st.integers(2, 1000), st.integers(1, 999), counts)
def test_stage_2_begins_after_the_share_of_the_rounds(rounds: int, thousandths: int, k: list[int]) -> None:
    schedule = TwoStage(at=thousandths / 1000)
    first, second = schedule.stages(rounds, k)
    assert first.stop == second.start == thousandths * rounds // 1000
    assert (first.start, second.stop) == (0, rounds)
    assert bool(schedule.problems(Facts(rounds=rounds))) == (thousandths * rounds < 1000)


@pytest.mark.parametrize("at", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_no_stage_has_all_of_the_rounds(at: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        TwoStage(at=at)


@given(st.integers(1, 1000), counts)
def test_without_freezing_the_run_is_one_stage(rounds: int, k: list[int]) -> None:
    (stage,) = NoFreezing().stages(rounds, k)
    assert (stage.index, stage.start, stage.stop, stage.counts) == (0, 0, rounds, tuple(k))


def test_two_stages_take_two_rounds() -> None:
    assert TwoStage().problems(Facts(rounds=2)) == []
    assert "rounds=1" in TwoStage().problems(Facts(rounds=1))[0]


@pytest.mark.parametrize("start_from", ["last", "ema", "best_test"])
def test_the_model_to_freeze_has_three_names(start_from: str) -> None:
    assert TwoStage(start_from).start_from == start_from  # type: ignore[arg-type]


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"last, ema, best_test.*'best'"):
        TwoStage("best")  # type: ignore[arg-type]
