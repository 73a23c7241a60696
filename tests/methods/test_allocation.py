"""ERK and its relatives: the formulas, and the densities and FLOPs that are published for them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.flat import layout_of
from pffdst.core.model import Entry, Layout
from pffdst.cost.flops import FlopCounter
from pffdst.methods.allocation import Allocation, Dense, Erk, ErkFedDst, Uniform, erk_raw, integer_counts
from pffdst.models.resnet import ResNet18


@pytest.fixture(scope="module")
def resnet() -> ResNet18:
    return ResNet18(channels=3, size=32, classes=10)


@pytest.fixture(scope="module")
def resnet_layout(resnet: ResNet18) -> Layout:
    return layout_of(resnet)


@pytest.fixture(scope="module")
def flops(resnet: ResNet18, resnet_layout: Layout) -> FlopCounter:
    return FlopCounter.of(resnet, resnet_layout, (3, 32, 32))


def layout_of_shapes(*shapes: tuple[int, ...]) -> Layout:
    entries, offset = [], 0
    for i, shape in enumerate(shapes):
        entries.append(Entry(f"{i}.weight", shape, offset, "maskable"))
        offset += entries[-1].size
    return Layout(tuple(entries))


# ---- counts -----------------------------------------------------------------------------------------------------

sizes_and_total = st.lists(st.integers(1, 200), min_size=1, max_size=8).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(len(sizes), sum(sizes)))
)


@given(sizes_and_total, st.data())
def test_counts_sum_to_the_total_within_every_layers_size(case: tuple[list[int], int], data: st.DataObject) -> None:
    sizes, total = case
    densities = data.draw(st.lists(st.floats(0, 1), min_size=len(sizes), max_size=len(sizes)))
    counts = integer_counts(densities, sizes, total)
    assert sum(counts) == total
    assert all(1 <= c <= s for c, s in zip(counts, sizes, strict=True))


@given(st.lists(st.integers(20, 500), min_size=1, max_size=8), st.floats(0.1, 1))
def test_no_layer_is_a_whole_weight_off_what_it_should_have(sizes: list[int], density: float) -> None:
    counts = integer_counts([density] * len(sizes), sizes, round(density * sum(sizes)))
    assert all(abs(c - density * s) < 1 + 1e-9 for c, s in zip(counts, sizes, strict=True))


def test_counts_are_rounded_not_cut_off() -> None:
    assert integer_counts([1 - 0.9], [10], 1) == (1,)
    assert Uniform().counts(layout_of_shapes((2, 5)), 1 - 0.9) == (1,)
    assert Uniform().counts(layout_of_shapes((3, 9), (4, 10)), 1 - 0.9) == (3, 4)


def test_every_layer_keeps_a_weight_where_too_few_are_asked_for() -> None:
    assert integer_counts([0.01] * 3, [10, 10, 10], 1) == (1, 1, 1)


@pytest.mark.parametrize("rule", [Uniform(), Erk(), ErkFedDst()])
def test_sparsity_zero_is_dense(rule: Allocation, resnet_layout: Layout) -> None:
    assert rule.counts(resnet_layout, 1.0) == Dense().counts(resnet_layout, 0.1)


# ---- formulas ---------------------------------------------------------------------------------------------------


def test_the_raw_density_of_a_convolution_and_of_a_linear_layer() -> None:
    conv, linear = layout_of_shapes((16, 6, 5, 3), (10, 84)).layers
    assert erk_raw(conv) == (6 + 16 + 5 + 3) / (6 * 16 * 5 * 3)
    assert erk_raw(linear) == (84 + 10) / (84 * 10)


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.01])
def test_erk_is_min_of_one_and_epsilon_times_raw(resnet_layout: Layout, density: float) -> None:
    layers = resnet_layout.layers
    found = Erk().densities(layers, density)
    eps = min(d / erk_raw(e) for d, e in zip(found, layers, strict=True) if d < 1)
    assert found == pytest.approx([min(1.0, eps * erk_raw(e)) for e in layers])
    assert sum(d * e.size for d, e in zip(found, layers, strict=True)) == pytest.approx(
        density * resnet_layout.maskable
    )


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_erk_feddst_has_sparsity_c_times_one_minus_raw(resnet_layout: Layout, density: float) -> None:
    layers = resnet_layout.layers
    found = ErkFedDst().densities(layers, density)
    c = torch.tensor([(1 - d) / (1 - erk_raw(e)) for d, e in zip(found, layers, strict=True)])
    assert float(c.max() - c.min()) < 1e-6
    assert sum(d * e.size for d, e in zip(found, layers, strict=True)) == pytest.approx(
        density * resnet_layout.maskable
    )


# ---- published figures ------------------------------------------------------------------------------------------

DENSITIES = [("conv1", 1.0, 0.137), ("stages.0.0.conv1", 0.48, 0.1025), ("stages.3.1.conv2", 0.058, 0.0996)]


@pytest.mark.parametrize(("layer", "erk", "feddst"), DENSITIES)
def test_published_densities_of_resnet18_at_nine_tenths(
    resnet_layout: Layout, layer: str, erk: float, feddst: float
) -> None:
    at = [e.name for e in resnet_layout.layers].index(f"{layer}.weight")
    size = resnet_layout.layers[at].size
    assert Erk().counts(resnet_layout, 1 - 0.9)[at] / size == pytest.approx(erk, abs=5e-4)
    assert ErkFedDst().counts(resnet_layout, 1 - 0.9)[at] / size == pytest.approx(feddst, abs=3e-4)


FRACTIONS = [(0.9, 0.248, 0.101), (0.95, 0.125, 0.051), (0.98, 0.051, 0.021), (0.99, 0.025, 0.011)]


@pytest.mark.parametrize(("sparsity", "erk", "feddst"), FRACTIONS)
def test_published_flop_fractions_of_resnet18(
    resnet_layout: Layout, flops: FlopCounter, sparsity: float, erk: float, feddst: float
) -> None:
    dense = flops.forward([e.size for e in resnet_layout.layers])
    for rule, published in ((Erk(), erk), (ErkFedDst(), feddst)):
        counts = rule.counts(resnet_layout, 1 - sparsity)
        assert flops.forward(list(counts)) / dense == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_a_dense_output_layer_is_part_of_the_whole(resnet_layout: Layout, density: float) -> None:
    counts = Erk(dense_output=True).counts(resnet_layout, density)
    assert counts[-1] == resnet_layout.layers[-1].size
    assert sum(counts) == round(density * resnet_layout.maskable)
    others = Layout(resnet_layout.layers[:-1])
    alone = Erk().counts(others, (sum(counts) - counts[-1]) / others.maskable)
    assert all(abs(a - b) <= 1 for a, b in zip(counts[:-1], alone, strict=True))
