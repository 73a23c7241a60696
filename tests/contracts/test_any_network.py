"""What holds for every network that trains: its FLOPs, its masks, what it says of itself.

The zoo holds networks as people write them; torchvision's classifiers are those that people take.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop

from pffdst.core.flat import FlatModule, coverage, initialise, layout_of
from pffdst.core.masks import draw
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.core.probe import probe
from pffdst.core.seeding import seeded_global_state
from pffdst.core.trace import PARTS, Trace, copy_of, remarks, trace
from pffdst.cost.flops import FlopCounter
from pffdst.methods.allocation import Erk
from tests.zoo import CLASSES, TORCHVISION, ZOO, Animal

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@dataclass(frozen=True)
class Seen:
    """A network, and what was seen of it."""

    network: nn.Module
    shape: tuple[int, int, int]
    trace: Trace
    layout: Layout
    flops: FlopCounter

    @property
    def dense(self) -> list[int]:
        return [e.size for e in self.layout.layers]


def seen(make: Callable[[], nn.Module], shape: tuple[int, int, int]) -> Seen:
    network = initialise(make, 0, shape)
    watched = trace(network, shape)
    layout = layout_of(network, watched)
    return Seen(network, shape, watched, layout, FlopCounter.counted(watched, layout))


@cache
def of_the_zoo(animal: Animal) -> Seen:
    return seen(lambda: animal.make(3, 8, CLASSES), (3, 8, 8))


@cache
def of_torchvision(name: str) -> Seen:
    return seen(TORCHVISION[name], (3, 32, 32))


ANIMALS = [pytest.param(lambda a=a: of_the_zoo(a), id=a.name) for a in ZOO]
EVERY = [*ANIMALS, *(pytest.param(lambda n=n: of_torchvision(n), id=n) for n in TORCHVISION)]
DRAWN = {a.name for a in ZOO if a.chance}


def conv_backward(*args: Any, out_shape: Any, **kwargs: Any) -> int:
    """torch's formula but for groups: it takes the weight gradient of each group for one of all channels."""
    mask, groups = args[10], args[9]
    flops = [conv_backward_flop(*args[:10], m, out_val=out_shape) for m in ([mask[0], 0, 0], [0, mask[1], 0])]
    return int(flops[0]) + int(flops[1]) // groups


def counted_by_torch(s: Seen) -> dict[bool, int]:
    """FLOPs of a sample, forward (False) and with the backward pass (True), in training mode."""
    network, flops = copy_of(s.network).train(), {}
    mapping = {torch.ops.aten.convolution_backward: conv_backward}
    with seeded_global_state(0, "trace", 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.randn(2, *s.shape, dtype=next(network.parameters()).dtype)
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False, custom_mapping=mapping) as mode:
            loss = network(images).sum()
            flops[False] = mode.get_total_flops()
            loss.backward()
    return {False: flops[False] // 2, True: mode.get_total_flops() // 2}


# ---- FLOPs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", EVERY)
def test_dense_flops_are_those_torch_counts(of: Callable[[], Seen], request: pytest.FixtureRequest) -> None:
    s = of()
    ours = s.flops.training(s.dense, s.dense)
    if request.node.callspec.id in DRAWN:
        assert s.flops.forward(s.dense) <= ours
        return
    torchs = counted_by_torch(s)
    assert ours == torchs[True]
    if request.node.callspec.id == "ReentrantCheckpoint":  # whose backward pass runs layers forward again
        assert s.flops.forward(s.dense) > torchs[False]
    else:
        assert s.flops.forward(s.dense) == torchs[False]


@pytest.mark.parametrize("of", EVERY)
def test_dead_weights_cost_nothing_and_the_rest_costs_its_share(of: Callable[[], Seen]) -> None:
    s = of()
    none = [0] * len(s.dense)
    assert s.flops.parts(none, none) == dict(zip(PARTS, s.flops.rest, strict=True))
    half = [n // 2 for n in s.dense]
    whole = s.flops.parts(s.dense, s.dense)
    for i, (part, flops) in enumerate(s.flops.parts(half, half).items()):
        shares = [cost[i] * k / n for cost, k, n in zip(s.flops.costs, half, s.dense, strict=True)]
        assert flops == pytest.approx(s.flops.rest[i] + sum(shares), abs=len(half) / 2)
        assert flops <= whole[part]
    assert s.flops.parts(s.dense, none)["weight_gradient"] == s.flops.rest.weight_gradient
    assert s.flops.dense_gradient(half)["weight_gradient"] == whole["weight_gradient"]


# ---- masks ------------------------------------------------------------------------------------------------------


def train(flat: FlatModule, shape: tuple[int, ...], masks: list[Tensor], steps: int = 2) -> set[str]:
    """Steps of masked SGD; the names of the weights that had a gradient."""
    optimizer, had = torch.optim.SGD(flat.parameters, lr=0.1, momentum=0.9), set()
    with seeded_global_state(0, "steps"):
        for _ in range(steps):
            images = torch.randn(4, *shape, dtype=flat.tensors[0].dtype)
            optimizer.zero_grad()
            nn.functional.cross_entropy(flat.module(images), torch.randint(CLASSES, (4,))).backward()
            for entry, weight, mask in zip(flat.layout.layers, flat.weights, masks, strict=True):
                if weight.grad is not None:
                    weight.grad *= mask
                    had.add(entry.name)
            optimizer.step()
    return had


@pytest.mark.parametrize("of", ANIMALS)
def test_alive_counts_are_exact_and_stay_so(of: Callable[[], Seen]) -> None:
    s = of()
    counts = Erk().counts(s.layout, 1 - 0.8)
    assert sum(counts) == round(0.2 * s.layout.maskable)
    alive = draw(Positions.none(s.layout), counts, seed=1)
    assert alive.counts == counts
    flat = FlatModule(copy_of(s.network).train(), s.layout)
    values = flat.read()
    values[: s.layout.maskable] *= alive.bits
    flat.write_(values)
    train(flat, s.shape, flat.masks_like(alive.bits))
    weights = flat.read()[: s.layout.maskable]
    assert bool((weights[~alive.bits] == 0).all())
    assert bool(weights.isfinite().all())


@pytest.mark.parametrize("of", EVERY)
def test_nothing_alive_is_without_a_gradient(of: Callable[[], Seen], request: pytest.FixtureRequest) -> None:
    s = of()
    parameters = dict(s.network.named_parameters())
    assert all(parameters[e.name].requires_grad for e in s.layout.layers)
    assert {e.name for e in s.layout.layers} <= s.trace.reached
    assert not s.trace.idle & {e.name for e in s.layout.layers}
    if request.node.callspec.id in TORCHVISION:
        assert not s.trace.idle
        assert not s.trace.blocked
        return
    flat = FlatModule(copy_of(s.network).train(), s.layout)
    had = train(flat, s.shape, [torch.ones_like(w) for w in flat.weights], steps=8)
    assert had == {e.name for e in s.layout.layers}


@pytest.mark.parametrize("of", EVERY)
def test_a_layout_holds_everything_that_can_act_once(of: Callable[[], Seen]) -> None:
    s = of()
    names = Counter(t.name for t in s.layout.tensors)
    assert set(names.values()) == {1}
    everything = {**dict(s.network.named_parameters()), **dict(s.network.named_buffers())}
    missing = everything.keys() - names.keys()
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert sum(e.size for e in s.layout.entries) == s.layout.total
    shares = coverage(s.layout)
    assert shares.parameters == sum(p.numel() for p in s.network.parameters())
    assert shares.maskable == s.layout.maskable
    kinds = ("maskable", "parameter", "statistic", "constant")
    assert [s.layout.span(k).start for k in kinds[1:]] == [s.layout.span(k).stop for k in kinds[:-1]]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("of", EVERY)
def test_a_copy_that_is_given_the_values_is_the_network(of: Callable[[], Seen]) -> None:
    s = of()
    here = FlatModule(copy_of(s.network), s.layout)
    there = FlatModule(copy_of(s.network), s.layout)
    there.write_(torch.zeros(s.layout.total, dtype=here.tensors[0].dtype))
    there.write_buffers_([torch.zeros_like(b) for b in there.buffers])
    there.write_(here.read())
    there.write_buffers_(here.read_buffers())
    images = torch.randn(2, *s.shape, dtype=here.tensors[0].dtype)
    with torch.no_grad():
        assert torch.equal(here.module.eval()(images), there.module.eval()(images))


# ---- what is said before the run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("of", EVERY)
def test_the_probe_has_nothing_against_it_and_leaves_it_alone(of: Callable[[], Seen]) -> None:
    s = of()
    before, training = FlatModule(s.network, s.layout).read(), s.network.training
    assert probe(s.network, s.shape, CLASSES) == []
    assert torch.equal(FlatModule(s.network, s.layout).read(), before)
    assert s.network.training == training
    assert all(p.grad is None for p in s.network.parameters())


@pytest.mark.parametrize("animal", ZOO, ids=lambda a: a.name)
def test_what_is_found_in_the_zoo(animal: Animal) -> None:
    s = of_the_zoo(animal)
    matrices = {name for name, p in s.network.named_parameters() if p.dim() >= 2}
    assert {e.name for e in s.layout.layers} == (matrices if animal.maskable is None else set(animal.maskable))
    assert {e.name for e in s.layout.entries if e.kind == "constant"} == set(animal.constants)
    assert {b.name for b in s.layout.buffers} == set(animal.buffers)
    assert s.trace.mixed == set(animal.mixed)
    assert s.trace.idle == set(animal.idle)
    assert s.trace.blocked == dict(animal.blocked)
    text = "\n".join(remarks(s.trace, s.layout))
    named = {*animal.idle, *dict(animal.blocked), *(n for n in animal.mixed if n in {e.name for e in s.layout.layers})}
    assert all(name in text for name in named)
    assert bool(text) == bool(named)


@pytest.mark.parametrize("name", [n for n in TORCHVISION if "transformer" not in n])
def test_of_networks_that_call_their_layers_the_layers_alone_tell_the_layout(name: str) -> None:
    s = of_torchvision(name)
    assert layout_of(s.network) == s.layout
