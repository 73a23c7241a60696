"""The flat model: views, masks, counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for

MakeModel = Callable[..., GlobalModel]


def test_the_tensors_of_a_layout_lie_back_to_back(layout: Layout) -> None:
    assert [e.offset for e in layout.entries] == [0, 20, 32, 36, 39]
    assert (layout.maskable, layout.parameters, layout.total) == (32, 39, 42)
    assert [e.name for e in layout.layers] == ["a.weight", "b.weight"]


def test_split_gives_every_value_once_in_its_tensors_shape(layout: Layout) -> None:
    flat = torch.arange(layout.total)
    parts = dict(layout.split(flat))
    assert [tuple(part.shape) for part in parts.values()] == [e.shape for e in layout.entries]
    assert torch.equal(torch.cat([part.flatten() for part in parts.values()]), flat)


def test_split_of_a_mask_gives_the_layers_alone(layout: Layout) -> None:
    mask = torch.ones(layout.maskable, dtype=torch.bool)
    assert [e.name for e, _ in layout.split(mask)] == ["a.weight", "b.weight"]


def test_split_gives_views(layout: Layout) -> None:
    flat = torch.zeros(layout.total)
    for _, part in layout.split(flat):
        part.fill_(1.0)
    assert bool((flat == 1).all())


def test_a_convolutions_fans_and_kernel_are_read_off_its_shape() -> None:
    conv, linear = Entry("c", (16, 6, 5, 3), 0, "maskable"), Entry("f", (10, 84), 0, "maskable")
    assert (conv.fan_in, conv.fan_out, conv.kernel, conv.size) == (6, 16, (5, 3), 1440)
    assert (linear.fan_in, linear.fan_out, linear.kernel, linear.size) == (84, 10, (), 840)


@pytest.mark.parametrize("seed", range(5))
def test_per_layer_counts_sum_to_the_mask(layout: Layout, make_model: Callable[..., GlobalModel], seed: int) -> None:
    model = make_model(layout, seed)
    counts = layout.per_layer(model.alive)
    assert counts == [int(model.alive[:20].sum()), int(model.alive[20:].sum())]


def test_with_masks_makes_dead_weights_zero_and_leaves_all_else(
    layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    model = make_model(layout, alive=1.0)
    alive = torch.arange(32) % 3 == 0
    masked = model.with_masks(alive)
    assert bool((masked.weights[~alive] == 0).all())
    assert torch.equal(masked.weights[alive], model.weights[alive])
    assert torch.equal(masked.values[32:], model.values[32:])
    assert bool((model.weights != 0).all()), "the model it came from must not change"


def test_trainable_is_alive_and_not_frozen(layout: Layout, make_model: Callable[..., GlobalModel]) -> None:
    model = make_model(layout, alive=0.7, frozen=0.5)
    assert torch.equal(model.trainable, model.alive & ~model.frozen)
    assert 0 < int(model.frozen.sum()) < int(model.alive.sum())


def test_trainable_follows_new_masks(layout: Layout, make_model: Callable[..., GlobalModel]) -> None:
    model = make_model(layout)
    assert torch.equal(model.trainable, model.alive)
    assert int(model.with_masks(model.alive, model.alive).trainable.sum()) == 0


def test_sparsity_is_the_share_of_dead_weights(layout: Layout, make_model: Callable[..., GlobalModel]) -> None:
    alive = torch.arange(32) < 8
    assert make_model(layout, alive=1.0).with_masks(alive).sparsity == 0.75


def test_a_stage_cannot_be_written_to() -> None:
    stage = Stage(0, 3, 10, (1, 2))
    assert stage.length == 7
    with pytest.raises(FrozenInstanceError):
        stage.start = 1  # type: ignore[misc]


# ---- what is alive, and the dense views of it --------------------------------------------------------------------


def views(model: GlobalModel) -> tuple[Tensor, ...]:
    return model.values, model.alive, model.frozen, model.trainable


def pairs(make_model: MakeModel, layout: Layout, seed: int) -> tuple[GlobalModel, GlobalModel]:
    """One model made of dense vectors and one of positions and what is held there."""
    dense = make_model(layout, seed, alive=0.6, frozen=0.4)
    values, alive, frozen = dense.values, dense.alive, dense.frozen
    alive_at, frozen_at = Positions(layout, bits=alive), Positions(layout, bits=frozen)
    rest = values[layout.maskable :]
    return (
        GlobalModel(layout, values, alive, frozen),
        GlobalModel.of(alive_at, frozen_at, values[: layout.maskable][alive], rest),
    )


OPERATIONS: dict[str, Callable[[GlobalModel, Tensor, Positions], GlobalModel]] = {
    "as it is": lambda m, v, p: m,
    "with_held": lambda m, v, p: m.with_held(v[: len(m.alive_at)], m.rest * 2),
    "with_trained": lambda m, v, p: m.with_trained(v[: len(m.trainable_at)], m.rest * 2),
    "with_values": lambda m, v, p: m.with_values(torch.cat([torch.where(m.alive, v, 0.0), m.rest * 2])),
    "moved": lambda m, v, p: m.moved(m.frozen_at.plus(p)),
    "with_masks": lambda m, v, p: m.with_masks(m.frozen | p.bits),
    "freezing": lambda m, v, p: m.freezing(m.frozen_at.plus(m.alive_at.without(p))),
    "twice": lambda m, v, p: m.moved(m.frozen_at.plus(p)).with_trained(v[: len(p.without(m.frozen_at))], m.rest),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_and_its_dense_views_say_the_same(
    layout: Layout, make_model: MakeModel, operation: str, seed: int
) -> None:
    """After every operation, whether the model was made of vectors or of positions."""
    apply, others = OPERATIONS[operation], make_model(layout, seed + 50, alive=0.5).alive_at
    values, found = torch.randn(32, generator=generator_for(seed, "new")), []
    for model in pairs(make_model, layout, seed):
        before = [view.clone() for view in views(model)]
        after = apply(model, values, others)
        assert torch.equal(after.held, after.weights[after.alive])
        assert torch.equal(after.rest, after.values[layout.maskable :])
        assert torch.equal(after.trained, after.weights[after.trainable])
        assert torch.equal(after.trainable, after.alive & ~after.frozen)
        assert not bool((after.frozen & ~after.alive).any())
        assert not bool(after.weights[~after.alive].any())
        assert all(torch.equal(a, b) for a, b in zip(before, views(model), strict=True)), "the source changed"
        found.append(after)
    assert found[0].same_as(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*map(views, found), strict=True))


def test_operations_are_those_of_dense_vectors(layout: Layout, make_model: MakeModel) -> None:
    model, target = make_model(layout, alive=0.6, frozen=0.4), make_model(layout, seed=9)
    to = model.frozen | target.alive
    moved = model.moved(Positions(layout, bits=to))
    assert torch.equal(moved.weights, torch.where(to & model.alive, model.weights, 0.0))
    new, rest = torch.ones(int(model.trainable.sum())), torch.zeros(10)
    trained = model.with_trained(new, rest)
    assert torch.equal(trained.weights, torch.where(model.trainable, 1.0, model.weights))
    assert torch.equal(trained.values[32:], rest)


def test_one_bit_makes_another_model(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=0.6, frozen=0.4)
    assert model.same_as(make_model(layout, alive=0.6, frozen=0.4))
    dead = int((~model.alive).nonzero()[0])
    other = torch.tensor([dead])
    assert not model.same_as(model.moved(model.alive_at.plus(Positions(layout, index=other))))
    assert not model.same_as(model.freezing(Positions.none(layout)))
    for at in (int(model.alive.nonzero()[0]), 33, 41):
        values = model.values.clone()
        values[at] = torch.nextafter(values[at], torch.tensor(9.0))
        assert not model.same_as(model.with_values(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_has_one_precision(layout: Layout, make_model: MakeModel, dtype: torch.dtype) -> None:
    model = make_model(layout, dtype=dtype)
    assert model.dtype == model.held.dtype == model.rest.dtype == model.values.dtype == dtype
