"""A turn begins with the plain attributes that the constructor left, shared ones still shared."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from pffdst.core.attributes import Attributes
from pffdst.core.flat import FlatModule
from pffdst.core.trace import copy_of
from tests.zoo import Generators, OldWeightNorm, Rebound


class Layer(nn.Module):
    def __init__(self, shared: list[int]) -> None:
        super().__init__()
        self.shared = shared
        self.body = nn.Linear(2, 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count, self.shared = 0, [1]
        self.layer = Layer(self.shared)
        self.known = {"body": self.layer.body}
        self.last: Tensor | None = None


def test_what_changed_is_as_it_was() -> None:
    net = Net()
    attributes = Attributes(net)
    net.count, net.late, net.last = 5, "x", net.layer.body.weight * 2
    net.shared.append(2)
    assert attributes.changed()
    attributes.restore_()
    assert (net.count, net.shared, net.last, hasattr(net, "late")) == (0, [1], None, False)
    assert net.layer.shared is net.shared
    assert net.known["body"] is net.layer.body
    net.shared.append(3)
    attributes.restore_()
    assert net.shared == [1]


def test_generators_of_its_own_draw_the_same_again() -> None:
    network = copy_of(Generators(1, 8, 10))
    attributes = Attributes(network)
    x = torch.zeros(2, 1, 8, 8)
    one = network(x)
    assert not torch.equal(network(x), one)
    attributes.restore_()
    assert torch.equal(network(x), one)
    torchs, numpys, pythons = network.draws
    assert (type(torchs), type(numpys), type(pythons)) == (torch.Generator, np.random.Generator, random.Random)


def test_whether_a_parameter_trains_is_put_back() -> None:
    net = Net()
    attributes = Attributes(net)
    net.layer.body.requires_grad_(False)
    attributes.restore_()
    assert net.layer.body.weight.requires_grad


def test_what_hooks_make_of_parameters_is_left_alone() -> None:
    network = OldWeightNorm(1, 8, 10)
    attributes = Attributes(network)
    network(torch.zeros(2, 1, 8, 8)).sum().backward()
    attributes.restore_()
    network(torch.zeros(2, 1, 8, 8)).sum().backward()


def test_a_buffer_that_was_replaced_is_read_and_written_all_the_same() -> None:
    network = Rebound(1, 8, 10)
    flat = FlatModule(network)
    network(torch.ones(2, 1, 8, 8))
    assert flat.read_buffers() == [torch.tensor(1)]
    assert torch.allclose(flat.read()[flat.layout.span("statistic")], torch.tensor(0.1))
    network(torch.ones(2, 1, 8, 8))
    flat.write_buffers_([torch.tensor(7)])
    assert int(network.steps) == 7
    flat.write_(torch.zeros(flat.layout.total))
    assert not bool(network.mean.any())
