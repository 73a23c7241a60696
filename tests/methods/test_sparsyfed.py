"""SparsyFed: powers and pruned inputs by hand and against autograd, exact counts, and the limit of a plain mean."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for
from pffdst.experiment import Experiment
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.readjust import sparsyfed
from pffdst.methods.readjust.sparsyfed import SparsyFed, _prune_inputs, largest_share
from pffdst.methods.rule import Answer, Cohort, Start
from pffdst.run import play_round
from pffdst.testing import SmallRun
from pffdst.wire.uplink import Report, Upload

MakeModel = Callable[..., GlobalModel]
MakeExperiment = Callable[..., Experiment]


def test_the_gradient_of_theta_is_that_of_autograd() -> None:
    rule, theta = SparsyFed(power=1.25), torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    layer, x = nn.Linear(2, 2, bias=False), torch.tensor([[1.0, 3.0]])
    layer.weight.data.copy_(theta)
    turn: Any = SimpleNamespace(weights=[layer.weight], scratch={})
    rule.before_step(turn)
    layer(x).square().sum().backward()
    rule.after_backward(turn)
    reference = theta.clone().requires_grad_()
    (x @ (reference.sign() * reference.abs().pow(1.25)).T).square().sum().backward()
    assert torch.equal(layer.weight.data, theta)
    assert layer.weight.grad is not None
    assert reference.grad is not None
    assert torch.allclose(layer.weight.grad, reference.grad.nan_to_num(0.0), rtol=1e-5)
    assert layer.weight.grad[1, 0] == 0.0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_convolution_takes_pruned_inputs_for_its_weights_alone(share: float) -> None:
    generator = generator_for(0, "test")
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    exact, pruned = (x.clone().requires_grad_() for _ in range(2))
    expected = layer(exact)
    expected.square().sum().backward()
    upstream = 2 * expected.detach()
    handles = _prune_inputs(layer, share)
    layer.weight.grad = None
    out = layer(pruned)
    out.backward(upstream)
    for handle in handles:
        handle.remove()
    weight = torch.nn.grad.conv2d_weight(largest_share(x, share), layer.weight.shape, upstream, padding=1)
    assert torch.equal(out, expected)
    assert exact.grad is not None
    assert pruned.grad is not None
    assert torch.allclose(exact.grad, pruned.grad, atol=1e-5)
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, weight, atol=1e-4)
    assert int((largest_share(x, share) != 0).sum()) == round(share * x.numel())


def test_inputs_that_autocast_rounds_are_pruned_too() -> None:
    """The layer casts its input and saves that: the first layer's is in single precision."""
    layer, x = nn.Linear(6, 6), torch.randn(6, 6, generator=generator_for(0, "test"))
    upstream = torch.randn(6, 6, generator=generator_for(1, "test"), dtype=torch.bfloat16)
    handles = _prune_inputs(layer, 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.backward(upstream)
    for handle in handles:
        handle.remove()
    weight = upstream.float().T @ largest_share(x.bfloat16(), 0.25).float()
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, weight, atol=0.02)
    assert not torch.allclose(layer.weight.grad, upstream.float().T @ x, atol=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(out, layer(x))


def test_the_first_model_is_the_networks_own_as_theta(layout: Layout, make_model: MakeModel) -> None:
    rule, model = SparsyFed(), make_model(layout, alive=1.0)
    theta = rule.start(Start(model, Stage(0, 0, 5, (2, 1)), 0.1, 0))
    assert torch.allclose(rule.effective(theta).values, model.values, atol=1e-6)
    assert torch.allclose(theta.held.abs().pow(1.25), model.held.abs(), atol=1e-6)


def test_a_client_keeps_the_largest_of_all_layers(layout: Layout, make_model: MakeModel) -> None:
    rule, model = SparsyFed(), make_model(layout, alive=0.8)
    made = rule.answer(Answer(model), {"trained": True}, Stage(0, 0, 5, (3, 4)), 0)
    expected = model.weights.abs().topk(7).indices.sort().values
    assert torch.equal(made.model.trainable_at.index, expected)
    assert made.own_mask


def test_the_next_mask_is_the_union_of_what_clients_hold(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=1.0)
    support = torch.tensor([5.0] * 4 + [0.0] * 28)
    after = SparsyFed().after_round(Cohort(model, support, 5, 2, model), Stage(0, 0, 5, (2, 1)), 0, 0)
    assert after.alive_at == Positions(layout, index=torch.arange(4))


def test_the_mean_is_over_all_clients_by_hand(layout: Layout, make_model: MakeModel) -> None:
    """Of 10 and 30 samples: both hold 0, the first alone 1, the second alone 2; who lacks a weight counts as 0."""
    model, rule = make_model(layout, alive=1.0), SparsyFed()
    mean = MaskedMean().begin(model, rule.absent)
    for samples, at, values in ((10, [0, 1], [4.0, 8.0]), (30, [0, 2], [8.0, -4.0])):
        places, report = Positions(layout, index=torch.tensor(at)), Report(samples, 0.0, 0.0)
        mean.add(Upload(0, report, places, torch.tensor(values), model.rest[:7], None))
    cohort = mean.result()
    assert cohort is not None
    after = rule.after_round(cohort, Stage(0, 0, 5, (2, 1)), 0, 0)
    assert after.alive_at.index.tolist() == [0, 1, 2]
    assert after.held.tolist() == [7.0, 2.0, -3.0]


def played(experiment: Experiment) -> Experiment:
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(experiment.rounds):
            play_round(experiment, t)
    return experiment


def test_dense_and_without_powers_it_is_fedavg(make_experiment: MakeExperiment) -> None:
    common = ("rounds=2", "local_epochs=1")
    powers = played(make_experiment("method=sparsyfed", "sparsity=0", "readjust.power=1", *common))
    average = played(make_experiment("method=fedavg", *common))
    assert torch.allclose(powers.server.model.values, average.server.model.values, atol=1e-5)


def test_round_0_is_dense_and_later_ones_hold_at_least_what_a_client_sends(make_experiment: MakeExperiment) -> None:
    run = make_experiment("method=sparsyfed", "rounds=3", "sparsity=0.8")
    weights, alive = run.setup.layout.maskable, []
    with run.engine.open(run.setup), run.loggers as loggers:
        loggers.open(run.info, None)
        for t in range(run.rounds):
            done = play_round(run, t)
            alive.append(len(done.planned.alive_at))
    target = sum(run.setup.stages[0].counts)
    assert alive[0] == weights
    assert all(target <= n < weights for n in alive[1:])
    assert not any(m._forward_pre_hooks for m in run.engine._work.module.network.modules())  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", ["freeze=two_stage", "updates=topk_ef"])
def test_what_does_not_go_with_it_is_refused(wrong: str, config_dir: Any) -> None:
    with pytest.raises(ConfigError, match="readjust=sparsyfed"):
        check(compose(["method=sparsyfed", "logger=csv", wrong], config_dir))


def test_a_layers_inputs_are_pruned_to_its_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the first layer is alive; the second is dense and left alone."""
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    layout = Layout((Entry("0.weight", (4, 4), 0, "maskable"), Entry("1.weight", (2, 4), 16, "maskable")))
    alive = torch.ones(24, dtype=torch.bool)
    alive[4:16] = False
    start = GlobalModel(layout, torch.ones(24), alive, torch.zeros(24, dtype=torch.bool))
    seen: list[float] = []
    monkeypatch.setattr(sparsyfed, "_prune_inputs", lambda layer, share: seen.append(share) or [])
    turn: Any = SimpleNamespace(t=0, scratch={}, network=network, layout=layout, start=start)
    SparsyFed().begin(turn)
    assert seen == [0.25]


class Attention(nn.Module):
    """Weights that are no layer's own, and layers whose input has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.into, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.into(input=images.reshape(len(images), 8, -1))
        return self.out((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def test_weights_that_no_layer_applies_train_exactly() -> None:
    refused: list[Any] = []
    run = SmallRun(readjust=SparsyFed(), network=Attention, rounds=2)
    run.play(look=lambda done: refused.append(done.record.rejected))
    assert refused == [{}, {}]
    assert {"attention.in_proj_weight", "into.weight"} <= {e.name for e in run.model.layout.layers}
    assert 0.0 < run.model.sparsity < 1.0
