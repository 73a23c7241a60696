"""A module and its flat vector are one thing seen twice, in any memory format."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pffdst.core.flat import FlatModule, initialise, layout_of
from pffdst.models.cnn import SmallCNN
from pffdst.models.resnet import BasicBlock


def mixed() -> nn.Sequential:
    """A layer of every sort."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(2),
            conv=nn.Conv2d(2, 3, 3),
            group=nn.GroupNorm(1, 3),
            flat=nn.Flatten(),
            fc=nn.Linear(12, 5),
            layer=nn.LayerNorm(5),
        )
    )


class WithPlaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(4, 3)
        self.token = nn.Parameter(torch.zeros(3))
        self.fc = nn.Linear(3, 2)


def test_weights_of_convolutions_and_linear_layers_are_maskable_and_nothing_else() -> None:
    entries = layout_of(mixed()).entries
    kinds = {e.name: e.kind for e in entries}
    assert len(kinds) == len(entries), "every tensor once"
    assert {name for name, kind in kinds.items() if kind == "maskable"} == {"conv.weight", "fc.weight"}
    assert {n for n, k in kinds.items() if k == "statistic"} == {"norm.running_mean", "norm.running_var"}
    assert [e.name for e in layout_of(WithPlaces()).layers] == ["fc.weight"]


def test_normalisation_layers_are_told_from_biases() -> None:
    entries = layout_of(mixed()).entries
    assert {e.name for e in entries if e.normalisation} == {
        "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "group.weight", "group.bias", "layer.weight", "layer.bias",
    }  # fmt: skip
    assert {e.name for e in entries if e.kind == "parameter" and not e.normalisation} == {"conv.bias", "fc.bias"}


def test_maskable_weights_come_first_and_statistics_last() -> None:
    layout = layout_of(mixed())
    assert [e.kind for e in layout.entries] == ["maskable"] * 2 + ["parameter"] * 8 + ["statistic"] * 2
    ends = [0, *(e.offset + e.size for e in layout.entries)]
    assert [e.offset for e in layout.entries] == ends[:-1]
    assert ends[-1] == layout.total


def test_the_vector_holds_all_parameters_and_floating_buffers() -> None:
    module = mixed()
    layout = layout_of(module)
    assert layout.parameters == sum(p.numel() for p in module.parameters())
    assert layout.total - layout.parameters == sum(b.numel() for b in module.buffers() if b.is_floating_point())


def test_a_model_without_a_layer_to_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one convolution or linear layer"):
        layout_of(nn.Sequential(nn.BatchNorm2d(3)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_written_is_read(memory_format: torch.memory_format) -> None:
    flat = FlatModule(mixed().to(memory_format=memory_format))
    values = torch.randn(flat.layout.total)
    flat.write_(values)
    assert torch.equal(flat.read(), values)
    out = torch.empty_like(values)
    assert flat.read(out) is out
    assert torch.equal(out, values)


def test_the_vectors_order_does_not_depend_on_the_memory_format() -> None:
    plain = mixed()
    last = mixed()
    last.load_state_dict(plain.state_dict())
    assert torch.equal(FlatModule(plain).read(), FlatModule(last.to(memory_format=torch.channels_last)).read())


def test_writing_changes_the_module_and_reading_gives_a_copy() -> None:
    module = mixed()
    flat = FlatModule(module)
    read = flat.read()
    flat.write_(torch.zeros(flat.layout.total))
    assert all(not p.any() for p in module.parameters())
    assert bool(read.any())


def test_statistics_move_with_training_and_are_read() -> None:
    module = mixed().train()
    flat = FlatModule(module)
    before = flat.read()[flat.layout.parameters :]
    module(torch.randn(8, 2, 4, 4) + 3)
    after = flat.read()[flat.layout.parameters :]
    assert bool((before != after).all())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_that_of_the_maskable_weights(memory_format: torch.memory_format) -> None:
    flat = FlatModule(mixed().to(memory_format=memory_format))
    flat.module(torch.randn(2, 2, 4, 4)).square().sum().backward()
    conv, fc = flat.module.conv.weight.grad, flat.module.fc.weight.grad
    assert torch.equal(flat.gradient(), torch.cat([conv.flatten(), fc.flatten()]))


def test_a_weight_without_gradient_counts_as_zero() -> None:
    flat = FlatModule(mixed())
    assert torch.equal(flat.gradient(), torch.zeros(flat.layout.maskable))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_masks_are_zeros_and_ones_in_the_weights_own_format(memory_format: torch.memory_format) -> None:
    flat = FlatModule(mixed().to(memory_format=memory_format))
    mask = torch.rand(flat.layout.maskable) < 0.5
    masks = flat.masks_like(mask)
    assert torch.equal(torch.cat([m.flatten() for m in masks]), mask.float())
    assert [m.stride() for m in masks] == [w.stride() for w in flat.weights]


# ---- initialisation ---------------------------------------------------------------------------------------------


def made(seed: int) -> torch.Tensor:
    return FlatModule(initialise(lambda: SmallCNN(1, 8, 10), seed)).read()


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first = made(0)
    torch.rand(5)
    assert torch.equal(made(0), first)
    assert not torch.equal(made(1), first)


def test_initialisation_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shortcut_without_projection_has_nothing_to_mask() -> None:
    names = [e.name for e in layout_of(BasicBlock(4, 4, 1)).layers]
    assert names == ["conv1.weight", "conv2.weight"]
