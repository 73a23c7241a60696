"""A leaderboard against sums done by hand: everybody is read at the same bytes, and the best line is nobody's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pffdst.report.groups import Group
from reproduce.board import _draw, at_budget, board, by_seed, front, left_out, write_front
from reproduce.figures import tables_of
from reproduce.page import text, write
from reproduce.record import Entry, Record
from reproduce.study import Study

MakeEntry = Callable[..., Entry]


@pytest.fixture
def ranked(study: Study) -> Study:
    (section,) = study.sections
    study.sections = [replace(section, budget=250, levels=[0.3, 0.45])]
    return study


@pytest.fixture
def record(make_entry: MakeEntry, tmp_path: Path) -> Record:
    runs = [
        make_entry("fixed", 0, [0.1, 0.2, 0.3, 0.4], 100),
        make_entry("fixed", 1, [0.1, 0.3, 0.3, 0.5], 100),
        make_entry("moving", 0, [0.3, 0.4, 0.5], 50),
        make_entry("moving", 1, [0.2, 0.3, 0.4], 50),
    ]
    return Record(tmp_path / "record", {(run.row, run.seed): run for run in runs})


def test_rows_are_read_at_the_budget_and_ranked_by_it(ranked: Study, record: Record) -> None:
    (table,) = tables_of(ranked, record)
    # between 200 and 300 bytes; moving ends after 150, and is read there
    assert at_budget(table.groups["fixed"], 250) == pytest.approx({0: 0.25, 1: 0.3})
    assert at_budget(table.groups["moving"], 250) == pytest.approx({0: 0.5, 1: 0.4})
    head, first, second = board(table)
    shown = dict(zip(head, first, strict=True)), dict(zip(head, second, strict=True))
    assert [line["run"] for line in shown] == ["PFFDST", "a fixed mask"]
    assert [line["server average"] for line in shown] == ["45.00", "27.50"]
    assert shown[0]["- reference"].startswith("+17.50 ± ")
    # .3 within the budget: fixed gets there with seed 1 alone, as it needs 300 bytes with seed 0
    assert [line["bytes to 30 %"] for line in shown] == ["75 B", "200 B (1 of 2)"]
    assert [line["bytes to 45 %"] for line in shown] == ["150 B (1 of 2)", "not reached"]
    assert [line["bytes sent"] for line in shown] == ["150 B", "250 B"]
    assert [line["paper_bytes"] for line in shown] == ["225 B", "375 B"]


def test_a_run_that_is_first_evaluated_after_the_budget_is_left_out_and_told(
    ranked: Study, record: Record, make_entry: MakeEntry
) -> None:
    record.entries["moving", 1] = make_entry("moving", 1, [0.2, 0.3], 300)
    (table,) = tables_of(ranked, record)
    head, first, _ = board(table)
    shown = dict(zip(head, first, strict=True))
    assert (shown["run"], shown["n"], shown["bytes sent"]) == ("PFFDST", "1", "150 B")
    assert left_out(table) == ["PFFDST"]
    assert "after the budget, which are left out: PFFDST." in text(ranked, "masks", record)
    record.entries["moving", 0] = make_entry("moving", 0, [0.2, 0.3], 300)
    assert [line[2] for line in board(tables_of(ranked, record)[0])[1:]] == ["a fixed mask"]


def test_a_row_of_its_own_spread_has_no_ranks_and_opens_nobody_s(ranked: Study, record: Record) -> None:
    ranked.apart = ["moving"]
    assert [line[:3] for line in board(tables_of(ranked, record)[0])[1:]] == [
        ["1", "", "PFFDST"],
        ["2", "1", "a fixed mask"],
    ]


def test_what_comes_after_the_budget_changes_nothing(ranked: Study, record: Record, make_entry: MakeEntry) -> None:
    before = board(tables_of(ranked, record)[0])
    longer = make_entry("fixed", 1, [0.1, 0.3, 0.3, 0.5, 0.9, 0.9], 100)
    known = record.entries["fixed", 1]
    record.entries["fixed", 1] = replace(known, evaluations=longer.evaluations)
    assert board(tables_of(ranked, record)[0]) == before


def test_the_page_has_the_board_its_picture_and_how_ranks_are_meant(ranked: Study, record: Record) -> None:
    path = record.folder.parent / "masks.md"
    write(ranked, "masks", record, path)
    page = path.read_text()
    assert page == text(ranked, "masks", record)
    assert "| rank | at 95 % | run |" in page
    assert "Tukey's test" in page
    assert [file.name for file in record.folder.glob("*.png")] == ["1_accuracy_by_bytes.png"]
    assert "(masks/1_accuracy_by_bytes.png)" in page


curves = st.lists(st.tuples(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(1, 50)), min_size=1)


@given(make=curves)
def test_no_evaluation_is_above_the_best_line_and_every_point_of_it_is_one(
    make_entry: MakeEntry, make: list[tuple[list[int], int]]
) -> None:
    groups = {
        f"r{i}": Group(f"r{i}", {"row": f"r{i}"}, (make_entry(f"r{i}", 0, [y / 100 for y in ys], step).run,))
        for i, (ys, step) in enumerate(make)
    }
    line = front(groups)
    every = [(t * step, y / 100) for ys, step in make for t, y in enumerate(ys, start=1)]
    assert all((size, share) in every for size, share, _ in line)
    assert all(b > a for (_, a, _), (_, b, _) in pairwise(line))
    for size, share in every:
        assert any(at <= size and best >= share for at, best, _ in line)


def test_the_best_line_ends_at_the_budget_as_the_tables_do(ranked: Study, record: Record) -> None:
    (table,) = tables_of(ranked, record)
    assert [size for size, _, _ in front(table.groups)][-1] == 150
    fixed = {"fixed": table.groups["fixed"]}
    assert [size for size, _, _ in front(fixed)] == [100, 200, 300, 400]
    assert [size for size, _, _ in front(fixed, 250)] == [100, 200]
    assert by_seed(table)[1:] == [
        ["a fixed mask", "25.00", "30.00", "", ""],
        ["PFFDST", "50.00", "40.00", "+25.00", "+10.00"],
    ]


def test_a_row_s_line_goes_as_far_as_all_its_seeds_whatever_rounds_they_took(make_entry: MakeEntry) -> None:
    runs = (make_entry("r", 0, [0.1, 0.2, 0.3, 0.4, 0.5], 80).run, make_entry("r", 1, [0.3, 0.5], 200).run)
    line = front({"r": Group("r", {}, runs)})
    assert [size for size, _, _ in line] == [200, 240, 320, 400]
    assert [share for _, share, _ in line] == pytest.approx([0.275, 0.32, 0.41, 0.5])


def test_a_row_without_a_line_is_named_in_the_picture(ranked: Study, record: Record, make_entry: MakeEntry) -> None:
    apart = [make_entry("moving", 0, [0.1, 0.2], 10).run, make_entry("moving", 1, [0.2, 0.3], 1000).run]
    (table,) = tables_of(ranked, record)
    table.groups["moving"] = replace(table.groups["moving"], runs=tuple(apart))
    ax = Figure().add_subplot()
    _draw(ax, table, front(table.groups))
    assert "PFFDST (not drawn: its seeds share no range)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_picture_is_drawn(ranked: Study, record: Record, tmp_path: Path) -> None:
    write_front(tables_of(ranked, record)[0], tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000
