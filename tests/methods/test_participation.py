"""Cohorts: without replacement, uniform, in ascending order, named by seed and round alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from pffdst.core.errors import UserError
from pffdst.core.facts import Facts
from pffdst.core.seeding import generator_for
from pffdst.methods.participation import Participation, Population, Proportional, Uniform
from pffdst.methods.windows import Windows


def drawn(clients: int, size: int, seed: int, t: int) -> tuple[int, ...]:
    return Uniform().cohort(t, Population(clients, lambda _: 10), size, generator_for(seed, "cohort", t))


@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c))), st.integers(0, 1000))
def test_a_cohort_is_k_different_clients_in_order(case: tuple[int, int], t: int) -> None:
    clients, size = case
    cohort = drawn(clients, size, 0, t)
    assert len(set(cohort)) == len(cohort) == size
    assert list(cohort) == sorted(cohort)
    assert 0 <= cohort[0] <= cohort[-1] < clients
    assert cohort == drawn(clients, size, 0, t)


class Own(Participation):
    """A cohort of somebody's own."""

    def __init__(self, drawn: Any, fixed: bool = True) -> None:
        super().__init__()
        self.__dict__.update(drawn=drawn, fixed=fixed)

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        return self.__dict__["drawn"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "cohort", [(0, 0), (1, 0), (-1, 2), (0, 5), (0.0, 1.0), (True,), [0, 1], None, (0, 1, 2), torch.tensor([0, 1])]
)
def test_what_is_no_cohort_is_refused(cohort: Any) -> None:
    population = Population(5, lambda _: 9)
    with pytest.raises(UserError, match="at most 2 different client numbers"):
        Own(cohort).asked(3, population, 2, seed=0)
    assert Own((0, 4)).asked(3, population, 2, seed=0) == (0, 4)
    assert Own((0, 1, 2), fixed=False).asked(3, population, 2, seed=0) == (0, 1, 2)


def test_all_clients_take_part_where_k_is_c() -> None:
    assert drawn(7, 7, 3, 1) == tuple(range(7))


@pytest.mark.parametrize("size", [1, 3, 15])
def test_every_client_has_the_same_chance(size: int) -> None:
    clients, rounds = 20, 4000
    hits = torch.zeros(clients)
    for t in range(rounds):
        hits[list(drawn(clients, size, 0, t))] += 1
    share = size / clients
    statistic = ((hits - rounds * share) ** 2).sum() / (rounds * share * (1 - share)) * (clients - 1) / clients
    assert 1e-3 < chi2.sf(float(statistic), clients - 1) < 1 - 1e-3


# ---- in proportion to samples ----------------------------------------------------------------------------------------


def successive(sizes: list[int], size: int) -> list[float]:
    """Every client's chance to be among `size` drawn one after another in proportion to samples, written out."""
    chance = [0.0] * len(sizes)

    def draw(left: tuple[int, ...], p: float, count: int) -> None:
        if count == 0:
            return
        total = sum(sizes[k] for k in left)
        for k in left:
            chance[k] += p * sizes[k] / total
            draw(tuple(j for j in left if j != k), p * sizes[k] / total, count - 1)

    draw(tuple(range(len(sizes))), 1.0, size)
    return chance


@pytest.mark.parametrize("size", [1, 2, 4])
def test_clients_are_drawn_one_after_another_in_proportion_to_their_samples(size: int) -> None:
    sizes, rounds = [1, 2, 4, 8, 5, 40], 6000
    population, hits = Population(len(sizes), lambda k: sizes[k]), torch.zeros(len(sizes), dtype=torch.float64)
    for t in range(rounds):
        cohort = Proportional().asked(t, population, size, 0)
        assert len(set(cohort)) == size
        hits[list(cohort)] += 1
    expected = torch.tensor(successive(sizes, size), dtype=torch.float64)
    spread = (rounds * expected * (1 - expected)).sqrt()
    assert bool(((hits - rounds * expected).abs() < 4 * spread + 1e-9).all())


def test_all_clients_can_be_drawn_in_proportion() -> None:
    """However rare they are: those that are drawn leave the draw, else it would take 10^12 of them."""
    sizes = [1] * 30 + [10**12]
    assert Proportional().asked(0, Population(31, lambda k: sizes[k]), 31, 0) == tuple(range(31))


# ---- who is there ----------------------------------------------------------------------------------------------------


def windows_of(path: Path, *lines: str) -> Windows:
    path.write_text("\n".join(["client,from,to", *lines]) + "\n")
    return Windows.read(path)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=30))
def test_a_client_is_there_in_the_rounds_of_its_windows(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int, int]]
) -> None:
    lines = (f"{client},{first},{first + length}" for client, first, length in spans)
    windows = windows_of(tmp_path_factory.mktemp("trace") / "t.csv", *lines)
    for t in range(20):
        there = {client for client, first, length in spans if first <= t + 1 <= first + length}
        assert windows.open_in(t, 10).tolist() == sorted(there)


def test_rounds_before_the_first_are_as_the_first(tmp_path: Path) -> None:
    windows_of(tmp_path / "t.csv", "3,1,1", "4,2,9")
    rule = Uniform(trace=str(tmp_path / "t.csv"))
    assert rule.asked(-2, Population(9, lambda _: 1), 5, 0) == rule.asked(0, Population(9, lambda _: 1), 5, 0) == (3,)


def test_samples_are_looked_up_once_whatever_the_trace(tmp_path: Path) -> None:
    """A lookup can cost as much as reading a client's file."""
    windows_of(tmp_path / "t.csv", "3,1,9", "4,2,9", "7,1,9", "8,1,9")
    asked, rule = list[int](), Proportional(trace=str(tmp_path / "t.csv"))

    def samples(client: int) -> int:
        asked.append(client)
        return 10**6 if client == 7 else 1

    population = Population(9, samples)
    assert [rule.asked(t, population, 1, 0) for t in range(8)] == [(7,)] * 8
    assert asked == list(range(9))


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["1,2,x"], "line 2: to is 'x'; write a number"),
        (["1,2,3", "1,2,"], "line 3: to is ''; write a number"),
        (["1,3,2"], "line 2: `from` is after `to`"),
        (["-1,3,4"], "line 2: client is below 0"),
        (["0.5,3,4"], "line 2: client is not a whole number"),
        (["1,1,1e300"], "line 2: to is not a whole number"),
        (["1,2"], "cannot be read"),
        ([], "has no client, from and to"),
    ],
)
def test_a_trace_that_cannot_be_is_told_by_its_line(tmp_path: Path, lines: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=re.escape(wrong)) as error:
        windows_of(tmp_path / "t.csv", *lines)
    assert str(error.value).startswith("participation.trace: ")
    [said] = Uniform(trace=str(tmp_path / "t.csv")).problems()
    assert wrong in said


def test_what_cannot_be_is_said_before_the_run(tmp_path: Path) -> None:
    windows_of(tmp_path / "t.csv", "30,1,1")
    facts = Facts(clients=20, cohort=15, timed=False, simulated=False)
    rule = Uniform(trace=str(tmp_path / "t.csv"), extra=9, deadline=3.0, dropout_after=0.5)
    trace, extra, time, engine = rule.problems(facts)
    assert "names client 30, but clients are 0 to 19: write clients=31" in trace
    assert "write participation.extra=5" in extra
    assert "write time=links" in time
    assert engine.startswith("participation.dropout_after, participation.extra, participation.deadline: ")
    assert Uniform().problems(facts) == []
    assert Uniform(extra=5).problems(Facts(clients=20, cohort=15, timed=True, simulated=True)) == []


def test_clients_are_lost_before_and_after_training_at_rates_of_their_own() -> None:
    """Of those that were not lost before, the second rate is that of being lost after."""
    rule = Uniform(dropout_before=0.5, dropout_after=0.6)
    fates = [rule.loss(t, client, 0) for t in range(40) for client in range(50)]
    assert fates.count("before") / 2000 == pytest.approx(0.5, abs=0.04)
    assert fates.count("after") / 2000 == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("keys", [{"dropout_before": 1.5}, {"dropout_after": -0.1}, {"extra": -1}, {"deadline": 0.0}])
def test_values_out_of_their_range_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Expected `participation.{next(iter(keys))}` to be"):
        Uniform(**keys)
