"""The flat model: views, masks, counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch

from pffdst.core.model import Entry, GlobalModel, Layout, Stage


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


def test_states_cannot_be_written_to(layout: Layout, make_model: Callable[..., GlobalModel]) -> None:
    stage = Stage(0, 3, 10, (1, 2))
    assert stage.length == 7
    with pytest.raises(FrozenInstanceError):
        stage.start = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        make_model(layout).values = torch.zeros(1)
