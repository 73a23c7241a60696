"""FedAdam and FedYogi: the server's adaptive steps, by hand, in their limits and over a mask that moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for
from pffdst.methods.server_optimizer import Adam, Adaptive, Momentum, Yogi

MakeModel = Callable[..., GlobalModel]
BOTH = pytest.mark.parametrize("kind", [Adam, Yogi])


def changed(model: GlobalModel, by: float | torch.Tensor) -> GlobalModel:
    return model.with_values(model.values + by)


def test_two_steps_of_adam_by_hand(layout: Layout, make_model: MakeModel) -> None:
    rule, model = Adam(eta=0.1, beta1=0.9, beta2=0.99, tau=0.01), make_model(layout, alive=1.0)
    m, v, w = 0.0, 0.01**2, model.values[0].item()
    for change in (0.5, -0.2):
        m, v = 0.9 * m + 0.1 * change, 0.99 * v + 0.01 * change**2
        w += 0.1 * m / (math.sqrt(v) + 0.01)
        model = rule.step(model, changed(model, change))
        assert model.values[0].item() == pytest.approx(w, rel=1e-5)


def test_two_steps_of_yogi_by_hand(layout: Layout, make_model: MakeModel) -> None:
    rule, model = Yogi(eta=0.1, beta1=0.9, beta2=0.99, tau=0.3), make_model(layout, alive=1.0)
    m, v, w = 0.0, 0.3**2, model.values[0].item()
    for change in (0.5, -0.2):  # first above v, then below it
        m = 0.9 * m + 0.1 * change
        v -= 0.01 * change**2 * math.copysign(1, v - change**2)
        w += 0.1 * m / (math.sqrt(v) + 0.3)
        model = rule.step(model, changed(model, change))
        assert model.values[0].item() == pytest.approx(w, rel=1e-5)


@BOTH
def test_with_a_large_tau_the_step_is_that_of_momentum(
    kind: type[Adaptive], layout: Layout, make_model: MakeModel
) -> None:
    """eta = tau: w + m, and m = .9 m + .1 D is a tenth of FedAvgM's velocity."""
    tau, model = 1e4, make_model(layout, alive=0.6)
    adaptive, momentum = kind(eta=2 * tau, beta2=1 - 1e-7, tau=tau), Momentum(0.9)
    one = other = model
    for t in range(3):
        noise = 0.1 * torch.randn(layout.total, generator=generator_for(t, "noise"))
        velocity = (momentum.step(other, changed(other, noise).with_masks(model.alive)).values - other.values) * 0.1
        other = changed(other, velocity).with_masks(model.alive)
        one = adaptive.step(one, changed(one, noise).with_masks(model.alive))
        assert torch.allclose(one.values[:39], other.values[:39], atol=1e-5)


@BOTH
def test_statistics_take_the_mean(kind: type[Adaptive], layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    mean = changed(model, 1.0)
    assert torch.equal(kind().step(model, mean).values[39:], mean.values[39:])


@BOTH
def test_a_weight_that_is_new_begins_with_fresh_memory(
    kind: type[Adaptive], layout: Layout, make_model: MakeModel
) -> None:
    """Its first step is what it would be in round 0; those that stay go on."""
    rule, model = kind(), make_model(layout, alive=1.0)
    first = rule.step(model, changed(model, 0.25))
    without = model.moved(Positions(layout, index=torch.arange(1, 32)))
    rule.step(without, changed(without, 0.25))
    again = rule.step(model, changed(model, 0.25))
    moves = again.values - model.values
    assert moves[0] == pytest.approx((first.values - model.values)[0].item(), rel=1e-5)
    assert not torch.isclose(moves[1], moves[0])


@pytest.mark.parametrize("kind", [Adam, Yogi, Momentum])
@pytest.mark.parametrize("by", [1e30, float("inf"), float("nan")])
def test_a_step_out_of_the_numbers_is_not_remembered(
    kind: type[Adaptive | Momentum], by: float, layout: Layout, make_model: MakeModel
) -> None:
    """Its square is infinite in single precision: with it in the memory no weight would ever move again."""
    model, twin = make_model(layout, alive=0.6), make_model(layout, alive=0.6)
    rule, other = kind(), kind()
    rule.step(model, changed(model, 0.1))
    other.step(twin, changed(twin, 0.1))
    if kind is not Momentum or by != 1e30:  # whose memory holds a change as it is
        rule.step(model, changed(model, by))
    assert rule.step(model, changed(model, 0.2)).same_as(other.step(twin, changed(twin, 0.2)))


@BOTH
def test_it_goes_through_a_checkpoint(kind: type[Adaptive], layout: Layout, make_model: MakeModel) -> None:
    kept, model = kind(), make_model(layout, alive=0.5)
    for t in range(3):
        again = kind()
        again.load_state_dict(kept.state_dict(), layout)
        mean = changed(model, torch.randn(layout.total, generator=generator_for(t, "mean"))).with_masks(model.alive)
        here, there = kept.step(model, mean), again.step(model, mean)
        assert here.same_as(there)
        model = here


@pytest.mark.parametrize(("key", "value"), [("eta", 0.0), ("tau", -1.0), ("beta1", 1.0), ("beta2", -0.1)])
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"server_optimizer\.{key}.*{value}"):
        Adam(**{key: value})
