"""The figures of a page against sums done by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pffdst.core.errors import UserError
from reproduce.figures import by_formula, cost_ratio, gains, level_gains, sent, tables_of, times, training
from reproduce.page import text
from reproduce.record import Entry, Record
from reproduce.study import Study
from reproduce.told import Told

MakeEntry = Callable[..., Entry]


@pytest.fixture
def record(make_entry: MakeEntry, tmp_path: Path) -> Record:
    runs = [
        make_entry("fixed", 0, [0.1, 0.2, 0.3, 0.4], 100),
        make_entry("fixed", 1, [0.2, 0.3, 0.4, 0.5], 100),
        make_entry("moving", 0, [0.3, 0.4, 0.5], 50),
        make_entry("moving", 1, [0.2, 0.3, 0.45], 50),
    ]
    return Record(tmp_path / "record", {(run.row, run.seed): run for run in runs})


def test_differences_are_paired_by_seed_and_read_at_equal_bytes(study: Study, record: Record) -> None:
    (table,) = tables_of(study, record)
    moving, fixed = table.groups["moving"], table.groups["fixed"]
    assert gains(moving, fixed, "ema_acc_global") == pytest.approx({0: 0.1, 1: -0.05})  # at the ends
    # moving ends after 150 bytes; there fixed is half way between its evaluations at 100 and 200: .15 and .25
    assert level_gains(moving, fixed, sent) == pytest.approx({0: 0.5 - 0.15, 1: 0.45 - 0.25})
    assert level_gains(fixed, moving, sent) == pytest.approx({0: 0.15 - 0.5, 1: 0.25 - 0.45})
    # paper_bytes are half as many more for both, so nothing changes; of training, both spend 1000 a round
    assert level_gains(moving, fixed, by_formula) == pytest.approx(level_gains(moving, fixed, sent))
    assert level_gains(moving, fixed, training) == pytest.approx({0: 0.5 - 0.3, 1: 0.45 - 0.4})
    assert table.accuracies()[1][3:7] == ["", "", "", ""]  # the reference less itself


def test_equal_bytes_of_a_run_that_spent_less_than_the_others_first_evaluation_are_unknown(
    study: Study, make_entry: MakeEntry, tmp_path: Path
) -> None:
    runs = [make_entry("fixed", 0, [0.1, 0.2], 1000), make_entry("moving", 0, [0.5], 10)]
    (table,) = tables_of(study, Record(tmp_path, {(run.row, run.seed): run for run in runs}))
    assert level_gains(table.groups["moving"], table.groups["fixed"], sent) == {}


def test_a_page_says_an_interval_only_where_both_runs_are_near_their_ends(study: Study, record: Record) -> None:
    (table,) = tables_of(study, record)
    head, _, moving = table.accuracies()
    shown = dict(zip(head, moving, strict=True))
    # differences of the ends are 10 and -5 points: a sd of 10.61, and t of one degree of freedom is 12.71
    half = 12.7062 * 15 / math.sqrt(2) / math.sqrt(2)
    assert shown["- reference, at the ends"] == f"+2.50 ± {half:.2f}"
    assert shown["- reference, at equal bytes sent"] == "+27.50"  # fixed is read after 150 of its 400 bytes


def test_bytes_at_equal_accuracy_take_the_lower_end(study: Study, record: Record) -> None:
    groups = tables_of(study, record)[0].groups
    # seed 0: until .4 the reference spends 400, the other 100; seed 1: until .45 it is 400 against 150
    found = cost_ratio(groups["moving"], groups["fixed"], sent, "lower")
    assert found == pytest.approx([400 / 100, 400 / 150])
    assert cost_ratio(groups["moving"], groups["fixed"], by_formula, "lower") == pytest.approx(found)
    assert cost_ratio(groups["moving"], groups["fixed"], sent, "reference") == [4.0, None]  # .5 is never reached
    assert times(found) == f"{math.sqrt(4 * 400 / 150):.2f} (2.67 to 4.00)"


def test_who_is_never_there_is_not_reached(study: Study, make_entry: MakeEntry, tmp_path: Path) -> None:
    runs = [make_entry("fixed", 0, [0.5], 10), make_entry("moving", 0, [0.4], 1)]
    (table,) = tables_of(study, Record(tmp_path, {(run.row, run.seed): run for run in runs}))
    assert table.costs()[2][3] == "not reached"


def test_a_page_shows_what_is_there_and_names_what_is_not(study: Study, record: Record) -> None:
    del record.entries["moving", 1]
    page = text(study, "masks", record)
    assert "**3 of 4 runs are done.** Still to come: moving (seed 1)" in page.replace("\n", " ") or "0 of 4" in page
    assert "| PFFDST | 1 | 50.00 |" in page
    assert "Commit: " + "0" * 40 in page


def test_conclusions_are_filled_with_figures(study: Study, record: Record) -> None:
    told = Told(study, record)
    assert told.fill("{n moving} runs, {average fixed}, {gain moving fixed}") == "2 runs, 45.00, +27.50"
    assert told.fill("{end_gain moving fixed}") == "+2.50 ± 95.30"
    assert told.fill("{interval 2} and {interval 8}") == "± 95.30 and ± 47.65"
    assert told.fill("{cheaper moving fixed}") == "3.27 (2.67 to 4.00)"
    assert told.fill("{reach moving fixed}") == "4.00 (1 of 2)"
    for wrong in ("{average nobody}", "{gain moving}", "{mean moving}"):
        with pytest.raises(UserError, match="no such figure"):
            told.fill(wrong)


def test_a_line_may_end_within_a_figure(study: Study, record: Record) -> None:
    told = Told(study, record)
    assert told.fill("{gain\n  moving fixed}") == told.fill("{gain moving fixed}")


def test_conclusions_say_what_is_not_played_yet(study: Study, tmp_path: Path) -> None:
    assert Told(study, Record(tmp_path)).fill("{average fixed}") == "(not played yet)"
