"""FedSGC: agreement is a priority for a share, counts are exact, and the signs that go down are those of the step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.methods.readjust.fedsgc import FedSgc, agreeing_first, signs_of
from pffdst.methods.rule import Cohort

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
