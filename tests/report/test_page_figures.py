"""What page/stats.js computes, against the same in Python: the page and the files never disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from pffdst.metrics import names
from pffdst.report.figures import bytes_to_reach
from pffdst.report.payload import _run
from pffdst.report.reading import Run

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
