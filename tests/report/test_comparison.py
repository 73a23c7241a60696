"""Bytes to reach an accuracy, accuracy at so many bytes, and means over seeds."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.metrics import names
from pffdst.report.figures import bytes_to_reach, curve, mean_curve, rounded, spread_of
from pffdst.report.groups import Group
from pffdst.report.reading import Run
from tests.report.stats import accuracy_at, paired_ratio

SHARE = st.floats(0, 1).map(rounded)  # as they are compared
SHARES = st.lists(SHARE, min_size=1, max_size=20)
NAME = "acc_global"


def run_of(shares, seed=0, step=100):
    rows = [
        {names.ROUND: t, names.ACC_GLOBAL: y, names.COST_BYTES: step * t, names.COST_FLOPS: 7 * t}
        for t, y in enumerate(shares, 1)
    ]
    # a round without an evaluation counts nowhere
    rows.insert(1, {names.ROUND: 1.5, names.COST_BYTES: 150, names.COST_FLOPS: 1})
    return Run(f"{seed}", Path(), "done", config={"seed": seed}, rows=rows)


def group_of(*runs):
    return Group("g", {}, runs)


@given(SHARES, SHARE)
def test_what_is_reached_with_so_many_bytes_was_not_reached_with_fewer(shares, level):
    run = run_of(shares)
    size = bytes_to_reach(run, NAME, level)
    if size is None:
        assert max(shares) < level
    else:
        assert accuracy_at(run, NAME, size) >= level
        assert all(y < level for _, y, other, *_ in curve(run, NAME) if other < size)


@given(SHARES, st.floats(0, 5000))
def test_accuracy_at_a_budget_is_the_last_evaluation_within_it(shares, budget):
    within = shares[: int(budget // 100)]
    assert accuracy_at(run_of(shares), NAME, budget) == (within[-1] if within else None)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9))
def test_a_spread_is_mean_and_sample_deviation(values):
    found = spread_of([*values, None])
    assert (found.mean, found.sd) == (statistics.fmean(values), statistics.stdev(values))
    assert (found.n, found.of) == (len(values), len(values) + 1)


def test_one_value_has_no_deviation_and_none_has_no_mean():
    assert math.isnan(spread_of([1.0]).sd)
    assert math.isnan(spread_of([None]).mean)


def test_ratios_are_taken_seed_by_seed():
    slow = group_of(run_of([0.1, 0.2, 0.9], 0), run_of([0.1, 0.1, 0.1, 0.9], 1), run_of([0.9], 5))
    fast = group_of(run_of([0.9], 0), run_of([0.1, 0.9], 1), run_of([0.9], 9))
    found = paired_ratio(slow, fast, lambda run: bytes_to_reach(run, NAME, 0.5))
    assert found == (pytest.approx(math.sqrt(6)), 2, 3, 2, 2)


def test_a_mean_curve_has_the_rounds_that_all_runs_evaluated():
    found = mean_curve(group_of(run_of([0.2, 0.4, 0.6]), run_of([0.4, 0.8], step=300)), NAME)
    assert [(point.round, spread.mean, point.bytes) for point, spread in found] == [
        (1, pytest.approx(0.3), 200),
        (2, pytest.approx(0.6), 400),
    ]
