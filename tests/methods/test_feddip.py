"""FedDIP: exact counts, nested masks, the penalty by hand, and the limit of a fixed random mask."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pffdst.core.masks import Move
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.readjust.feddip import FedDip
from pffdst.methods.schedule import Every
from pffdst.run import play_round

LAYOUT = Layout(
    (Entry("a", (6, 10), 0, "maskable"), Entry("b", (10, 4), 60, "maskable"), Entry("c", (2,), 100, "parameter"))
)
DENSE = GlobalModel.of(Positions.all(LAYOUT), Positions.none(LAYOUT), torch.randn(100), torch.zeros(2))


def every(interval: int) -> FedDip:
    return FedDip(schedule=Every(interval=interval, first=0, until=1.0))


def begun(rule: FedDip, stage: Stage, model: GlobalModel = DENSE) -> GlobalModel:
    return Move(None, rule.start_counts(model, stage), 7).on(model)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 30))
def test_masks_are_nested_and_end_at_the_exact_count(rounds: int, interval: int, start: int) -> None:
    rule, stage = every(interval), Stage(0, start, start + rounds, (6, 4))
    model = begun(rule, stage)
    assert len(model.trainable_at) == 50
    for t in range(start + 1, stage.stop):
        move, before = rule.before_round(model, stage, t, 0), model.trainable_at
        if move is None:
            continue
        assert isinstance(move, Move)
        model = move.on(model)
        assert len(model.trainable_at.without(before)) == 0
        gone = before.without(model.trainable_at)
        assert model.trained.abs().min() >= DENSE.weights[gone.index].abs().max()
    assert len(model.trainable_at) == 10


def test_counts_fall_as_a_cube() -> None:
    rule, stage = every(10), Stage(0, 0, 40, (6, 4))
    assert [rule.alive_after(DENSE, stage, t) for t in (0, 10, 20, 30)] == [50, 27, 15, 11]
    assert [rule.before_round(begun(rule, stage), stage, t, 0) is None for t in (1, 2, 10, 11)] == [
        True,
        True,
        True,
        False,
    ]


def test_the_penalty_by_hand() -> None:
    """Layers of norms 5 and 0: lambda w / ||w||, in segment 2 of 5 of lambda (1 + 1/4)."""
    rule = FedDip(penalty=0.4, segments=5)
    weights = [nn.Parameter(torch.tensor([3.0, 0.0, -4.0])), nn.Parameter(torch.zeros(2))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    turn: Any = SimpleNamespace(t=4, rounds=10, weights=weights)
    rule.shape_gradient_(turn)
    assert weights[0].grad is not None
    assert weights[0].grad.tolist() == pytest.approx([1 + 0.5 * 0.6, 1.0, 1 - 0.5 * 0.8])
    assert weights[1].grad is not None
    assert weights[1].grad.tolist() == [1.0, 1.0]


def test_the_penalty_begins_after_the_first_segment_and_doubles() -> None:
    found = [FedDip(penalty=5e-4).strength(t, 1000) for t in (0, 49, 50, 100, 999)]
    assert found == pytest.approx([0.0, 0.0, 5e-4, 5e-4 + 5e-4 / 19, 5e-4 + 18 * 5e-4 / 19])


def test_a_later_stage_ends_at_its_count_though_a_layer_is_full() -> None:
    frozen = Positions(LAYOUT, index=torch.arange(60, 100))
    rule, model = every(1), DENSE.moved(frozen).freezing(frozen)
    stage = Stage(1, 5, 9, (6, 4))
    model = begun(rule, stage, model)
    for t in range(6, 9):
        move = rule.before_round(model, stage, t, 0)
        model = move.on(model) if isinstance(move, Move) else model
    assert len(model.trainable_at) == 10
    assert model.frozen_at == frozen


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
    return experiment


def test_without_penalty_and_cuts_it_is_a_fixed_random_mask(make_experiment: Callable[..., Experiment]) -> None:
    """s_0 = s: ERK's counts and the draw of the stage are those of method=random_mask."""
    common = ("rounds=3", "sparsity=0.7", "local_epochs=1")
    dip = played(make_experiment("method=feddip", "readjust.initial=0.7", "readjust.penalty=0", *common))
    fixed = played(make_experiment("method=random_mask", *common))
    assert dip.server.model.same_as(fixed.server.model)


@pytest.mark.parametrize(("key", "value"), [("initial", 1.0), ("penalty", -1.0), ("segments", 1)])
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"readjust\.{key}"):
        FedDip(**{key: value})  # type: ignore[arg-type]
