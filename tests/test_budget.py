"""A budget in measured bytes ends a run with the round that passes it, and changes nothing before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pffdst.experiment import Experiment
from pffdst.observers import Budget
from pffdst.run import run

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
    assert experiment.progress.stop == "its share of the rounds is played: 3 of 6"


@pytest.mark.parametrize("wrong", [{"bytes": 0}, {"bytes": 5, "share": 0.0}, {"bytes": 5, "share": 1.5}])
def test_what_is_no_budget_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"but got .*; write e\.g\."):
        Budget(**wrong)  # type: ignore[arg-type]
