"""Observers end a run where they say, and it stays ended; a lengthened run is the one begun with so many rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pffdst.config.check import problems_of
from pffdst.config.compose import session
from pffdst.experiment import Experiment
from pffdst.observers import Budget, EarlyStopping
from pffdst.run import run
from pffdst.runs import checkpoint

Make = Callable[..., Experiment]
WHOLE = ("method=feddst", "rounds=6", "eval_every=2")


def spent(summary: dict[str, int]) -> int:
    return summary["bytes_up"] + summary["bytes_down"]


def test_the_round_that_passes_the_budget_is_the_last_and_is_evaluated(make_experiment: Make) -> None:
    whole = run(make_experiment(*WHOLE))
    half = make_experiment(*WHOLE, "observers=budget", f"observers.budget.bytes={spent(whole) // 2}")
    ended = run(half)
    assert 1 < ended["rounds"] < 6
    assert spent(ended) >= spent(whole) // 2
    last = half.ledger.round["bytes_up"] + half.ledger.round["bytes_down"]
    assert spent(ended) - last < spent(whole) // 2  # the round before had not passed it
    assert half.progress.stop is not None
    assert ended["acc_global"] is not None


def test_a_share_of_the_budget_and_one_that_is_never_spent(make_experiment: Make) -> None:
    whole = run(make_experiment(*WHOLE))
    budget = ("observers=budget", f"observers.budget.bytes={2 * spent(whole)}")
    assert run(make_experiment(*WHOLE, *budget))["model_sha256"] == whole["model_sha256"]
    assert run(make_experiment(*WHOLE, *budget, "observers.budget.share=0.25"))["rounds"] == 2


def test_a_run_that_does_not_spend_its_bytes_plays_the_share_of_its_rounds(make_experiment: Make) -> None:
    rich = ("observers=budget", f"observers.budget.bytes={10**12}", "observers.budget.share=0.5")
    experiment = make_experiment(*WHOLE, *rich)
    assert run(experiment)["rounds"] == 3
    assert experiment.progress.stop == "its share of the rounds is done: 3 of 6"


@pytest.mark.parametrize("wrong", [{"bytes": 0}, {"bytes": 5, "share": 0.0}, {"bytes": 5, "share": 1.5}])
def test_what_is_no_budget_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"but got .*; write e\.g\. observers\.budget\."):
        Budget(**wrong)  # type: ignore[arg-type]


# ---- no better for a while -----------------------------------------------------------------------------------------

STILL = ("method=random_mask", "rounds=9", "eval_every=2", "lr=1e-9", "observers=early_stopping")
HELD_OUT = ("validation_share=0.2",)


def test_a_figure_that_is_no_number_is_never_the_best() -> None:
    early = EarlyStopping("test/acc_global", patience=2)

    def on(value: float) -> str | None:
        run: Any = SimpleNamespace(progress=SimpleNamespace(row={"test/acc_global": value}), scheduled=lambda t: True)
        done: Any = SimpleNamespace(plan=SimpleNamespace(t=0))
        return early.on_round(run, done)

    assert [on(value) for value in (math.nan, 0.1, 0.2, math.nan, 0.3)] == [None] * 5
    assert [on(value) is None for value in (math.nan, 0.3)] == [True, False]


@pytest.mark.parametrize(
    ("split", "figure"), [(HELD_OUT, "val/ema_acc_global"), ((), "test/ema_acc_global"), (HELD_OUT, "last5/acc_global")]
)
def test_a_run_ends_where_a_figure_has_not_been_better_for_so_many_evaluations(
    make_experiment: Make, split: tuple[str, ...], figure: str
) -> None:
    early = [f"observers.early_stopping.{line}" for line in (f"figure={figure}", "patience=2", "least=1e-9")]
    experiment = make_experiment(*STILL, *split, *early)
    assert run(experiment)["rounds"] == 6  # the best is that of round 2; rounds 4 and 6 are no better
    assert experiment.progress.stop == f"{figure} has not improved for 2 evaluations"
    falling = (*early[:2], "observers.early_stopping.mode=min", "observers.early_stopping.least=-1")
    assert run(make_experiment(*STILL, *split, *falling))["rounds"] == 9  # everything counts as better


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "needs a validation set: write validation_share=0.1"),
        (("observers.early_stopping.figure=test/acc_globl",), "its rows do not have: did you mean test/acc_global"),
        (("observers.early_stopping.figure=last5/acc_global",), "of the test set here"),
        (
            (*HELD_OUT, "observers.early_stopping.figure=test/acc_global"),
            "it is val/acc_global",
        ),
    ],
)
def test_a_figure_that_cannot_end_a_run_is_refused(settings: tuple[str, ...], words: str, config_dir: Path) -> None:
    with session(config_dir) as opened:
        for more, expected in ((settings, [words]), ((*HELD_OUT, "observers.early_stopping.figure=cost/bytes"), [])):
            made = opened.compose(["observers=early_stopping", *more])
            found = problems_of(made.cfg, made.choices)
            assert len(found) == len(expected)
            assert all(word in line for word, line in zip(expected, found, strict=True))


# ---- resumed and lengthened ----------------------------------------------------------------------------------------


def ended(experiment: Experiment, state: Any = None) -> dict[str, Any]:
    summary = run(experiment, state)
    return {key: value for key, value in summary.items() if key not in ("wall_s", "peak_rss_mb", "folder")}


@pytest.mark.parametrize(
    "observer",
    [
        ("observers=budget", "observers.budget.bytes=60000"),
        (*STILL[-2:], "observers.early_stopping.patience=2", "observers.early_stopping.figure=test/acc_global"),
    ],
)
def test_a_run_that_was_ended_stays_ended(make_experiment: Make, observer: tuple[str, ...]) -> None:
    """It may be killed between its last checkpoint and the word that it is done."""
    first, again = (make_experiment("freeze=none", "rounds=9", "eval_every=1", *observer) for _ in range(2))
    whole = ended(first)
    assert whole["rounds"] < 9
    assert ended(again, checkpoint.load(first.checkpoints / "last.ckpt")) == whole


LONGER = ("method=random_mask", "eval_every=2")


@pytest.mark.parametrize(("rounds", "more"), [(5, ()), (4, ()), (5, ("eval_every_bytes=100000",))])
def test_a_lengthened_run_is_judged_as_the_run_that_was_begun_with_so_many_rounds(
    make_experiment: Make, rounds: int, more: tuple[str, ...]
) -> None:
    """What was evaluated because the shorter run ended there is in no mean, no best value and no patience."""
    early = ("observers=early_stopping", "observers.early_stopping.figure=test/acc_global")
    made = [make_experiment(*LONGER, *early, *more, f"rounds={n}") for n in (rounds, 9, 9)]
    shorter, straight, went_on = made
    run(shorter)
    state = checkpoint.load(shorter.checkpoints / "last.ckpt")
    assert ended(went_on, state) == ended(straight)
    assert went_on.progress.history.state_dict() == straight.progress.history.state_dict()
    assert went_on.observers[0].state_dict() == straight.observers[0].state_dict()
