"""Which rounds are evaluated: every so many, or at equal steps of paper_bytes; the last one always."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from pffdst.experiment import Experiment
from pffdst.loggers.csv import read_metrics
from pffdst.metrics import names


def evaluated(experiment: Experiment) -> tuple[list[int], list[int]]:
    """Rounds with an accuracy, and paper_bytes after every round."""
    rows = read_metrics(experiment.folder / "metrics.csv")
    return (
        [int(row[names.ROUND]) for row in rows if names.ACC_GLOBAL in row],
        [int(row[names.COST_PAPER_BYTES]) for row in rows],
    )


@pytest.mark.parametrize("step", [150_000, 400_000, 10**12])
def test_steps_of_bytes_are_evaluated_when_a_round_passes_one(
    make_experiment: Callable[..., Experiment], play: Callable[[Experiment], object], step: int
) -> None:
    settings = ["rounds=12", "readjust.schedule.interval=1", "eval_every=1", f"eval_every_bytes={step}"]
    experiment = make_experiment("method=pffdst", *settings)
    play(experiment)
    rounds, paper = evaluated(experiment)
    assert len({b - a for a, b in pairwise(paper)}) > 1, "rounds should differ in cost"
    marks = range(step, paper[-1] + 1, step)
    first_past = {next(t for t, total in enumerate(paper, start=1) if total >= mark) for mark in marks}
    assert rounds == sorted(first_past | {12})


def test_without_steps_of_bytes_it_is_every_so_many_rounds(
    make_experiment: Callable[..., Experiment], play: Callable[[Experiment], object]
) -> None:
    experiment = make_experiment("method=random_mask", "rounds=8", "eval_every=3")
    play(experiment)
    assert evaluated(experiment)[0] == [3, 6, 8]
