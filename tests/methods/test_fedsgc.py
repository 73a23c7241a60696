"""FedSGC: agreement is a priority for a share, counts are exact, and the signs that go down are those of the step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.readjust.fedsgc import FedSgc, agreeing_first, signs_of
from pffdst.methods.rule import Answer, Cohort
from pffdst.methods.schedule import Every

MakeModel = Callable[..., GlobalModel]
STAGE = Stage(0, 0, 40, (10, 6))


def test_agreement_goes_first_for_its_share_alone() -> None:
    key = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    agrees = np.array([False, False, False, True, False, True])
    assert agreeing_first(key, agrees, 4, 0.5).tolist() == [0, 1, 3, 5]
    assert agreeing_first(key, agrees, 4, 0.25).tolist() == [0, 1, 2, 3]
    assert agreeing_first(key, agrees, 4, 0.2).tolist() == [0, 1, 2, 3], "floor(0.8) is none"
    assert agreeing_first(key, ~agrees, 2, 1.0).tolist() == [0, 1]
    assert agreeing_first(key, np.zeros(6, bool), 3, 1.0).tolist() == [0, 1, 2], "others stand in"


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_exactly_so_many_are_taken_and_none_twice(size: int, share: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(0, size + 1))
    found = agreeing_first(draw.integers(0, 5, size).astype(float), draw.random(size) < 0.5, count, share)
    assert len(set(found.tolist())) == count


def test_a_share_is_that_of_the_number_as_written() -> None:
    """In floating point 0.29 of 100 is a little less than 29."""
    agrees = np.arange(200) >= 100
    found = agreeing_first(np.arange(200.0), agrees, 100, 0.29)
    assert int(agrees[found].sum()) == 29


def test_without_preference_it_is_the_least_of_all() -> None:
    key = np.array([5.0, 1.0, 3.0, 1.0])
    assert agreeing_first(key, np.array([True, False, True, False]), 2, 0.0).tolist() == [1, 3]


def test_the_signs_that_arrive_are_those_of_the_last_step(layout: Layout, make_model: MakeModel) -> None:
    rule, before = FedSgc(), make_model(layout, seed=1, alive=0.6)
    alive = before.alive.clone()
    alive[before.alive_at.index[:2]] = False  # two die, two are new
    alive[(~before.alive).nonzero().flatten()[:2]] = True
    after = before.with_masks(alive)
    step = after.held.clone()
    step[::3] += 1.0
    step[1::3] -= 1.0
    after = after.with_held(step, after.rest)
    rule._last.at, rule._last.values = before.alive_at, before.held
    d = signs_of(after, rule.broadcast(after, STAGE, 1))
    assert d.tolist() == torch.sign(after.weights - before.weights).tolist()


def test_before_any_step_nothing_has_a_sign(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    assert not signs_of(model, FedSgc().broadcast(model, STAGE, 1)).any()


def test_it_sends_and_asks_only_on_the_schedules_rounds() -> None:
    rule = FedSgc()
    assert [t for t in range(25) if rule.down(STAGE, t)] == [1, 11]
    assert [t for t in range(25) if rule.own_masks(STAGE, t)] == [1, 11]
    assert [t for t in range(25) if rule.probes(STAGE, t)] == [1, 11]


def test_a_checkpoint_keeps_the_model_before(layout: Layout, make_model: MakeModel) -> None:
    one, other = FedSgc(), FedSgc()
    before, after = make_model(layout, seed=1), make_model(layout, seed=2)
    stage = Stage(0, 0, 40, before.alive_at.counts)
    one.after_round(Cohort(before, torch.ones(len(before.alive_at)), 1, 1, before), stage, 0, 0)
    other.load_state_dict(one.state_dict(), layout)
    ours, theirs = (signs_of(after, rule.broadcast(after, STAGE, 1)) for rule in (one, other))
    assert ours.tolist() == theirs.tolist()
    assert ours.any()


FLAT = Layout((Entry("a", (2, 4), 0, "maskable"),))


def moving_turn() -> Any:
    """Weights 0 to 3 are alive and were 1, 2, 3, 4; d is + - + - there, + at 4, - at 5, 0 at 6 and 7."""
    alive = torch.tensor([True] * 4 + [False] * 4)
    model = GlobalModel(FLAT, torch.tensor([1.0, 2.0, 3.0, 4.0, 0, 0, 0, 0]), alive, torch.zeros(8, dtype=torch.bool))
    at = {"rose": [0, 2], "stood": [], "dead_rose": [4], "dead_fell": [5]}
    turn = SimpleNamespace(
        t=0, stage=Stage(0, 0, 40, (4,)), start=model, scratch={}, epochs=3, trainable=model.trainable_at,
        received={k: Positions(FLAT, index=torch.tensor(v, dtype=torch.int64)) for k, v in at.items()},
        values=lambda: torch.tensor([1.5, 3.5, 2.9, 2.0, 0, 0, 0, 0]),
        gradient=lambda: torch.tensor([0, 0, 0, 0, 5.0, 1.0, -9.0, 3.0]),
    )  # fmt: skip
    turn.train_on = lambda at: setattr(turn, "trainable", at)
    return turn


def sgc(agree: float) -> FedSgc:
    """Half of four weights move."""
    return FedSgc(alpha=0.5, prune_agree=agree, grow_agree=agree, schedule=Every(interval=1, first=0))


@pytest.mark.parametrize(("agree", "expected"), [(0.5, [1, 3, 5, 6]), (0.0, [1, 2, 4, 6]), (1.0, [0, 3, 5, 6])])
def test_what_a_client_moves_by_hand(agree: float, expected: list[int]) -> None:
    """Changes + + - - against d + - + -: 1 and 2 disagree, of |w| 3.5 and 2.9; of all |w| 0 and 3 are smallest.

    Of dead ones 5 alone agrees: d is - there, and a gradient of 1 moves it down; the gradient of 4 opposes its d, 6 and
    7 have no d. With a preference for one of two 2 leaves, then 0, and 5 comes, then 6; with none 0 and 3, 6 and 4; for
    both 2 and 1, and 5, since nothing else agrees, with 6.
    """
    turn = moving_turn()
    sgc(agree).epoch_end(turn, 0)
    assert "moved" not in turn.scratch, "of three epochs two come first"
    sgc(agree).epoch_end(turn, 1)
    assert turn.trainable.index.tolist() == expected


def test_with_one_epoch_the_mask_moves_at_its_end() -> None:
    turn, rule = moving_turn(), sgc(0.5)
    turn.epochs = 1
    measured = rule.measure(turn)
    trained = turn.start.with_held(torch.tensor([1.5, 3.5, 2.9, 2.0]), turn.start.rest)
    made = rule.answer(Answer(trained), measured, turn.stage, 0)
    assert made.own_mask
    assert made.model.alive_at.index.tolist() == [1, 3, 5, 6]
    assert made.model.held.tolist() == [3.5, 2.0, 0.0, 0.0]


def test_where_nothing_moves_it_is_a_random_mask(
    make_experiment: Callable[..., Experiment], play: Callable[[Experiment], Any]
) -> None:
    still = make_experiment("method=fedsgc", "rounds=3", "readjust.alpha=0")
    fixed = make_experiment("method=random_mask", "rounds=3")
    play(still), play(fixed)
    assert still.server.model.same_as(fixed.server.model)


def test_the_step_whose_signs_go_down_began_at_the_model_that_was_sent(layout: Layout, make_model: MakeModel) -> None:
    rule, before = FedSgc(), make_model(layout, seed=1, alive=1.0)
    after = before.with_held(before.held + torch.tensor([1.0, -1.0] * 16), before.rest)
    stage = Stage(0, 0, 40, before.alive_at.counts)
    rule.after_round(Cohort(after, torch.ones(32), 1, 1, before), stage, 0, 0)
    assert signs_of(after, rule.broadcast(after, stage, 1)).tolist() == [1, -1] * 16


def test_the_share_that_goes_first_is_rounded_down() -> None:
    key, agrees = np.arange(1.0, 7.0), np.array([False, False, False, False, True, False])
    assert agreeing_first(key, agrees, 3, 0.3).tolist() == [0, 1, 2], "floor(.9) is none"
