"""FLOPs: equal to torch's own count where nothing is dead, to the formula everywhere else."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pffdst.core.flat import FlatModule, layout_of
from pffdst.cost.flops import FlopCounter
from pffdst.models.cnn import SmallCNN
from pffdst.models.lenet import LeNet
from pffdst.models.resnet import ResNet18

NETWORKS = [(SmallCNN, (1, 8, 8)), (LeNet, (3, 32, 32)), (ResNet18, (3, 16, 16))]


def counter_of(make: Any, shape: tuple[int, int, int]) -> tuple[nn.Module, FlopCounter, list[int]]:
    network = make(shape[0], shape[1], 10)
    layout = layout_of(network)
    return network, FlopCounter.of(network, layout, shape), [e.size for e in layout.layers]


def counted(network: nn.Module, shape: tuple[int, int, int], backward: bool) -> int:
    """What torch itself counts for one image."""
    with FlopCounterMode(display=False) as mode:
        y = network.eval()(torch.zeros(1, *shape))
        if backward:
            y.sum().backward()
    return mode.get_total_flops()


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_a_dense_forward_is_what_torch_counts(make: Any, shape: tuple[int, int, int]) -> None:
    network, flops, dense = counter_of(make, shape)
    assert flops.forward(dense) == counted(network, shape, backward=False)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_a_dense_step_is_what_torch_counts(make: Any, shape: tuple[int, int, int]) -> None:
    network, flops, dense = counter_of(make, shape)
    assert flops.training(dense, dense) == counted(network, shape, backward=True)
    assert flops.dense_gradient(dense) == flops.parts(dense, dense)


def test_resnet18_takes_the_published_multiplications() -> None:
    _, flops, dense = counter_of(ResNet18, (3, 32, 32))
    assert flops.forward(dense) / 2e9 == pytest.approx(0.5554, abs=5e-5)


_, CNN, DENSE = counter_of(SmallCNN, (1, 8, 8))
USES = (64, 16, 1, 1)  # output positions of the two convolutions and the two linear layers


@given(st.tuples(*(st.integers(0, n) for n in DENSE)).flatmap(
    lambda alive: st.tuples(st.just(alive), st.tuples(*(st.integers(0, n) for n in alive)))
))  # fmt: skip
def test_a_sparse_step_is_the_formula(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    alive, trainable = case
    f_alive, f_trainable = (sum(2 * n * u for n, u in zip(part, USES, strict=True)) for part in case)
    input_gradient_of_the_first = 2 * alive[0] * USES[0]
    assert CNN.forward(list(alive)) == f_alive
    assert CNN.training(list(alive), list(trainable)) == 2 * f_alive + f_trainable - input_gradient_of_the_first
    f_dense = sum(2 * n * u for n, u in zip(DENSE, USES, strict=True))
    assert CNN.parts(list(alive), list(trainable)) == {
        "forward": f_alive,
        "input_gradient": f_alive - input_gradient_of_the_first,
        "weight_gradient": f_trainable,
    }
    assert sum(CNN.dense_gradient(list(alive)).values()) == 2 * f_alive + f_dense - input_gradient_of_the_first


class Twisted(nn.Module):
    """Its first layer in the layout runs last, another twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.twice, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.twice(self.twice(self.first(x.flatten(1)))))
        return y


def test_the_first_layer_is_the_one_that_runs_first_and_uses_are_counted() -> None:
    network = Twisted()
    flops = FlopCounter.of(network, layout_of(network), (1, 4, 4))
    uses = [cost.forward // (2 * e.size) for cost, e in zip(flops.costs, flops.layout.layers, strict=True)]
    assert uses == [1, 2, 1]
    assert [cost.input_gradient > 0 for cost in flops.costs] == [True, True, False]
    assert flops.training([8, 16, 64], [8, 16, 64]) == counted(network, (1, 4, 4), backward=True)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2))).train()
    before = FlatModule(network).read()
    FlopCounter.of(network, layout_of(network), (1, 8, 8))
    assert network.training
    assert torch.equal(FlatModule(network).read(), before)
    assert not network.conv._forward_hooks
