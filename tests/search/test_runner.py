"""What a trial reached, or why it reached nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pffdst.core.errors import UserError
from pffdst.loggers.csv import CsvLogger
from pffdst.runs.jobs import mark
from pffdst.search.runner import _figures, run_search
from pffdst.search.trials import OBJECTIVES, Trials


@pytest.mark.parametrize("lost", ["nan", "inf", "-inf"])
def test_a_figure_that_is_no_number_is_a_failure_and_says_so(tmp_path: Path, lost: str) -> None:
    # Optuna would record such a trial as neither done nor failed by us, and the search would go on for ever.
    mark(tmp_path, "0" * 16, "done")
    (tmp_path / CsvLogger.FILE).write_text(f"round,val/loss_global,cost/bytes\n1,0.5,100\n2,{lost},200\n")
    assert _figures(tmp_path, ["cost/bytes"]) == ({"cost/bytes": 200.0}, None)
    assert _figures(tmp_path, ["val/loss_global", "cost/bytes"]) == ({}, f"its last round has val/loss_global {lost}")
    assert _figures(tmp_path, ["val/f1"]) == ({}, "its last round has no val/f1")


def test_a_search_that_is_refused_leaves_the_one_in_its_folder_as_it_is(tmp_path: Path, config_dir: Path) -> None:
    Trials.open(tmp_path, {OBJECTIVES: {"cost/bytes": "minimize"}}).note_request(["search=mine"], wanted=3)
    with pytest.raises(UserError, match="holds a search with other settings"):
        run_search(["search=digits_lr", f"search.folder={tmp_path}"], config_dir, lambda _: 0.0)
    there = Trials.load(tmp_path)
    assert there is not None
    assert (there.given, there.left) == (("search=mine",), 3)
