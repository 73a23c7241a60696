"""APF: freezing times by hand, what is frozen stays and is not sent, and the limit of FedAvg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.rule import Cohort
from pffdst.methods.updates.apf import Freezing
from pffdst.run import play_round

STAGE = Stage(0, 0, 99, ())


def activity(rule: Freezing, moves: Sequence[str], rounds: int, others: Freezing | None = None) -> list[list[bool]]:
    """In which rounds each weight is active.

    One that goes `on` changes by 1 in each active round, one that `swings` by 1 and -1 in turn, one that `stands` by 0.
    From half of the rounds on `others`, if any, takes the place of the rule, with its state.
    """
    n = len(moves)
    layout = Layout((Entry("a", (1, n), 0, "maskable"), Entry("b", (1,), n, "parameter")))
    model = GlobalModel.of(Positions.all(layout), Positions.none(layout), torch.zeros(n), torch.zeros(1))
    step = torch.tensor([0.0 if move == "stands" else 1.0 for move in moves])
    swings, active = torch.tensor([move == "swings" for move in moves]), []
    for t in range(rounds):
        if others is not None and t == rounds // 2:
            others.load_state_dict(rule.state_dict(), layout)
            rule = others
        model = rule.before_round(model, STAGE, t, 0) or model
        here = model.trainable_at.bits
        active.append(here.tolist())
        mean = model.with_trained(model.trained + step[here], model.rest)
        step = torch.where(swings & here, -step, step)
        model = rule.after_round(Cohort(mean, torch.ones(n), 1, 1, model), STAGE, t, 0)
    return [list(one) for one in zip(*active, strict=True)]


def test_freezing_times_by_hand() -> None:
    """|E| / A of what swings: 1, then 1/3 (L = 1), .43 (L = 2), .47 (L = 3). What goes on has 1; A = 0 is no rest."""
    on, swings, stands = activity(Freezing(decay=0.5, threshold=0.5), ["on", "swings", "stands"], 9)
    assert swings == [True, True, False, True, False, False, True, False, False]
    assert all(on)
    assert all(stands)


def test_a_weight_that_is_no_longer_stable_is_frozen_for_half_as_long() -> None:
    """L = 3, as above; then three steps the same way: |E| / A = .35 is stable (L = 4), .68 (L = 2) and .84 are not."""
    rule = Freezing(decay=0.5, threshold=0.5)
    activity(rule, ["on", "swings"], 7)
    layout = Layout((Entry("a", (1, 2), 0, "maskable"), Entry("b", (1,), 2, "parameter")))
    model = GlobalModel.of(Positions.all(layout), Positions.none(layout), torch.zeros(2), torch.zeros(1))
    found = []
    for t in (10, 20, 30):
        mean = model.with_trained(model.trained + 1.0, model.rest)
        rule.after_round(Cohort(mean, torch.ones(2), 1, 1, model), STAGE, t, 0)
        found.append(sum(rule.before_round(model, STAGE, u, 0) is not None for u in range(t + 1, t + 8)))
    assert found == [4, 2, 1]


@pytest.mark.parametrize(("steady", "then"), [(1, True), (2, False)])
def test_the_threshold_halves_where_more_than_80_percent_are_frozen(steady: int, then: bool) -> None:
    """Of ten weights nine, or eight, are frozen in round 2. In round 3 |E| / A is .43: below .5, but not below .25."""
    moves = ["on"] * steady + ["swings"] * (10 - steady)
    swings = activity(Freezing(decay=0.5, threshold=0.5), moves, 5)[-1]
    assert swings == [True, True, False, True, then]


@pytest.mark.parametrize("steady", [1, 2])
def test_it_goes_on_from_its_state(steady: int) -> None:
    moves = ["on"] * steady + ["swings"] * (10 - steady)
    whole = activity(Freezing(decay=0.5, threshold=0.5), moves, 12)
    assert activity(Freezing(decay=0.5, threshold=0.5), moves, 12, Freezing(decay=0.5, threshold=0.5)) == whole


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            done = play_round(experiment, t)
            assert not done.record.rejected
            frozen = done.planned.frozen_at.index
            assert torch.equal(experiment.server.model.weights[frozen], done.planned.weights[frozen])
    return experiment


def test_what_is_frozen_stays_and_is_not_sent(make_experiment: Callable[..., Experiment]) -> None:
    lively = ("updates.decay=0.5", "updates.threshold=0.5", "rounds=5", "codec.level=0")
    held = played(make_experiment("method=apf", *lively)).ledger.total
    dense = played(make_experiment("method=fedavg", *lively[2:])).ledger.total
    assert held["up/values"] < dense["up/values"]
    assert held["down/values"] < dense["down/values"]
    assert held["down/catch_up"] > 0


def test_without_a_threshold_it_is_fedavg(make_experiment: Callable[..., Experiment]) -> None:
    never = played(make_experiment("method=apf", "updates.threshold=0", "rounds=3"))
    average = played(make_experiment("method=fedavg", "rounds=3"))
    assert never.server.model.same_as(average.server.model)


@pytest.mark.parametrize("wrong", ["freeze=two_stage", "readjust=client_gradient"])
def test_what_does_not_go_with_it_is_refused(wrong: str, config_dir: Any) -> None:
    with pytest.raises(ConfigError, match="updates=apf freezes"):
        check(compose(["method=apf", "logger=csv", wrong], config_dir))


@pytest.mark.parametrize(("key", "value"), [("decay", 1.0), ("threshold", -0.1)])
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"updates\.{key}.*{value}"):
        Freezing(**{key: value})


def test_the_decay_is_what_is_kept() -> None:
    """a = .75: what swings has |E| / A = 1, then |.75 - 1| / (.75 + 1) = 1/7 < .5: L = 1. With .25 kept it is .6."""
    assert activity(Freezing(decay=0.75, threshold=0.5), ["swings"], 3) == [[True, True, False]]
