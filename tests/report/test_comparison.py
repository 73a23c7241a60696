"""Bytes to reach an accuracy, accuracy at so many bytes, and means over seeds."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pffdst.metrics import names
from pffdst.report.figures import bytes_to_reach, curve, mean_curve, rounded, spread_of
from pffdst.report.groups import Group
from pffdst.report.pictures import _curves, curve_label
from pffdst.report.reading import Run
from tests.report.stats import accuracy_at, paired_ratio

SHARE = st.floats(0, 1).map(rounded)  # as they are compared
SHARES = st.lists(SHARE, min_size=1, max_size=20)
NAME = "acc_global"


def run_of(shares, seed=0, step=100, rounds=None):
    rows = [
        {names.ROUND: t, names.ACC_GLOBAL: y, names.COST_BYTES: step * t, names.COST_FLOPS: 7 * t}
        for t, y in zip(rounds or range(1, len(shares) + 1), shares, strict=True)
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


def told(found, against):
    return [(getattr(point, against), pytest.approx(spread.mean)) for point, spread in found]


def test_a_mean_curve_has_the_range_that_all_runs_cover_and_the_rounds_of_each():
    group = group_of(run_of([0.2, 0.4, 0.6]), run_of([0.4, 0.8], step=300))
    found = mean_curve(group, NAME)
    assert told(found, "round") == [(1, 0.3), (2, 0.6)]
    assert [point.bytes for point, _ in found] == [200, 400]


def test_seeds_evaluated_in_different_rounds_have_a_mean_curve():
    even, odd = run_of([0.2, 0.4, 0.6, 0.8], rounds=[2, 4, 6, 8]), run_of([0.1, 0.3, 0.5, 0.7], rounds=[1, 3, 5, 7])
    line = [(t, t / 10) for t in range(2, 8)]
    assert told(mean_curve(group_of(even, odd), NAME), "round") == line


def test_a_mean_over_bytes_is_one_at_equal_bytes():
    group = group_of(run_of([0.1, 0.2, 0.3, 0.4], step=100), run_of([0.2, 0.4], step=150))
    found = mean_curve(group, NAME, "bytes")
    assert told(found, "bytes") == [(150, 0.175), (200, (0.2 + 0.2 + 0.2 / 3) / 2), (300, 0.35)]


@pytest.mark.parametrize("against", ["round", "bytes"])
def test_seeds_that_share_no_range_have_no_mean_curve(against):
    late = run_of([0.3, 0.4], rounds=[5, 6])
    assert mean_curve(group_of(run_of([0.1, 0.2]), late), NAME, against) == []
    assert mean_curve(group_of(run_of([0.1]), run_of([0.1, 0.2])), NAME, against) == []
    assert len(mean_curve(group_of(late), NAME, against)) == 2


def test_a_first_evaluation_that_all_seeds_share_is_a_point():
    assert told(mean_curve(group_of(run_of([0.1]), run_of([0.3])), NAME), "round") == [(1, 0.2)]


def test_a_run_of_unknown_time_has_no_mean_over_time():
    assert mean_curve(group_of(run_of([0.1, 0.2])), NAME, "seconds") == []


@given(st.lists(SHARES, min_size=1, max_size=3), st.sampled_from(["round", "bytes", "flops"]))
def test_a_mean_curve_never_leaves_what_its_runs_have_reached(shares, against):
    runs = [run_of(each, seed, step=100 + 7 * seed) for seed, each in enumerate(shares)]
    found = mean_curve(group_of(*runs), NAME, against)
    for point, spread in found:
        places = [[getattr(p, against) for p in curve(run, NAME)] for run in runs]
        assert all(own[0] <= getattr(point, against) <= own[-1] for own in places)
        assert min(map(min, shares)) - 1e-9 <= spread.mean <= max(map(max, shares)) + 1e-9


@pytest.mark.parametrize(("shares", "why"), [([0.1], "its seeds share no range"), ([], "no evaluations")])
def test_a_picture_names_a_group_that_it_cannot_draw_and_says_why(shares, why):
    group = group_of(*[run_of(shares, rounds=[t] * len(shares)) for t in (3, 4)])
    assert curve_label(group, NAME, is_drawn=False) == f"g (not drawn: {why})"
    ax = Figure().add_subplot()
    _curves(ax, [group, group_of(run_of([0.1, 0.2]))], NAME, "rounds")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"g (not drawn: {why})", "g"]
