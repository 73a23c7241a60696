"""Cohorts: without replacement, uniform, in ascending order, named by seed and round alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from pffdst.core.seeding import generator_for
from pffdst.methods.participation import Population, Uniform


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
