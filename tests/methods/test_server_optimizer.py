"""What the server makes of a mean: momentum is its recursion, and follows the mask."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.methods.local import LocalTraining
from pffdst.methods.readjust.fedsgc import FedSgc
from pffdst.methods.readjust.flash import Flash
from pffdst.methods.rule import Rule
from pffdst.methods.schedule import Every
from pffdst.methods.server_optimizer import Mean, Momentum
from pffdst.testing import SmallRun

MakeModel = Callable[..., GlobalModel]


def means(count: int) -> list[Tensor]:
    return [torch.randn(42, generator=generator_for(t, "mean")) for t in range(count)]


def under(model: GlobalModel, values: Tensor) -> GlobalModel:
    """A mean under the masks of a model: dead weights 0, frozen ones its own."""
    held = torch.cat([model.trainable, torch.ones(10, dtype=torch.bool)])
    return model.with_values(torch.where(held, values, model.values))


def test_the_mean_is_the_mean(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    mean = under(model, means(1)[0])
    assert Mean().step(model, mean) is mean


@pytest.mark.parametrize("eta", [1.0, 0.1])
def test_momentum_is_its_recursion(layout: Layout, make_model: MakeModel, eta: float) -> None:
    model = make_model(layout, alive=1.0)
    rule, w, v = Momentum(beta=0.7, eta=eta), model.values[:39].double(), torch.zeros(39, dtype=torch.float64)
    for mean in means(6):
        model = rule.step(model, model.with_values(mean))
        v = 0.7 * v + (mean[:39].double() - w)
        w = w + eta * v
        assert torch.allclose(model.values[:39].double(), w, atol=1e-5)
        assert torch.equal(model.values[39:], mean[39:]), "statistics take the mean"


def test_momentum_without_beta_is_the_mean(layout: Layout, make_model: MakeModel) -> None:
    model, rule = make_model(layout, alive=0.6, frozen=0.4), Momentum(beta=0.0)
    for values in means(3):
        mean = under(model, values)
        model = rule.step(model, mean)
        assert torch.allclose(model.values, mean.values, atol=1e-6)


def test_dead_and_frozen_weights_have_no_momentum(layout: Layout, make_model: MakeModel) -> None:
    model, rule = make_model(layout, alive=0.6, frozen=0.4), Momentum()
    start, held = model, ~model.trainable
    for values in means(4):
        model = rule.step(model, under(model, values))
        assert torch.equal(model.weights[held], start.weights[held])
        assert torch.equal(model.alive, start.alive)
        assert torch.equal(model.frozen, start.frozen)


def test_a_weight_that_is_pruned_loses_its_momentum(layout: Layout, make_model: MakeModel) -> None:
    model, rule = make_model(layout, alive=1.0), Momentum()
    model = rule.step(model, model.with_values(means(1)[0]))
    pruned = model.with_masks(torch.arange(32) >= 5)
    pruned = rule.step(pruned, pruned)
    grown = pruned.with_masks(torch.ones(32, dtype=torch.bool))
    stepped = rule.step(grown, grown)
    assert torch.equal(stepped.weights[:5], torch.zeros(5))
    assert bool((stepped.weights[5:] != grown.weights[5:]).all()), "the others go on as they went"


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_a_weight_that_clients_have_grown_was_zero(layout: Layout, make_model: MakeModel, eta: float) -> None:
    model, rule = make_model(layout, alive=0.5), Momentum(eta=eta)
    mean = model.with_masks(torch.ones(32, dtype=torch.bool)).with_values(means(1)[0])
    stepped = rule.step(model, mean)
    assert torch.equal(stepped.alive, mean.alive)
    assert torch.allclose(stepped.weights, model.weights + eta * (mean.weights - model.weights))
    grown, alive = (rule.step(stepped, stepped).weights - stepped.weights)[~model.alive], mean.weights[~model.alive]
    assert torch.allclose(grown, 0.9 * eta * alive, atol=1e-6), "it has a velocity from then on"


@pytest.mark.parametrize(
    "rule", [FedSgc(alpha=0.4, schedule=Every(1, 1)), Flash(mask="moving", init_epochs=2)], ids=["fedsgc", "flash"]
)
def test_one_step_of_a_plain_server_is_the_mean_where_clients_move_masks(rule: Rule) -> None:
    """What a client has trained since it grew a weight counts, whatever the server makes of the mean."""
    numbers = LocalTraining(3, 8, 0.05, 0.9, 0.0, 0.0)
    plain, stepped = (
        SmallRun(readjust=copy.deepcopy(rule), training=numbers, rounds=4, server_optimizer=server).play()
        for server in (Mean(), Momentum(beta=0.0))
    )
    assert torch.equal(stepped.model.alive, plain.model.alive)
    assert torch.allclose(stepped.model.values, plain.model.values, atol=1e-5)


def test_a_weight_that_left_and_was_grown_by_clients_has_no_momentum(layout: Layout, make_model: MakeModel) -> None:
    """It died between two rounds, so its velocity is forgotten, although each round's mean has it."""
    model, rule = make_model(layout, alive=1.0), Momentum()
    stepped = rule.step(model, model.with_values(means(1)[0]))
    pruned = stepped.with_masks(torch.arange(32) >= 5)
    grown = pruned.with_masks(torch.ones(32, dtype=torch.bool)).with_values(means(2)[1])
    again = rule.step(pruned, grown)
    assert torch.equal(again.weights[:5], grown.weights[:5])
    assert bool((again.weights[5:] != grown.weights[5:]).all())


def test_the_momentum_goes_through_a_checkpoint(layout: Layout, make_model: MakeModel) -> None:
    model, kept, again = make_model(layout), Momentum(), Momentum()
    one, two = (under(model, values) for values in means(2))
    kept.step(model, one)
    again.load_state_dict(kept.state_dict(), layout)
    assert kept.step(model, two).same_as(again.step(model, two))


def test_an_optimizer_that_never_stepped_goes_through_a_checkpoint(layout: Layout, make_model: MakeModel) -> None:
    model, again = make_model(layout), Momentum()
    again.load_state_dict(Momentum().state_dict(), layout)
    mean = under(model, means(1)[0])
    assert again.step(model, mean).same_as(Momentum().step(model, mean))


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(ValueError, match=f"server_optimizer.beta.*{beta}"):
        Momentum(beta=beta)
