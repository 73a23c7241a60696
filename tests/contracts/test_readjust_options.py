"""What every option of configs/readjust must keep over a whole stage, with and without frozen weights."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pffdst.methods.readjust.base import ReadjustRule

from pffdst.core.facts import Facts
from pffdst.core.masks import random_positions
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.seeding import derive_seed, generator_for

OPTIONS = sorted((Path(__file__).resolve().parents[2] / "configs" / "readjust").glob("*.yaml"))
LAYOUT = Layout(
    (Entry("a", (40, 6), 0, "maskable"), Entry("b", (16, 10), 240, "maskable"), Entry("c", (4,), 400, "parameter"))
)
W = LAYOUT.maskable
CLIENTS = 3


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda path: path.stem)
def rule(request: pytest.FixtureRequest) -> ReadjustRule:
    made: ReadjustRule = instantiate(OmegaConf.load(request.param))
    if hasattr(made, "interval"):
        made = replace(made, interval=2)  # type: ignore[type-var]
    return made


def begin(rule: ReadjustRule, stage: Stage, frozen_share: float) -> GlobalModel:
    generator = generator_for(0, "begin")
    frozen = torch.rand(W, generator=generator) < frozen_share
    empty = GlobalModel(LAYOUT, torch.randn(LAYOUT.total, generator=generator), frozen, frozen)
    drawn = random_positions(LAYOUT, ~frozen, rule.start_counts(empty, stage), derive_seed(0, "draw"))
    return empty.with_masks(frozen | drawn)


def server_moved(rule: ReadjustRule, model: GlobalModel, stage: Stage, t: int, seed: int) -> GlobalModel:
    """The model after the server's move, if it has one."""
    move = rule.on_server(model, stage, t, seed)
    return model if move is None else move.on(model)


def play(rule: ReadjustRule, model: GlobalModel, stage: Stage, t: int) -> GlobalModel:
    """A round as server and clients would have it, with random numbers for training."""
    if t > stage.start:
        model = server_moved(rule, model, stage, t, derive_seed(0, "grow", t))
    clients = [trained(rule, model, stage, t, k) for k in range(CLIENTS)]
    support = torch.stack([c.trainable for c in clients]).sum(dim=0).double()
    total = torch.stack([c.weights * c.trainable for c in clients]).sum(dim=0)
    values = model.values.clone()
    values[:W] = torch.where(support > 0, total / support.clamp_min(1), model.weights)
    return rule.after_aggregate(replace(model, values=values, alive=model.alive | (support > 0)), support, stage)


def trained(rule: ReadjustRule, model: GlobalModel, stage: Stage, t: int, client: int) -> GlobalModel:
    generator = generator_for(1, "client", t, client)
    values = model.values.clone()
    values[:W] += 0.1 * torch.randn(W, generator=generator) * model.trainable
    model = model.with_values(values)
    if not rule.wants_gradient(stage, t):
        return model
    return rule.on_client(model, torch.randn(W, generator=generator), stage, t)


@pytest.mark.parametrize("frozen", [0.0, 0.25])
@pytest.mark.parametrize("start", [0, 20])
def test_the_laws_of_a_stage(rule: ReadjustRule, frozen: float, start: int) -> None:
    stage = Stage(int(start > 0), start, start + 19, (90, 50))
    model = first = begin(rule, stage, frozen)
    fixed = None
    for t in range(stage.start, stage.stop):
        model = play(rule, model, stage, t)
        assert bool((model.weights[~model.alive] == 0).all())
        assert torch.equal(model.frozen, first.frozen)
        assert torch.equal(model.weights[first.frozen], first.weights[first.frozen])
        assert all(n >= k for n, k in zip(LAYOUT.per_layer(model.trainable), stage.counts, strict=True))
        if t >= rule.exploration_end(stage):
            assert tuple(LAYOUT.per_layer(model.trainable)) == stage.counts
            assert fixed is None or torch.equal(model.alive, fixed)
            fixed = model.alive
    assert fixed is not None, "exploration must end within the stage"


@pytest.mark.parametrize("frozen", [0.0, 0.6])
def test_a_stage_begins_with_at_least_its_weights_and_within_the_room(rule: ReadjustRule, frozen: float) -> None:
    stage = Stage(0, 0, 19, (90, 50))
    model = begin(rule, stage, frozen)
    room = LAYOUT.per_layer(~model.frozen)
    started = rule.start_counts(model, stage)
    assert all(k <= n <= r for k, n, r in zip(stage.counts, started, room, strict=True))


def test_a_rule_keeps_no_state(rule: ReadjustRule) -> None:
    stage = Stage(0, 0, 19, (90, 50))
    model = begin(rule, stage, 0.0)
    one = play(rule, play(rule, model, stage, 1), stage, 2)
    two = play(rule, play(rule, model, stage, 1), stage, 2)
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.alive, two.alive)


def test_a_rule_reaches_other_processes_as_it_is(rule: ReadjustRule) -> None:
    assert pickle.loads(pickle.dumps(rule)) == rule


def test_stages_of_the_usual_length_are_welcome(rule: ReadjustRule) -> None:
    assert rule.problems(Facts(stage_lengths=(60, 60))) == []
