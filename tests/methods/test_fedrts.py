"""FedRTS: beliefs by hand, the limit without noise, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.methods.readjust.fedrts import FedRts
from pffdst.methods.rule import Cohort
from pffdst.methods.schedule import Every

MakeModel = Callable[..., GlobalModel]
STAGE = Stage(0, 0, 100, (8, 5))


@pytest.fixture
def model(layout: Layout, make_model: MakeModel) -> GlobalModel:
    """8 of 20 and 5 of 12 weights are alive, of different magnitudes."""
    alive = torch.zeros(32, dtype=torch.bool)
    alive[[0, 2, 4, 6, 8, 10, 12, 14, 20, 22, 24, 26, 28]] = True
    values = make_model(layout, alive=1.0).values.clone()
    values[:32] = torch.arange(32, 0, -1).float()
    return make_model(layout, alive=1.0).with_values(values).with_masks(alive)


def cohort(model: GlobalModel, samples: int = 10) -> Cohort:
    return Cohort(model, torch.full((len(model.alive_at),), float(samples)), samples, 1, model)


def rule(**settings: Any) -> FedRts:
    return FedRts(alpha=0.5, sampling=False, schedule=Every(interval=10, first=0, until=0.6), **settings)


def test_with_gamma_1_and_no_noise_the_smallest_make_room_for_the_first_dead(model: GlobalModel) -> None:
    """X is 1 for the kappa greatest of the aggregate, 0 for the other alive and 1/2 for every dead weight."""
    after = rule(gamma=1.0).after_round(cohort(model), STAGE, 0, 0)
    # zeta_0 = 1/2: 4 of 8 and round(2.5) = 2 of 5 are in question
    assert after.alive_at.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24]
    assert bool((after.weights[[1, 3, 5, 7, 21, 23]] == 0).all())
    assert torch.equal(after.weights[[0, 2, 4, 6]], model.weights[[0, 2, 4, 6]])


def test_beliefs_of_one_round_by_hand(layout: Layout, model: GlobalModel) -> None:
    own = rule(gamma=0.25, step=10.0)
    places = Positions(layout, index=torch.tensor([1, 3, 30]))
    own.observe(0, model, 30, {"places": places}, STAGE, 0)
    reversed_model = model.with_held(model.held.flip(0), model.rest)
    own.observe(1, reversed_model, 10, {"places": Positions(layout, index=torch.tensor([1]))}, STAGE, 0)
    own.after_round(cohort(model), STAGE, 0, 0)
    a, b = own._beliefs.a, own._beliefs.b
    # 0: greatest of the aggregate and of client 0 (p = .75), least of client 1
    assert a[0] == pytest.approx(1 + 10 * (0.25 + 0.75 * 0.75))
    # 14: least of the aggregate and of client 0, greatest of client 1
    assert a[14] == pytest.approx(1 + 10 * 0.75 * 0.25)
    # dead: named by both, by client 0 alone, by nobody
    assert a[[1, 3, 5]].tolist() == pytest.approx([1 + 10 * (0.125 + 0.75 * p) for p in (1.0, 0.75, 0.0)])
    assert np.allclose(a + b, 12.0)


def test_votes_are_of_one_round_by_hand(model: GlobalModel) -> None:
    """The same answers in two rounds move beliefs twice as far: 0 is among the greatest of all, 14 of nobody."""
    own = rule(gamma=0.25, step=10.0)
    for t in (3, 4):
        own.observe(0, model, 30, {}, STAGE, t)
        own.after_round(cohort(model), STAGE, t, 0)
    assert own._beliefs.a[[0, 14]].tolist() == pytest.approx([21.0, 1.0])
    assert own._beliefs.b[[0, 14]].tolist() == pytest.approx([1.0, 21.0])


def test_between_adjusting_rounds_only_alive_weights_are_judged_and_no_mask_moves(model: GlobalModel) -> None:
    own = rule()
    after = own.after_round(cohort(model), STAGE, 3, 0)
    assert after is model
    dead = ~model.alive.numpy()
    assert bool((own._beliefs.a[dead] == 1).all())
    assert np.allclose((own._beliefs.a + own._beliefs.b)[~dead], 12.0)


@pytest.mark.parametrize("sampling", [True, False])
def test_counts_are_exact_and_frozen_weights_stay(layout: Layout, make_model: MakeModel, sampling: bool) -> None:
    model = make_model(layout, alive=0.7, frozen=0.3)
    stage = Stage(1, 0, 100, tuple(max(1, n - 1) for n in model.trainable_at.counts))
    own = FedRts(sampling=sampling)
    after = own.after_round(cohort(model), stage, 0, 7)
    assert after.trainable_at.counts == stage.counts
    assert torch.equal(after.frozen, model.frozen)
    assert torch.equal(after.weights[model.frozen], model.weights[model.frozen])
    again = FedRts(sampling=sampling).after_round(cohort(model), stage, 0, 7)
    assert after.alive_at == again.alive_at, "the draw is named"


def test_a_checkpoint_keeps_the_beliefs_to_the_bit(layout: Layout, model: GlobalModel) -> None:
    one, other = rule(), rule()
    one.after_round(cohort(model), STAGE, 0, 0)
    other.load_state_dict(one.state_dict(), layout)
    assert all(np.array_equal(getattr(one._beliefs, x), getattr(other._beliefs, x)) for x in "ab")
    assert one.after_round(cohort(model), STAGE, 10, 3).same_as(other.after_round(cohort(model), STAGE, 10, 3))


@pytest.mark.parametrize(("key", "value"), [("alpha", -0.1), ("alpha", 1.1), ("gamma", 2.0), ("step", 0.0)])
def test_numbers_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"readjust.{key}"):
        FedRts(**{key: value})


def test_of_the_dead_nothing_is_believed_between_adjusting_rounds(model: GlobalModel) -> None:
    own = rule()
    own.after_round(cohort(model), STAGE, 3, 0)
    assert bool((own._beliefs.b[~model.alive.numpy()] == 1).all())
