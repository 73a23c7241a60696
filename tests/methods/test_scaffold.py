"""SCAFFOLD: the variates by hand, their sum, and the limit in which nothing is corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.experiment import Experiment
from pffdst.methods.rule import Answer, Cohort
from pffdst.methods.updates.scaffold import Scaffold
from pffdst.run import play_round

MakeModel = Callable[..., GlobalModel]
MakeExperiment = Callable[..., Experiment]
STAGE = Stage(0, 0, 10, ())
SCAFFOLD = ("method=scaffold", "rounds=3", "lr=0.05")


def turn_of(rule: Scaffold, model: GlobalModel, received: Any, memory: Any) -> Any:
    parameters = [nn.Parameter(v.clone()) for e, v in model.layout.split(model.values) if e.kind != "statistic"]
    turn = SimpleNamespace(
        t=0,
        start=model,
        received=received,
        memory=memory,
        layout=model.layout,
        parameters=parameters,
        scratch={},
        steps=4,
        lr=0.5,
    )
    rule.begin(turn)
    return turn


def answered(rule: Scaffold, turn: Any, trained: GlobalModel) -> Answer:
    """The answer after the steps that are left of the turn."""
    for _ in range(turn.steps - turn.scratch["scaffold_rates"].total()):
        rule.shape_gradient_(turn)
    return rule.answer(Answer(trained), rule.measure(turn), STAGE, 0)


def flat(signals: Any) -> torch.Tensor:
    return torch.cat([signals["scaffold_weights"], signals["scaffold_parameters"]])


def test_two_turns_by_hand(layout: Layout, make_model: MakeModel) -> None:
    """c = 0: c_k' = (x - y) / (S eta) = 0.2 / 2; then, with c = 0.05, c_k'' = 0.1 - 0.05 + 0.2 / 2."""
    server, client, model = Scaffold(), Scaffold(), make_model(layout, alive=1.0)
    trained = model.with_values(model.values - 0.2)
    first = answered(client, turn_of(client, model, server.broadcast(model, STAGE, 0), {}), trained)
    assert torch.allclose(flat(first.signals), torch.full((39,), 0.1), atol=1e-5)
    server.observe(0, trained, 1, first.signals, STAGE, 0)
    server.after_round(Cohort(model, torch.ones(32), 1, 1, model, population=2), STAGE, 0, 0)
    received = server.broadcast(model, STAGE, 1)
    assert torch.allclose(flat(received), torch.full((39,), 0.05), atol=1e-5)
    turn = turn_of(client, model, received, first.memory)
    for parameter in turn.parameters:
        parameter.grad = torch.ones_like(parameter)
    client.shape_gradient_(turn)
    assert all(torch.allclose(p.grad, torch.full_like(p, 1 - 0.1 + 0.05), atol=1e-5) for p in turn.parameters)
    second = answered(client, turn, trained)
    assert torch.allclose(second.memory["scaffold_own"], torch.full((39,), 0.15), atol=1e-5)


def test_a_step_counts_with_its_own_learning_rate(layout: Layout, make_model: MakeModel) -> None:
    """Of a constant gradient 0.1: whatever the steps' rates, the variate is the mean gradient."""
    rule, model = Scaffold(), make_model(layout, alive=1.0)
    turn = turn_of(rule, model, rule.broadcast(model, STAGE, 0), {})
    for turn.lr in (2.0, 1.0):
        rule.shape_gradient_(turn)
    turn.lr = 0.5
    trained = model.with_values(model.values - 0.1 * (2.0 + 1.0 + 0.5 + 0.5))
    assert torch.allclose(flat(answered(rule, turn, trained).signals), torch.full((39,), 0.1), atol=1e-5)


def test_variates_follow_the_mask_and_begin_at_0(layout: Layout, make_model: MakeModel) -> None:
    rule, model = Scaffold(), make_model(layout, alive=1.0)
    few = model.moved(Positions(layout, index=torch.arange(10)))
    rule.broadcast(few, STAGE, 0)
    ones = {"scaffold_weights": torch.ones(10), "scaffold_parameters": torch.ones(7)}
    rule.observe(0, few, 1, ones, STAGE, 0)
    rule.after_round(Cohort(few, torch.ones(10), 1, 1, few, population=1), STAGE, 0, 0)
    received = rule.broadcast(few.moved(Positions(layout, index=torch.arange(5, 15))), STAGE, 1)
    assert received["scaffold_weights"].tolist() == [1.0] * 5 + [0.0] * 5
    assert received["scaffold_parameters"].tolist() == [1.0] * 7


def test_what_leaves_the_mask_in_a_turn_changes_no_variate(layout: Layout, make_model: MakeModel) -> None:
    rule, model = Scaffold(), make_model(layout, alive=1.0)
    turn = turn_of(rule, model, rule.broadcast(model, STAGE, 0), {})
    left = model.moved(Positions(layout, index=torch.arange(1, 32)))
    made = answered(rule, turn, left)
    assert torch.equal(flat(made.signals), torch.zeros(39))


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
            assert_variates_sum(experiment)
    return experiment


def assert_variates_sum(experiment: Experiment) -> None:
    """The server's c is the mean of all clients' c_k, of which those that were never there are 0."""
    rule = experiment.setup.method.updates
    if isinstance(rule, Scaffold):
        own = [experiment.engine.memories.kept(k).memory.get("scaffold_own") for k in range(experiment.setup.clients)]
        total = sum(c.double() for c in own if c is not None) / experiment.setup.clients
        assert torch.allclose(total, rule.state_dict()["c"].double(), atol=1e-6)
        assert float(total.abs().max()) > 1e-4


def test_the_servers_variate_is_the_mean_of_the_clients(make_experiment: MakeExperiment) -> None:
    played(make_experiment(*SCAFFOLD))


def test_of_a_single_client_nothing_is_corrected(make_experiment: MakeExperiment) -> None:
    alone = ("clients=1", "cohort=1", "rounds=3", "lr=0.05", "partition=iid")
    scaffold = played(make_experiment("method=scaffold", *alone))
    average = played(make_experiment("method=fedavg", "momentum=0", *alone))
    assert scaffold.server.model.same_as(average.server.model)


def test_of_several_clients_something_is(make_experiment: MakeExperiment) -> None:
    scaffold = played(make_experiment(*SCAFFOLD))
    average = played(make_experiment("method=fedavg", "momentum=0", "aggregation.weights=clients", *SCAFFOLD[1:]))
    assert not scaffold.server.model.same_as(average.server.model)


def test_signals_double_the_bill(make_experiment: MakeExperiment) -> None:
    total = played(make_experiment(*SCAFFOLD, "codec.level=0")).ledger.total
    for way in ("up", "down"):
        model = total[f"{way}/values"] + total[f"{way}/dense"]
        assert 0.9 * model < total[f"{way}/signals"] <= model


@pytest.mark.parametrize("wrong", ["momentum=0.9", "optimizer=adamw"])
def test_other_steps_than_plain_sgds_are_refused(wrong: str, config_dir: Any) -> None:
    with pytest.raises(ConfigError, match="scaffold needs plain SGD"):
        check(compose(["method=scaffold", "logger=csv", wrong], config_dir))


def test_its_state_goes_through_a_checkpoint(layout: Layout, make_model: MakeModel) -> None:
    rule, again, model = Scaffold(), Scaffold(), make_model(layout, alive=0.5)
    rule.broadcast(model, STAGE, 0)
    n = len(model.trainable_at)
    rule.observe(0, model, 1, {"scaffold_weights": torch.randn(n), "scaffold_parameters": torch.randn(7)}, STAGE, 0)
    rule.after_round(replace(Cohort(model, torch.ones(n), 1, 1, model), population=3), STAGE, 0, 0)
    again.load_state_dict(rule.state_dict(), layout)
    here, there = rule.broadcast(model, STAGE, 1), again.broadcast(model, STAGE, 1)
    assert torch.equal(flat(here), flat(there))
