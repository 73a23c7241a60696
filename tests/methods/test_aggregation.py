"""The mean of a round is the formula, coordinate by coordinate; momentum is the recursion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.methods.aggregation import MaskedMean, RunningMean, ServerMomentum
from pffdst.wire.uplink import Report, Upload

MakeModel = Callable[..., GlobalModel]


def upload_of(model: GlobalModel, client: int, samples: int, statistics: bool = True) -> Upload:
    return Upload(
        client, Report(samples, 0.0, 0.0), model.trainable, model.weights[model.trainable], model.values[32:39],
        model.values[39:] if statistics else None,
    )  # fmt: skip


def the_slow_way(server: GlobalModel, clients: Sequence[GlobalModel], samples: Sequence[int]) -> list[float]:
    """sum_k n_k m_kj w_kj / sum_k n_k m_kj in exact fractions; the server's value where nobody holds j."""
    mean = []
    for j in range(server.layout.total):
        holders = [
            (n, Fraction(float(c.values[j])))
            for n, c in zip(samples, clients, strict=True)
            if j >= server.layout.maskable or bool(c.trainable[j])
        ]
        weight = sum(n for n, _ in holders)
        mean.append(float(sum(n * w for n, w in holders) / weight) if weight else float(server.values[j]))
    return mean


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    samples=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    shares=st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0.0, 0.3])),
)
def test_the_mean_is_the_formula_over_those_that_hold_a_weight(
    layout: Layout, make_model: MakeModel, seed: int, samples: list[int], shares: tuple[float, float]
) -> None:
    server = make_model(layout, seed)
    clients = [make_model(layout, seed + 1 + k, *shares) for k in range(len(samples))]
    running = RunningMean(server)
    for k, (client, n) in enumerate(zip(clients, samples, strict=True)):
        running.add(upload_of(client, k, n))
    expected = torch.tensor(the_slow_way(server, clients, samples))
    assert torch.equal(running.mean(), expected) or torch.allclose(running.mean(), expected, rtol=2e-7, atol=1e-9)
    assert running.samples == sum(samples)


def test_support_counts_samples_of_those_that_hold_a_weight(layout: Layout, make_model: MakeModel) -> None:
    server, one, two = (make_model(layout, seed) for seed in range(3))
    running = RunningMean(server)
    running.add(upload_of(one, 0, 30))
    running.add(upload_of(two, 1, 7))
    assert torch.equal(running.support, 30.0 * one.trainable.double() + 7.0 * two.trainable.double())


def test_where_nobody_holds_a_weight_the_server_keeps_its_bits(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    client = make_model(layout, seed=1, alive=0.5)
    running = RunningMean(server)
    running.add(upload_of(client, 0, 3))
    assert torch.equal(running.mean()[:32][~client.trainable], server.weights[~client.trainable])


def test_samples_weigh_and_not_clients(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    ones, zeros = (server.with_values(torch.full((42,), v)) for v in (1.0, 0.0))
    running = RunningMean(server)
    running.add(upload_of(ones, 0, 300))
    running.add(upload_of(zeros, 1, 100))
    assert torch.equal(running.mean(), torch.full((42,), 0.75))


def test_statistics_that_were_not_sent_stay_the_servers(layout: Layout, make_model: MakeModel) -> None:
    server, client = make_model(layout, alive=1.0), make_model(layout, seed=1, alive=1.0)
    running = RunningMean(server)
    running.add(upload_of(client, 0, 5, statistics=False))
    assert torch.equal(running.mean()[39:], server.values[39:])
    assert torch.equal(running.mean()[:39], client.values[:39])


def test_a_thousand_updates_lose_no_digit(layout: Layout, make_model: MakeModel) -> None:
    server = make_model(layout, alive=1.0)
    client = server.with_values(torch.full((42,), 0.1))
    running = RunningMean(server)
    for k in range(1000):
        running.add(upload_of(client, k, 10_001))
    assert torch.equal(running.mean(), client.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_has_the_models_precision(layout: Layout, make_model: MakeModel, dtype: torch.dtype) -> None:
    server = make_model(layout, alive=1.0, dtype=dtype)
    running = RunningMean(server)
    running.add(upload_of(server, 0, 3))
    assert running.mean().dtype == dtype
    assert torch.allclose(running.mean(), server.values, rtol=1e-15 if dtype == torch.float64 else 0, atol=0)


# ---- what the server makes of it --------------------------------------------------------------------------------


def means(count: int) -> list[Tensor]:
    return [torch.randn(42, generator=generator_for(t, "mean")) for t in range(count)]


def test_the_masked_mean_is_the_mean(layout: Layout, make_model: MakeModel) -> None:
    (mean,) = means(1)
    assert MaskedMean().step(make_model(layout), mean) is mean


def test_server_momentum_is_its_recursion(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=1.0)
    rule, w, v = ServerMomentum(beta=0.7), model.values[:39].double(), torch.zeros(39, dtype=torch.float64)
    for mean in means(6):
        stepped = rule.step(model, mean)
        v = 0.7 * v + (mean[:39].double() - w)
        w = w + v
        assert torch.allclose(stepped[:39].double(), w, atol=1e-5)
        assert torch.equal(stepped[39:], mean[39:]), "statistics take the mean"
        model = model.with_values(stepped)


def test_server_momentum_without_beta_is_the_mean(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=1.0)
    rule = ServerMomentum(beta=0.0)
    for mean in means(3):
        stepped = rule.step(model, mean)
        assert torch.allclose(stepped, mean, atol=1e-6)
        model = model.with_values(stepped)


def test_dead_and_frozen_weights_have_no_momentum(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=0.6, frozen=0.4)
    rule = ServerMomentum()
    held = torch.cat([~model.trainable, torch.zeros(10, dtype=torch.bool)])
    for mean in means(4):
        stepped = rule.step(model, torch.where(held, model.values, mean))
        assert torch.equal(stepped[held], model.values[held])
        model = model.with_values(stepped)


def test_a_weight_that_is_pruned_loses_its_momentum(layout: Layout, make_model: MakeModel) -> None:
    model, rule = make_model(layout, alive=1.0), ServerMomentum()
    model = model.with_values(rule.step(model, means(1)[0]))
    without = torch.arange(32) >= 5
    pruned = model.with_masks(without)
    pruned = pruned.with_values(rule.step(pruned, pruned.values))
    grown = pruned.with_masks(torch.ones(32, dtype=torch.bool))
    assert torch.equal(rule.step(grown, grown.values)[:5], torch.zeros(5))


def test_the_momentum_goes_through_a_checkpoint(layout: Layout, make_model: MakeModel) -> None:
    model, kept, again = make_model(layout), ServerMomentum(), ServerMomentum()
    one, two = means(2)
    kept.step(model, one)
    again.load_state_dict(kept.state_dict())
    assert torch.equal(kept.step(model, two), again.step(model, two))


@pytest.mark.parametrize("make", [MaskedMean, ServerMomentum])
def test_statistics_are_averaged_or_kept(make: Any) -> None:
    assert make().statistics == "average"
    with pytest.raises(ValueError, match="average, keep_server, but got 'median'"):
        make(statistics="median")


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(ValueError, match=f"aggregation.beta.*{beta}"):
        ServerMomentum(beta=beta)
