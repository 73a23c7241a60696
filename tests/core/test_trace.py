"""What is said of a network's products: to whom they belong, in what part of a step, and what stays out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from pffdst.core.flat import coverage, layout_of
from pffdst.core.trace import copy_of, remarks, trace
from pffdst.cost.flops import FlopCounter

SHAPE = (1, 4, 4)


class Two(nn.Module):
    """A first layer of 16 x 8, a second of 8 x 10, put together by a test."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)))


def with_second(product: Any) -> nn.Module:
    class Network(Two):
        def forward(self, x: Tensor) -> Tensor:
            return product(self.first(x.flatten(1)), self.second.weight)

    return Network()


F1, F2 = 2 * 16 * 8, 2 * 8 * 10
SAME = {
    "linear": lambda x, w: F.linear(x, w),
    "transposed": lambda x, w: x @ w.t(),
    "from the left": lambda x, w: (w @ x.t()).t(),
    "in slices": lambda x, w: torch.cat([x @ w[:4].t(), x @ w[4:].t()], 1),
    "as a convolution": lambda x, w: F.conv1d(x[..., None], w[..., None]).squeeze(2),
    "as a transposed one": lambda x, w: F.conv_transpose2d(x[..., None, None], w.t()[..., None, None]).flatten(1),
    "expanded": lambda x, w: torch.bmm(x[:, None], w.t().expand(len(x), -1, -1)).squeeze(1),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "scaled": lambda x, w: F.linear(x, 3 * w / w.norm()),
    "moved": lambda x, w: F.linear(x, w.flip(0).clone().roll(1, 0)),
    "padded": lambda x, w: F.linear(F.pad(x, (0, 0)), F.pad(w, (0, 0, 0, 0))),
    "in double precision": lambda x, w: F.linear(x.double(), w.double()).float(),
    "multiplied in place": lambda x, w: F.linear(x, w.clone().mul_(2.0)),
}


@pytest.mark.parametrize("name", SAME)
def test_a_weight_is_known_whatever_is_done_with_it(name: str) -> None:
    network = with_second(SAME[name])
    seen = trace(network, SHAPE)
    flops = FlopCounter.counted(seen, layout_of(network, seen))
    assert [e.name for e in flops.layout.layers] == ["first.weight", "second.weight"]
    assert [tuple(cost) for cost in flops.costs] == [(F1, 0, F1), (F2, F2, F2)]
    assert flops.rest == (0, 0, 0)
    assert flops.parts([64, 40], [32, 8]) == {
        "forward": F1 // 2 + F2 // 2,
        "input_gradient": F2 // 2,
        "weight_gradient": F1 // 4 + F2 // 10,
    }


MIXED = {
    "centred": lambda x, w: F.linear(x, w - w.mean()),
    "centred in place": lambda x, w: F.linear(x, w.clone().sub_(w.mean())),
    "exponential": lambda x, w: F.linear(x, w.exp()),
    "softmax": lambda x, w: F.linear(x, w.softmax(1)),
}


@pytest.mark.parametrize("name", MIXED)
def test_zeros_that_do_not_reach_the_product_spare_nothing(name: str) -> None:
    network = with_second(MIXED[name])
    seen = trace(network, SHAPE)
    layout = layout_of(network, seen)
    assert [e.name for e in layout.layers] == ["first.weight"]
    assert [e.name for e in coverage(layout).dense] == ["second.weight"]
    assert FlopCounter.counted(seen, layout).rest == (F2, F2, F2)


def test_a_weight_that_enters_with_its_zeros_and_without_is_named() -> None:
    network = with_second(lambda x, w: F.linear(x, w) + F.linear(x, w - w.mean()))
    seen = trace(network, SHAPE)
    layout = layout_of(network, seen)
    flops = FlopCounter.counted(seen, layout)
    assert flops.costs[1] == flops.rest == (F2, F2, F2)
    assert flops.mixed == ("second.weight",)
    [line] = remarks(seen, layout)
    assert line.endswith("their zeros do not reach the product: second.weight")


def test_what_only_reads_a_weight_is_no_product_of_it() -> None:
    network = with_second(lambda x, w: x @ torch.randn(8, 10) + w.sum())
    seen = trace(network, SHAPE)
    assert seen.operands == {"first.weight"}
    assert FlopCounter.counted(seen, layout_of(network, seen)).rest == (F2, F2, 0)


def test_a_frozen_layer_costs_no_weight_gradient_and_the_first_no_input_gradient() -> None:
    network = Two()
    network.second.weight.requires_grad_(False)
    seen = trace(network, SHAPE)
    layout = layout_of(network, seen)
    flops = FlopCounter.counted(seen, layout)
    assert [e.kind for e in layout.entries] == ["maskable", "parameter", "constant"]
    assert (tuple(flops.costs[0]), tuple(flops.rest)) == ((F1, 0, F1), (F2, F2, 0))


class Blocked(Two):
    """A pattern of its own on the second layer, and one of chance on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pattern", (torch.arange(80) % 5 > 0).float().view(10, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.flatten(1), F.dropout(self.first.weight, 0.5))
        return F.linear(y, self.second.weight * self.pattern)


def test_weights_that_the_network_itself_silences_are_counted_and_those_of_chance_are_not() -> None:
    network = Blocked()
    network.first.bias.requires_grad_(False)
    seen = trace(network, SHAPE)
    assert seen.blocked == {"second.weight": 16}
    [line] = remarks(seen, layout_of(network, seen))
    assert line.startswith("second.weight: the model itself multiplies 16 of its 80 weights by 0")


def test_a_copy_trains_and_the_original_stays() -> None:
    network = nn.Sequential(nn.Flatten(), prune.random_unstructured(nn.Linear(16, 10), "weight", 0.5))
    before = network[1].weight_orig.detach().clone()
    copied = copy_of(network)
    copied(torch.randn(2, *SHAPE)).sum().backward()
    with torch.no_grad():
        copied[1].weight_orig += 1
    assert copied[1].weight_orig.grad is not None
    assert network[1].weight_orig.grad is None
    assert torch.equal(network[1].weight_orig, before)


def test_a_network_is_seen_the_same_twice_whatever_was_drawn_before() -> None:
    class Chance(Two):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x.flatten(1))
            return self.second(y) if np.random.random() >= 0.5 else F.pad(y, (0, 2))  # noqa: NPY002

    network = Chance()
    first = trace(network, SHAPE)
    torch.rand(3)
    np.random.random()  # noqa: NPY002
    assert trace(network, SHAPE) == first
    assert first.samples > 2
    assert "second.weight" in first.reached


def test_a_compiled_part_costs_what_it_costs_uncompiled_at_its_first_run_and_later() -> None:
    plain = Two()
    compiled = Two()
    compiled.first = torch.compile(compiled.first, backend="eager")
    torch._dynamo.reset()
    seen = [trace(compiled, SHAPE).flops for _ in range(2)]
    named = {(n.replace("_orig_mod.", "") if n else n, part): f for (n, part), f in seen[0].items()}
    assert seen[0] == seen[1]
    assert named == trace(plain, SHAPE).flops
