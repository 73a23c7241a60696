"""Named draws: each depends on its name alone."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.seeding import (
    derive_seed,
    generator_for,
    hidden_normals,
    hidden_uniforms,
    seeded_global_state,
    without_replacement,
)

names = st.tuples(
    st.integers(0, 2**63 - 1), st.sampled_from(["grow", "cohort", "client"]), st.lists(st.integers(0, 10**6))
)


def draw(seed: int, stream: str, *ids: int) -> torch.Tensor:
    return torch.rand(8, generator=generator_for(seed, stream, *ids))


def test_a_draw_does_not_depend_on_the_draws_before_it() -> None:
    alone = draw(1, "grow", 7)
    for t in range(7):
        draw(1, "grow", t)
    assert torch.equal(draw(1, "grow", 7), alone)


def test_a_draw_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(0, "client", 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(0, "client", 3), first)


def test_seed_zero_is_a_seed_like_any_other() -> None:
    assert torch.equal(draw(0, "grow", 0), draw(0, "grow", 0))
    seeds = {derive_seed(0, "grow"), derive_seed(1, "grow"), derive_seed(0, "grow", 0), derive_seed(0, "cohort")}
    assert len(seeds) == 4


@given(names, names)
def test_other_names_give_other_seeds(one: tuple[int, str, list[int]], two: tuple[int, str, list[int]]) -> None:
    seeds = [derive_seed(seed, stream, *ids) for seed, stream, ids in (one, two)]
    assert (seeds[0] == seeds[1]) == (one == two)


@given(names)
def test_a_seed_fits_into_63_bits(name: tuple[int, str, list[int]]) -> None:
    seed, stream, ids = name
    assert 0 <= derive_seed(seed, stream, *ids) < 2**63


def test_the_identifiers_order_counts() -> None:
    assert derive_seed(0, "client", 1, 23) != derive_seed(0, "client", 23, 1)
    assert derive_seed(0, "client", 1, 23) != derive_seed(0, "client", 12, 3)


def test_neighbouring_draws_are_not_alike() -> None:
    draws = torch.stack([draw(0, "grow", t) for t in range(200)])
    shared = (draws[1:] - draws[:-1]).abs().mean()
    assert abs(float(shared) - 1 / 3) < 0.03  # the mean distance of independent uniform numbers


def test_a_block_on_a_named_draw_puts_the_global_generator_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded_global_state(0, "init"):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    with seeded_global_state(0, "init"):
        assert torch.equal(torch.rand(4), inside)


DRAWS: dict[str, Any] = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": lambda: float(np.random.random()),  # noqa: NPY002
    "random": random.random,
}


@pytest.mark.parametrize("source", DRAWS)
def test_every_global_generator_is_on_the_named_draw_and_put_back(source: str) -> None:
    draw = DRAWS[source]

    def inside(*name: Any) -> float:
        with seeded_global_state(*name):
            return float(draw())

    first = inside(0, "init")
    before = [draw() for _ in range(3)]
    assert inside(0, "init") == first
    assert len({first, inside(1, "init"), inside(0, "client"), inside(0, "init", 1)}) == 4
    with seeded_global_state(5, "outer"):
        expected = [draw(), draw()]
    with seeded_global_state(5, "outer"):
        assert draw() == expected[0]
        with pytest.raises(ZeroDivisionError), seeded_global_state(6, "inner"):
            draw() / 0
        assert draw() == expected[1]
    assert draw() not in before


@pytest.mark.parametrize(("count", "total"), [(0, 5), (1, 1), (2, 4), (4, 4)])
def test_drawn_without_replacement_all_sets_are_alike(count: int, total: int) -> None:
    draw = random.Random(0)
    found = Counter(frozenset(without_replacement(count, total, draw.randrange)) for _ in range(6000))
    assert all(len(one) == count and one <= set(range(total)) for one in found)
    assert len(found) == math.comb(total, count)
    assert all(abs(times * len(found) / 6000 - 1) < 0.2 for times in found.values())


# ---- draws that nobody can find -----------------------------------------------------------------------------------


def test_hidden_draws_depend_on_every_bit_of_a_seed() -> None:
    drawn = {tuple(hidden_uniforms(2, seed).tolist()) for seed in (0, *(1 << bit for bit in range(63)))}
    assert len(drawn) == 64
    assert tuple(hidden_uniforms(2, 0, 1).tolist()) not in drawn


def test_hidden_normals_are_normal() -> None:
    """Moments, tails, and nothing shared by the two numbers of a pair or by neighbours, over several blocks."""
    drawn = hidden_normals(400_001, 3)
    assert drawn.shape == (400_001,)
    error = 5 / len(drawn) ** 0.5
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = float(drawn.pow(2 * power).mean().sqrt())
        assert abs(float(drawn.pow(power).mean()) - moment) < error * spread
    for far in (1, 2, 1 << 16, 1 << 17):
        assert abs(float((drawn[far:] * drawn[:-far]).mean())) < 1.5 * error
    below = float((drawn < -1.6448536).double().mean())
    assert abs(below - 0.05) < error
    assert torch.equal(hidden_normals(400_001, 3), drawn)
    assert not torch.equal(hidden_normals(400_001, 4), drawn)
