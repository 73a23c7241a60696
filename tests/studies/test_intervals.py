"""What chance does, against sums done by hand and against draws whose spread is known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from reproduce.intervals import UNKNOWN, Noise, adjusted, alike, pooled, power, ranks, seeds_to_tell


def test_the_pooled_spread_by_hand() -> None:
    # rows 1, 2, 6 and 3, 8, 10: means 3 and 7, seeds' means 2, 5, 8, of all 5; what is left is -+ 0, 1, 1 twice
    found = pooled({"a": {0: 1.0, 1: 2.0, 2: 6.0}, "b": {0: 3.0, 1: 8.0, 2: 10.0}})
    left = [1 - 3 - 2 + 5, 2 - 3 - 5 + 5, 6 - 3 - 8 + 5]
    variance = 2 * sum(e * e for e in left) / 2  # both rows, over (2 - 1)(3 - 1) degrees of freedom
    assert found.freedom == 2
    assert found.sd == pytest.approx(math.sqrt(2 * variance))
    # of two rows that is the sample sd of their differences
    assert found.sd == pytest.approx(statistics.stdev([2.0, 6.0, 4.0]))
    assert found.half(3) == pytest.approx(4.302653 * 2.0 / math.sqrt(3))


def test_easy_seeds_and_better_rows_add_nothing() -> None:
    level = {"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 5.0, 1: 6.0, 2: 7.0}, "c": {0: 0.0, 1: 1.0, 2: 2.0}}
    assert pooled(level).sd == pytest.approx(0.0, abs=1e-9)
    assert pooled(level).freedom == 4


def test_a_row_of_one_seed_adds_nothing_and_too_few_runs_tell_nothing() -> None:
    two = {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 5.0}}
    assert pooled(two | {"c": {0: 9.0}}).sd == pytest.approx(pooled(two).sd)
    assert pooled(two | {"c": {0: 9.0}}).freedom == 1
    for few in ({}, {"a": {0: 1.0, 1: 2.0}}, {"a": {0: 1.0}, "b": {0: 2.0}}, {"a": {0: 1.0, 1: 2.0}, "b": {2: 1.0}}):
        assert pooled(few) == UNKNOWN
    assert math.isnan(UNKNOWN.half(3))


def test_intervals_hold_what_they_should_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        values = generator.normal(size=(5, 3)) + 3 * generator.normal(size=(1, 3)) + np.arange(5)[:, None]
        noise = pooled({str(row): dict(enumerate(map(float, values[row]))) for row in range(5)})
        inside += abs(float(np.mean(values[1] - values[0])) - 1.0) <= noise.half(3)
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("sd", "needed"), [(1.0, 10), (2.0, 34)])
def test_seeds_that_tell_a_point_are_those_of_the_tables_of_t_tests(sd: float, needed: int) -> None:
    assert seeds_to_tell(1.0, Noise(sd, 4)) == needed
    assert power(1.0, sd, needed - 1) < 0.8 <= power(1.0, sd, needed)
    assert seeds_to_tell(1.0, UNKNOWN) is None
    assert power(0.0, sd, 5) == pytest.approx(0.05)


def test_ranks_are_open_where_differences_are_small() -> None:
    values = {"best": {0: 10.0, 1: 10.0}, "good": {0: 9.5, 1: 9.5}, "poor": {0: 1.0, 1: 1.0}}
    # q(95 %, 3 rows, 10 degrees of freedom) is 3.877: differences of more than 3.877 / sqrt(2) sd / sqrt(2) are told
    assert ranks(values, Noise(0.5 * 2 / 3.877 * 0.99, 10)) == {"best": (1, 1), "good": (2, 2), "poor": (3, 3)}
    assert ranks(values, Noise(0.5 * 2 / 3.877 * 1.01, 10)) == {"best": (1, 2), "good": (1, 2), "poor": (3, 3)}
    assert ranks(values, UNKNOWN) == {"best": (1, 3), "good": (1, 3), "poor": (1, 3)}
    # one seed of a row leaves it more open than two
    alone = values | {"good": {0: 9.5}}
    assert ranks(alone, Noise(0.5 * 2 / 3.877 * 0.99, 10))["good"] == (1, 2)


def test_a_row_that_only_has_an_easy_seed_stands_no_higher() -> None:
    values = {"a": {0: 1.0, 1: 5.0}, "b": {0: 2.0, 1: 6.0}, "late": {1: 5.5}}
    assert adjusted(values) == pytest.approx({"a": 3.0, "b": 4.0, "late": 3.5})
    assert ranks(values, Noise(0.01, 20)) == {"a": (3, 3), "b": (1, 1), "late": (2, 2)}
    # without a seed in common nothing is known of the difference
    lone = {"a": {0: 1.0}, "b": {1: 9.0}}
    assert adjusted(lone) == {"a": 1.0, "b": 9.0}
    assert ranks(lone, Noise(0.01, 20)) == {"a": (1, 2), "b": (1, 2)}


@pytest.mark.parametrize("early", [(0, 1, 2), (0,), (1, 2)])
def test_ranks_of_equal_rows_are_wrong_in_one_table_of_twenty_whatever_seeds_are_there(early: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        drawn = generator.normal(size=(10, 3)) + 3 * generator.normal(size=(1, 3))
        seeds = [range(3) if row < 5 else early for row in range(10)]
        values = {str(row): {seed: float(drawn[row, seed]) for seed in seeds[row]} for row in range(10)}
        wrong += any(bounds != (1, 10) for bounds in ranks(values, pooled(values)).values())
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_one_row_of_a_wider_spread_is_found_and_equal_ones_are_not() -> None:
    generator = np.random.default_rng(2)
    found, honest = 0, 0
    for _ in range(60):
        drawn = generator.normal(size=(12, 3)) + generator.normal(size=(1, 3))
        values = {str(row): dict(enumerate(map(float, own))) for row, own in enumerate(drawn)}
        honest += alike(values)[0] < 0.05
        p, shares = alike(values | {"0": {seed: 8 * x for seed, x in values["0"].items()}})
        found += p < 0.05 and max(shares, key=lambda row: shares[row]) == "0"
    assert honest <= 8
    assert found >= 45
    assert math.isnan(alike({"a": {0: 1.0, 1: 2.0}})[0])
    assert math.isnan(alike({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0}})[0])
