"""A module and its flat vector are one thing seen twice, in any memory format."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import pytest
import torch
from torch import nn

from pffdst.core.flat import FlatModule, coverage, initialise, layout_of, to_memory_format_
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


# ---- what has no mask --------------------------------------------------------------------------------------------


class Three(nn.Module):
    """Layers of 12, 9 and 6 weights; `dense` is an attribute of another meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)), nn.Linear(3, 2)


class HeadLeftOut(Three):
    dense: ClassVar[tuple[str, ...]] = ("head",)


class OtherDense(Three):
    def dense(self) -> None:
        """A method that is called so."""


@pytest.mark.parametrize(
    ("network", "dense", "left"),
    [
        (Three(), (), ["body.0.weight", "body.1.weight", "head.weight"]),
        (Three(), ("head",), ["body.0.weight", "body.1.weight"]),
        (Three(), ("body",), ["head.weight"]),
        (Three(), ("body.*",), ["head.weight"]),
        (Three(), ("*.1.weight", "head.weight"), ["body.0.weight"]),
        (HeadLeftOut(), (), ["body.0.weight", "body.1.weight"]),
        (HeadLeftOut(), ("body.0",), ["body.1.weight"]),
        (OtherDense(), (), ["body.0.weight", "body.1.weight", "head.weight"]),
    ],
)
def test_layers_are_left_dense_on_purpose(network: nn.Module, dense: tuple[str, ...], left: list[str]) -> None:
    layout = layout_of(network, dense=dense)
    assert [e.name for e in layout.layers] == left
    assert layout.total == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("pattern", ["tail", "head.bias", "bod"])
def test_a_pattern_that_names_no_layer_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=f"'{pattern}' matches none of body.0.weight, body.1.weight, head"):
        layout_of(Three(), dense=[pattern])


def test_what_is_dense_is_told_with_its_share() -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    found = coverage(layout_of(network))
    assert (found.maskable, found.parameters) == (18, 41)
    assert [e.name for e in found.dense] == ["0.weight"]
    assert found.share == 18 / 41
    assert str(found) == "18 of 41 parameters have masks (43.9%); dense: 0.weight 5x4 (48.8%)"


def test_what_does_not_train_comes_last_and_is_no_parameter() -> None:
    network = mixed()
    network.conv.requires_grad_(False)
    flat = FlatModule(network)
    kinds = [e.kind for e in flat.layout.entries]
    assert kinds == ["maskable"] + ["parameter"] * 7 + ["statistic"] * 2 + ["constant"] * 2
    assert [e.name for e in flat.layout.entries[-2:]] == ["conv.weight", "conv.bias"]
    assert flat.layout.span("constant") == slice(flat.layout.total - 57, flat.layout.total)
    assert all(p.requires_grad for p in flat.parameters)
    assert len(flat.parameters) == 8
    assert flat.layout.parameters == sum(p.numel() for p in flat.parameters)


class Counters(nn.Module):
    """Normalisation with and without a momentum, a permutation, a pattern, a phase."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.counting, self.fc = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)
        self.register_buffer("perm", torch.randperm(4))
        self.register_buffer("seen", torch.tensor([True, False, True, True]))
        self.register_buffer("phase", torch.polar(torch.ones(2), torch.ones(2)), persistent=False)


def test_state_that_is_no_real_number_lies_beside_the_vector() -> None:
    flat = FlatModule(Counters())
    found = [(b.name, b.shape, b.dtype) for b in flat.layout.buffers]
    assert found == [
        ("perm", (4,), "int64"), ("seen", (4,), "bool"), ("phase", (2,), "complex64"),
        ("counting.num_batches_tracked", (), "int64"),
    ]  # fmt: skip
    other = FlatModule(Counters())
    other.write_buffers_([b + 1 if b.dtype == torch.int64 else b for b in flat.read_buffers()])
    assert torch.equal(other.module.perm, flat.module.perm + 1)
    assert other.module.counting.num_batches_tracked == 1
    assert other.module.fixed.num_batches_tracked == 0
    kept = flat.read_buffers()
    flat.module.seen.fill_(False)
    assert bool(kept[1].any()), "what was read is a copy"


def test_a_layout_is_another_networks_or_its_own() -> None:
    flat = FlatModule(Three(), layout_of(Three()))
    assert flat.layout == layout_of(Three())
    with pytest.raises(ValueError, match=r"Expected 0.weight of shape \[3, 4\] in the module, but it has none"):
        FlatModule(Three(), layout_of(nn.Sequential(nn.Linear(4, 3))))
    with pytest.raises(ValueError, match=r"Expected 0.weight of shape \[3, 4\] in the module, but it has \[5, 4\]"):
        FlatModule(nn.Sequential(nn.Linear(4, 5)), layout_of(nn.Sequential(nn.Linear(4, 3))))


def test_a_changed_network_is_told_by_tensor() -> None:
    before, now = layout_of(nn.Sequential(nn.Linear(4, 64))), layout_of(nn.Sequential(nn.Linear(4, 32, bias=False)))
    assert before.differences(before.described) == []
    assert now.differences(before.described) == [
        "0.weight: was maskable [64, 4], now maskable [32, 4]", "0.bias: was parameter [64], now absent",
    ]  # fmt: skip
    assert before.differences(dict(reversed(before.described.items()))) == ["the same tensors in another order"]


def test_only_images_lie_in_channels_last() -> None:
    network = nn.ModuleList([nn.Conv1d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3)])
    before = FlatModule(network).read()
    to_memory_format_(network, torch.channels_last)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[2].weight.is_contiguous()
    assert torch.equal(FlatModule(network).read(), before)


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


def test_lazy_layers_get_their_sizes_on_the_same_draw() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Dropout(), nn.Flatten(), nn.LazyLinear(10))

    with pytest.raises(ValueError, match="some are lazy"):
        layout_of(make())
    networks = [initialise(make, 3, (1, 8, 8)) for _ in range(2)]
    assert torch.equal(*(FlatModule(n).read() for n in networks))
    assert networks[0].training
    assert networks[0][1].num_batches_tracked == 0
    assert not networks[0][1].running_mean.any()
