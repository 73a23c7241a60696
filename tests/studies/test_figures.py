"""The figures of a page against sums done by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from pffdst.core.errors import UserError
from reproduce.figures import by_formula, cost_ratio, sent, tables_of
from reproduce.page import Told, text
from reproduce.record import Entry, Record
from reproduce.study import Study

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


def test_differences_are_paired_by_seed(study: Study, record: Record) -> None:
    (table,) = tables_of(study, record)
    gains = table.gains(table.groups["moving"], "ema_acc_global")
    assert gains == pytest.approx({0: 0.1, 1: -0.05})
    shown = table.accuracies()[2]
    assert shown[1] == "2"
    assert shown[2] == f"47.50 ± {100 * statistics.stdev([0.5, 0.45]):.2f}"
    assert shown[-2] == f"+2.50 ± {100 * statistics.stdev([0.1, -0.05]):.2f}"
    assert table.accuracies()[1][-2:] == ["", ""]  # the reference less itself


def test_bytes_at_equal_accuracy_take_the_lower_end(study: Study, record: Record) -> None:
    groups = tables_of(study, record)[0].groups
    # seed 0: until .4 the reference spends 400, the other 100; seed 1: until .45 it is 400 against 150
    found = cost_ratio(groups["moving"], groups["fixed"], sent, "lower")
    assert (found.mean, found.n) == (pytest.approx((400 / 100 + 400 / 150) / 2), 2)
    assert cost_ratio(groups["moving"], groups["fixed"], by_formula, "lower").mean == pytest.approx(found.mean)
    reached = cost_ratio(groups["moving"], groups["fixed"], sent, "reference")
    assert (reached.mean, reached.n, reached.of) == (pytest.approx(4.0), 1, 2)  # .5 is never reached with seed 1


def test_who_is_never_there_is_not_reached(study: Study, make_entry: MakeEntry, tmp_path: Path) -> None:
    runs = [make_entry("fixed", 0, [0.5], 10), make_entry("moving", 0, [0.4], 1)]
    (table,) = tables_of(study, Record(tmp_path, {(run.row, run.seed): run for run in runs}))
    assert table.costs()[2][-1] == "not reached"


def test_a_page_shows_what_is_there_and_names_what_is_not(study: Study, record: Record) -> None:
    del record.entries["moving", 1]
    page = text(study, "masks", record)
    assert "**3 of 4 runs are done.** Still to come: moving (seed 1)" in page.replace("\n", " ") or "0 of 4" in page
    assert "| PFFDST | 1 | 50.00 |" in page
    assert "Commit: " + "0" * 40 in page


def test_conclusions_are_filled_with_figures(study: Study, record: Record) -> None:
    told = Told(study, record)
    assert told.fill("{n moving} runs, {average fixed}, {gain moving fixed}") == "2 runs, 45.00 ± 7.07, +2.50 ± 10.61"
    assert told.fill("{cheaper moving fixed}") == "3.33 ± 0.94"
    assert told.fill("{reach moving fixed}") == "4.00 (1 of 2)"
    for wrong in ("{average nobody}", "{gain moving}", "{mean moving}"):
        with pytest.raises(UserError, match="no such figure"):
            told.fill(wrong)


def test_conclusions_say_what_is_not_played_yet(study: Study, tmp_path: Path) -> None:
    assert Told(study, Record(tmp_path)).fill("{average fixed}") == "(not played yet)"
