"""FedDST: when clients move their masks, what they prune and grow, and how the server prunes the union back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pffdst.core.masks import draw
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.methods.readjust.client_gradient import ClientGradient
from pffdst.methods.rule import Answer, Cohort
from pffdst.methods.schedule import Every

LAYOUT = Layout(
    (Entry("a", (10, 6), 0, "maskable"), Entry("b", (4, 10), 60, "maskable"), Entry("c", (4,), 100, "parameter"))
)
W = 100
STAGE = Stage(0, 0, 40, (30, 20))


def model_of(counts: tuple[int, ...], seed: int = 0, frozen: float = 0.0) -> GlobalModel:
    generator = generator_for(seed, "test")
    z = Positions(LAYOUT, bits=torch.rand(W, generator=generator) < frozen)
    drawn = draw(z, counts, derive_seed(seed, "draw"))
    values, everything = torch.randn(LAYOUT.total, generator=generator), torch.ones(W, dtype=torch.bool)
    return GlobalModel(LAYOUT, values, everything, ~everything).moved(z.plus(drawn)).freezing(z)


def gradient(seed: int = 0) -> Tensor:
    return torch.randn(W, generator=generator_for(seed, "gradient"))


@dataclass
class Turn:
    """As much of a client's turn as the rule may look at: it is fair game that anything else is missing."""

    start: GlobalModel
    trained: GlobalModel
    dense: Tensor
    stage: Stage
    t: int

    def values(self) -> Tensor:
        return self.trained.weights

    def gradient(self) -> Tensor:
        return self.dense


def answered(rule: ClientGradient, model: GlobalModel, dense: Tensor, stage: Stage, t: int) -> GlobalModel:
    """What a client sends that has trained `model`, from other values under the same masks."""
    start = model.with_trained(model.trained.flip(0) + 1, model.rest)
    measured = rule.measure(Turn(start, model, dense, stage, t))  # type: ignore[arg-type]
    given = rule.answer(Answer(model), measured, stage, t)
    assert given.own_mask
    return given.model


def after(rule: ClientGradient, held: GlobalModel, support: Tensor, stage: Stage = STAGE) -> GlobalModel:
    """What the server makes of the union of the clients' masks; `support` is dense [W]."""
    return rule.after_round(Cohort(held, held.alive_at.gather(support), 100, 3, held), stage, 1, 0)


# ---- when -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 100), st.integers(1, 20), st.integers(0, 50))
def test_readjust_rounds_are_those_of_the_paper(length: int, interval: int, start: int) -> None:
    rule = ClientGradient(schedule=Every(interval, first=1, until=0.5))
    stage = Stage(0, start, start + length, (30, 20))
    rounds = [t for t in range(length) if rule.probes(stage, start + t) == 1]
    assert rounds == [t for t in range(length) if (t - 1) % interval == 0 and 1 <= t < length / 2]
    assert rounds == [t for t in range(length) if rule.own_masks(stage, start + t) == "layers"]
    assert all(start + t < rule.exploration_end(stage) for t in rounds)


def test_readjust_rounds_of_the_papers_setting() -> None:
    rule, stage = ClientGradient(), Stage(0, 0, 100, (30, 20))
    assert [t for t in range(100) if rule.probes(stage, t)] == [1, 11, 21, 31, 41]


def test_in_any_other_round_nothing_is_measured_and_nothing_moves() -> None:
    rule, model = ClientGradient(alpha=0.5), model_of((30, 20))
    for t in (0, 2, 10, 21, 39):
        turn = Turn(model, model, gradient(), STAGE, t)
        assert rule.measure(turn) == {}  # type: ignore[arg-type]
        trained = Answer(model)
        assert rule.answer(trained, {}, STAGE, t) is trained


@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_the_share_that_moves_falls_as_half_a_cosine(alpha: float) -> None:
    rule, rounds = ClientGradient(alpha=alpha), 200
    stage = Stage(0, 0, rounds, (30, 20))
    for t in (0, 1, 31, 50, 99):
        assert rule.share(stage, t) == pytest.approx(alpha / 2 * (1 + math.cos(math.pi * t / (rounds / 2))))
    assert rule.share(stage, 0) == alpha
    assert rule.share(stage, 50) == pytest.approx(alpha / 2)


# ---- a client's move --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 40), st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0]), st.integers(0, 19))
def test_every_layer_keeps_its_count(a: int, b: int, alpha: float, t: int) -> None:
    model = model_of((a, b), seed=t)
    rule = ClientGradient(alpha, Every(1, first=0, until=0.5))
    moved = answered(rule, model, gradient(t), STAGE, t)
    assert LAYOUT.per_layer(moved.alive) == [a, b]
    assert bool((moved.weights[~moved.alive] == 0).all())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("frozen", [0.0, 0.3])
@pytest.mark.parametrize("t", [1, 11])
def test_the_smallest_go_and_the_largest_gradients_among_the_dead_come(seed: int, frozen: float, t: int) -> None:
    rule, model, g = ClientGradient(alpha=0.5), model_of((25, 16), seed, frozen), gradient(seed)
    moved = answered(rule, model, g, STAGE, t)
    for layer, k in zip(LAYOUT.layers, (25, 16), strict=True):
        n = round(rule.share(STAGE, t) * k)
        there = sorted(
            (j for j in range(layer.span.start, layer.span.stop) if model.trainable[j]),
            key=lambda j: abs(float(model.weights[j])),
        )
        pruned, kept = set(there[:n]), set(there[n:])
        dead = [j for j in range(layer.span.start, layer.span.stop) if not model.alive[j] or j in pruned]
        grown = set(sorted(dead, key=lambda j: -abs(float(g[j])))[:n])
        here = {j for j in range(layer.span.start, layer.span.stop) if moved.trainable[j]}
        assert n > 0
        assert here == kept | grown
        assert all(moved.weights[j] == model.weights[j] for j in kept)
        assert all(moved.weights[j] == 0 for j in grown)


def test_growth_never_takes_a_weight_that_is_alive_whatever_its_gradient() -> None:
    model = model_of((30, 20))
    g = torch.where(model.alive, 1e6, 1e-3) * torch.ones(W)
    moved = answered(ClientGradient(alpha=0.5), model, g, STAGE, 1)
    survived = model.alive & moved.alive & (moved.weights != 0)
    assert torch.equal(moved.weights[survived], model.weights[survived])
    assert LAYOUT.per_layer(moved.alive) == [30, 20]


@pytest.mark.parametrize("seed", range(3))
def test_frozen_weights_neither_go_nor_come(seed: int) -> None:
    model = model_of((20, 10), seed, frozen=0.3)
    moved = answered(ClientGradient(alpha=1.0), model, gradient(seed), STAGE, 1)
    assert torch.equal(moved.frozen, model.frozen)
    assert torch.equal(moved.weights[model.frozen], model.weights[model.frozen])
    assert not bool((moved.trainable & model.frozen).any())
    assert LAYOUT.per_layer(moved.trainable) == [20, 10]


def test_alpha_zero_moves_nothing() -> None:
    model = model_of((30, 20))
    moved = answered(ClientGradient(alpha=0.0), model, gradient(), STAGE, 1)
    assert torch.equal(moved.alive, model.alive)
    assert torch.equal(moved.values, model.values)


def test_nothing_moves_in_a_dense_layer() -> None:
    model = model_of((60, 20))
    moved = answered(ClientGradient(alpha=0.5), model, gradient(), STAGE, 1)
    assert torch.equal(moved.weights[:60], model.weights[:60])
    assert not torch.equal(moved.alive, model.alive)


# ---- the server's prune -----------------------------------------------------------------------------------------


def union(*models: GlobalModel) -> GlobalModel:
    alive = torch.stack([m.alive for m in models]).any(dim=0)
    return models[0].moved(Positions(LAYOUT, bits=alive))


@pytest.mark.parametrize("frozen", [0.0, 0.3])
def test_the_union_is_pruned_back_by_magnitude(frozen: float) -> None:
    model = model_of((30, 20), frozen=frozen)
    rule, values = ClientGradient(alpha=0.5), torch.randn(LAYOUT.total, generator=generator_for(1, "values"))
    held = union(model, *(answered(rule, model, gradient(k), STAGE, 1) for k in range(3)))
    held = held.with_values(values).with_masks(held.alive)
    pruned = after(rule, held, torch.ones(W))
    assert LAYOUT.per_layer(held.trainable) != [30, 20]
    assert LAYOUT.per_layer(pruned.trainable) == [30, 20]
    assert torch.equal(pruned.frozen, held.frozen)
    assert torch.equal(pruned.weights[held.frozen], held.weights[held.frozen])
    assert bool(pruned.alive[held.frozen].all())
    for layer in LAYOUT.layers:
        kept, cut = (m[layer.span] for m in (pruned.trainable, held.trainable & ~pruned.trainable))
        magnitude = held.weights[layer.span].abs()
        assert float(magnitude[kept].min()) >= float(magnitude[cut].max())


def test_among_grown_zeros_more_samples_win_then_the_lower_index() -> None:
    stage = Stage(0, 0, 40, (4, 20))
    model = model_of((2, 20))
    dead = (~model.alive[:60]).nonzero().flatten()[:4]
    held = model.moved(model.alive_at.plus(Positions(LAYOUT, index=dead)))
    support = torch.zeros(W, dtype=torch.float64)
    support[model.alive], support[dead] = 100, torch.tensor([30.0, 50.0, 50.0, 50.0], dtype=torch.float64)
    pruned = after(ClientGradient(), held, support, stage)
    assert (pruned.alive[:60] & ~model.alive[:60]).nonzero().flatten().tolist() == dead[[1, 2]].tolist()


@pytest.mark.parametrize("frozen", [0.0, 0.3])
def test_what_every_client_dropped_goes_however_large_it_is(frozen: float) -> None:
    """The server's own value of a weight that nobody holds any more competes with nothing, grown zeros win."""
    model = model_of((30, 20), frozen=frozen)
    gone = model.trainable_at.index[[0, -1]]
    dead = torch.stack([(~model.alive[e.span]).nonzero().flatten()[-1] + e.offset for e in LAYOUT.layers])
    held = model.moved(model.alive_at.plus(Positions(LAYOUT, index=dead)))
    support = model.trainable.double() * 100
    support[gone], support[dead] = 0.0, 1.0
    pruned = after(ClientGradient(), held, support)
    assert LAYOUT.per_layer(pruned.trainable) == [30, 20]
    assert not bool(pruned.alive[gone].any())
    assert bool(pruned.alive[dead].all())
    assert torch.equal(pruned.frozen, model.frozen)


def test_where_no_values_came_back_the_mask_stays() -> None:
    model = model_of((30, 20), frozen=0.3)
    assert after(ClientGradient(), model, torch.zeros(W)) is model


def test_support_does_not_outweigh_a_magnitude() -> None:
    model = model_of((3, 20))
    small, large = (int(j) for j in model.alive[:60].nonzero().flatten()[:2])
    values = model.values.clone()
    values[:60][model.alive[:60]] = 1.0
    values[small], values[large] = 1e-7, 2e-7
    support = torch.ones(W, dtype=torch.float64)
    support[small] = 1e9
    pruned = after(ClientGradient(), model.with_values(values), support, Stage(0, 0, 40, (2, 20)))
    assert not bool(pruned.alive[small])
    assert bool(pruned.alive[large])


def test_masks_that_did_not_move_stay() -> None:
    model = model_of((30, 20))
    assert after(ClientGradient(), model, torch.ones(W)) is model


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_an_alpha_out_of_range_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=f"readjust.alpha.*{value}"):
        ClientGradient(alpha=value)
