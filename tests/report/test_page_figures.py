"""What page/stats.js computes, against the same in Python: the page and the files never disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pffdst.metrics import names
from pffdst.metrics.names import Row
from pffdst.report.figures import bytes_to_reach, mean_curve
from pffdst.report.groups import Group
from pffdst.report.payload import _run
from pffdst.report.reading import Run
from tests.report.stats import paired_ratio

NAME = "ema_acc_global"


@pytest.fixture(scope="module")
def compute(browser: Any) -> Callable[..., Any]:
    """Evaluates a function of JavaScript with stats.js at hand."""
    tab = browser.new_page()
    tab.add_script_tag(content=(files("pffdst.report") / "page" / "stats.js").read_text(encoding="utf-8"))
    return lambda function, *given: tab.evaluate(f"(given) => ({function})(...given)", list(given))


def run_of(shares: Sequence[float], seed: int = 0, step: float = 100, rounds: Sequence[int] = (), **config: Any) -> Run:
    """A run that sends `step` bytes a round, evaluated in `rounds`: in all if there are none."""
    rows = [
        {
            names.ROUND: t,
            names.EMA_ACC_GLOBAL: y,
            names.COST_BYTES: step * t,
            names.COST_BYTES_UP: step * t / 4,
            names.COST_FLOPS: 7 * t,
            names.COST_PAPER_BYTES: 0,
        }
        for t, y in zip(rounds or range(1, len(shares) + 1), shares, strict=True)
    ]
    final = {"ema_acc_global": shares[-1], "bytes_up": step * len(shares) / 4, "bytes_down": step * len(shares) * 3 / 4}
    return Run(f"{seed}", Path(), "done", config={"seed": seed, "cohort": 2, **config}, summary=final, rows=rows)


def on_page(*runs: Run) -> list[dict[str, Any]]:
    return [_run(run) for run in runs]


@pytest.mark.parametrize(
    ("share", "level", "reached"),
    [
        (0.39999999999999997, 0.40, True),  # a mean of evaluations at 40 %
        (0.3999961, 0.40, False),  # shown as 40.0 %
        (0.573, 57.300001 / 100, False),
        (0.573, 0.1 + 0.473, True),
    ],
)
def test_page_and_files_agree_that_a_level_is_reached(
    compute: Callable[..., Any], share: float, level: float, *, reached: bool
) -> None:
    run = run_of([0.1, share])
    size = compute("(run, level) => bytesToReach(run, 'ema_acc_global', level)", *on_page(run), level)
    assert (bytes_to_reach(run, NAME, level), size) == ((200, 200) if reached else (None, None))


PAIRED = "(own, theirs, figure, compare) => paired({runs: own}, {runs: theirs}, eval(figure), eval(compare))"
LAST = "(run) => run.final.ema_acc_global"


def test_the_runs_of_one_seed_are_averaged_before_seeds_are_paired(compute: Callable[..., Any]) -> None:
    """Grouped by method alone, each seed has a run per learning rate."""
    ends = {0: (0.50, 0.30), 1: (0.60, 0.40)}
    theirs = [run_of([y], seed, lr=i) for seed, both in ends.items() for i, y in enumerate(both)]
    own = [run_of([y - 0.01], seed, lr=i) for seed, both in ends.items() for i, y in enumerate(both)]
    found = compute(PAIRED, on_page(*own), on_page(*theirs), LAST, "differenceOf")
    assert (found["mean"], found["half"]) == (pytest.approx(-0.01), pytest.approx(0, abs=1e-9))
    assert (found["n"], found["of"], found["seeds"]) == (2, 2, 2)


def test_a_seed_counts_if_all_its_runs_have_the_figure(compute: Callable[..., Any]) -> None:
    own = [run_of([0.2, 0.6], 0, lr=1), run_of([0.2, 0.3], 0, lr=2), run_of([0.6], 1), run_of([0.6], 2)]
    theirs = [run_of([0.2, 0.6], 0), run_of([0.2, 0.6], 1)]
    reach = "(run) => bytesToReach(run, 'ema_acc_global', 0.5)"
    found = compute(PAIRED, on_page(*own), on_page(*theirs), reach, "ratioOf")
    assert (found["mean"], found["n"], found["of"], found["seeds"]) == (pytest.approx(0.5), 1, 2, 3)


def test_ratios_have_a_geometric_mean_so_that_the_inverse_has_the_inverse(compute: Callable[..., Any]) -> None:
    own = [run_of([0.5], seed, step=step) for seed, step in enumerate((100, 400, 400))]
    theirs = [run_of([0.5], seed) for seed in range(3)]
    size = "(run) => totalBytes(run)"
    found = compute(PAIRED, on_page(*own), on_page(*theirs), size, "ratioOf")
    inverse = compute(PAIRED, on_page(*theirs), on_page(*own), size, "ratioOf")
    assert (found["mean"], found["low"], found["high"]) == (pytest.approx(16 ** (1 / 3)), 1, 4)
    assert found["mean"] * inverse["mean"] == pytest.approx(1)
    assert (inverse["half"], inverse["low"]) == (pytest.approx(found["half"]), 0.25)
    same = paired_ratio(Group("a", {}, own), Group("b", {}, theirs), lambda run: run.final["bytes_up"])
    assert (same.mean, same.low, same.high) == (pytest.approx(found["mean"]), 1, 4)


@pytest.mark.parametrize("compare", ["differenceOf", "ratioOf"])
def test_chance_is_what_a_t_test_at_five_percent_says(compute: Callable[..., Any], compare: str) -> None:
    """Whatever the number of seeds: the interval contains equality where the test does not reject it."""
    dice, none = np.random.default_rng(0), 1.0 if compare == "ratioOf" else 0.0
    for n in (2, 3, 4, 5, 9, 31, 32, 60):
        samples = none + 0.05 * dice.normal(size=(100, n)) + 0.05 * dice.exponential(size=(100, 1))
        tested = np.log(samples) if compare == "ratioOf" else samples
        p = stats.ttest_1samp(tested, 0.0, axis=1).pvalue
        found = compute(f"(all) => all.map((values) => compared(values, {compare}))", samples.tolist())
        clear = np.abs(p - 0.05) > 0.001
        assert list(np.array([each["byChance"] for each in found])[clear]) == list(p[clear] > 0.05)
        width = stats.t.ppf(0.975, n - 1) * tested.std(axis=1, ddof=1) / np.sqrt(n)
        np.testing.assert_allclose([each["half"] for each in found], width, rtol=1e-3)


def test_equal_methods_are_called_so_in_95_of_100_studies_of_few_seeds(compute: Callable[..., Any]) -> None:
    dice = np.random.default_rng(1)
    for n in (2, 3, 4):
        samples = dice.normal(size=(4000, n)).tolist()
        count = compute("(all) => all.filter((each) => compared(each, differenceOf).byChance).length", samples)
        assert count / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_no_interval(compute: Callable[..., Any]) -> None:
    one = compute("() => { const one = compared([0.1], differenceOf); return [isNaN(one.half), one.byChance, one.n]; }")
    assert one == [True, False, 1]


CURVE = """(runs, key) => meanCurve(runs, 'ema_acc_global', (point) => point[key])
    .map(({x, round, bytes, y}) => [x, round, bytes, y.mean, y.sd])"""
GROUPS = {
    "the same rounds": [run_of([0.2, 0.3, 0.5]), run_of([0.1, 0.4, 0.6], 1, step=130)],
    "odd and even rounds": [run_of([0.2, 0.3, 0.5], rounds=[1, 3, 5]), run_of([0.1, 0.4, 0.6], 1, rounds=[2, 4, 6])],
    "one goes on": [run_of([0.2, 0.3]), run_of([0.1, 0.2, 0.3, 0.5], 1), run_of([0.1, 0.2, 0.3], 2, step=90)],
    "no range": [run_of([0.2, 0.3]), run_of([0.1, 0.2], 1, rounds=[7, 8])],
    "one point of several": [run_of([0.2, 0.3]), run_of([0.1], 1, rounds=[2])],
    "a first evaluation": [run_of([0.2]), run_of([0.1], 1)],
}


def timed(row: Row) -> Row:
    return {**row, names.COST_SECONDS: 3.0 * row[names.ROUND]}


@pytest.mark.parametrize("against", ["round", "bytes", "flops", "seconds"])
@pytest.mark.parametrize("name", GROUPS)
def test_page_and_pictures_draw_the_same_mean_curve(compute: Callable[..., Any], name: str, against: str) -> None:
    runs = [replace(run, rows=[timed(row) for row in run.rows]) for run in GROUPS[name]]
    ours = [
        [getattr(point, against), point.round, point.bytes, spread.mean, spread.sd]
        for point, spread in mean_curve(Group("g", {}, runs), NAME, against)
    ]
    np.testing.assert_allclose(compute(CURVE, on_page(*runs), against), ours, rtol=1e-6, atol=1e-9)
    assert (name in ("no range", "one point of several")) == (ours == [])


def test_a_thinned_curve_keeps_its_ends_and_its_values(compute: Callable[..., Any]) -> None:
    run = run_of([t / 1000 for t in range(1000)])
    thin = "(run, most) => meanCurve([run], 'ema_acc_global', (p) => p.bytes, most).map(({x, y}) => [x, y.mean])"
    found = compute(thin, *on_page(run), 11)
    assert [found[0], found[-1], len(found)] == [[100, 0], [100_000, pytest.approx(0.999)], 11]
    assert all(share == pytest.approx((size / 100 - 1) / 1000) for size, share in found)
