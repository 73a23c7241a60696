"""A network that cannot work is told of in one line, before anything is done with it."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from pffdst.core.flat import initialise
from pffdst.core.probe import probe, repeat_problems, takes_channels_last, written_in_forward

SHAPE = (1, 8, 8)


class Plain(nn.Module):
    """A linear layer, and a result that a test makes of it."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x.flatten(1))


def giving(result: Any) -> nn.Module:
    class Giving(Plain):
        def forward(self, x: Tensor) -> Any:
            return result(super().forward(x))

    return Giving()


class Evaluated(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y if self.training else y.argmax(1)


class Locked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Aliased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = nn.Parameter(self.a.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(1)))


def half_double() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    network[1].double()
    return network


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


class SparseBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(9, 10, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.words((x.flatten(1) * 2).long().clamp(-4, 4) + 4)


WRONG: dict[str, tuple[Any, str]] = {
    "seven outputs": (lambda: Plain(7), "it has 7 outputs, but the data have 10 classes"),
    "a tuple": (lambda: giving(lambda y: (y, y)), r"it returns a tuple of 2: return its `logits` alone"),
    "a mapping": (
        lambda: giving(lambda y: {"logits": y, "loss": y.sum()}),
        r"a dict \(logits, loss\): return its `logit",
    ),
    "nothing": (lambda: giving(lambda y: None), "it returns a NoneType"),
    "classes": (lambda: giving(lambda y: y.argmax(1)), "but it returns int64: return the logits"),
    "a map of logits": (lambda: giving(lambda y: y[..., None]), r"but it returns \[2, 10, 1\]"),
    "auxiliary heads": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 1), nn.Upsample(64), torchvision.models.googlenet(num_classes=10, init_weights=False)
        ),
        r"GoogLeNetOutputs \(logits, aux_logits2, aux_logits1\): disable its auxiliary heads",
    ),
    "another size": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 10)),
        r"training mode on samples \[2, 1, 8, 8\]",
    ),
    "not a number": (lambda: giving(lambda y: y / 0 * 0), "its first loss is nan"),
    "no gradient": (lambda: giving(lambda y: y.detach()), "depend on no trainable parameter"),
    "one sample's logits": (
        lambda: giving(lambda y: y.squeeze()),
        r"expected logits \[1, 10\] in evaluation mode, but it returns \[10\]",
    ),
    "in evaluation": (Evaluated, "logits .* in evaluation mode, but it returns int64"),
    "bfloat16": (lambda: Plain().bfloat16(), r"fc.weight is bfloat16, .* write .float\(\); .*precision=bf16"),
    "complex": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=torch.cfloat)),
        "is complex64, but",
    ),
    "two precisions": (half_double, r"float32 and float64 \(2.weight\): write .float\(\)"),
    "nothing to train": (lambda: Plain().requires_grad_(False), "no parameter is trainable"),
    "lazy": (lazy, r"1.weight, 1.bias got no size"),
    "two in one memory": (Aliased, "a.weight and b.weight are two parameters that share memory"),
    "a lock": (Locked, "it cannot be copied.*pickle"),
    "a sparse gradient": (SparseBag, "gradient of words.weight is a sparse tensor, .*: write sparse=False"),
    "no module": (lambda: lambda x: x, "expected a torch.nn.Module, but its _target_ returns a function"),
    "a failing backward pass": (
        lambda: giving(lambda y: y.register_hook(lambda g: 1 / 0) and y),
        "its backward pass fails: ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    make, words = WRONG[name]
    [line] = probe(make(), SHAPE, 10)
    assert line.startswith("model: ")
    assert "\n" not in line
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(line)


@pytest.mark.parametrize("make", [Plain, lambda: Plain().double()])
def test_nothing_is_said_of_a_network_that_works(make: Any) -> None:
    assert probe(make(), SHAPE, 10) == []


def test_the_global_generators_are_left_alone() -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    before = state()
    probe(network, SHAPE, 10)
    assert state() == before


class Viewed(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.fc(y.view(len(y), -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_views_its_images_takes_none_in_channels_last(channels: int) -> None:
    assert probe(Viewed(channels), (channels, 8, 8), 10) == []
    assert not takes_channels_last(Viewed(channels), (channels, 8, 8), 10)
    assert takes_channels_last(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)), (3, 8, 8), 10)


class Limited(nn.Module):
    """Weights that the forward pass keeps small, which those of the constructor are."""

    def __init__(self, data: bool) -> None:
        super().__init__()
        self.fc, self.data = nn.Linear(192, 10), data

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            (self.fc.weight.data if self.data else self.fc.weight).clamp_(-1.0, 1.0)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("data", [False, True])
def test_weights_that_the_forward_pass_writes_to_are_named(data: bool) -> None:
    network = Limited(data)
    before = network.fc.weight.clone()
    assert written_in_forward(network, (3, 8, 8)) == ["fc.weight"]
    assert torch.equal(network.fc.weight, before)
    assert written_in_forward(Viewed(), (3, 8, 8)) == []


def test_a_whole_number_that_does_not_train_may_be_a_parameter() -> None:
    network = Limited(False)
    network.bits = nn.Parameter(torch.tensor(8), requires_grad=False)
    assert probe(network, (3, 8, 8), 10) == []
    assert written_in_forward(network, (3, 8, 8)) == ["fc.weight"]


class OnItsClass(Plain):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        type(self).calls += 1
        return super().forward(x / type(self).calls)


class WithoutSeed(Plain):
    def __init__(self, *seed: int) -> None:
        super().__init__()
        self.draws = np.random.default_rng(*seed)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + float(self.draws.normal()))


class Drawing(Plain):
    """Draws that the run's seed decides."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + random.random() + float(np.random.normal())).relu()  # noqa: NPY002


@pytest.mark.parametrize(
    ("make", "alike"),
    [(OnItsClass, False), (WithoutSeed, False), (lambda: WithoutSeed(5), True), (Drawing, True), (Plain, True)],
)
def test_a_network_that_no_seed_repeats_is_told(make: Any, alike: bool) -> None:
    first, again = (initialise(make, 0, SHAPE) for _ in range(2))
    lines = repeat_problems(first, again, SHAPE)
    assert lines == [] if alike else "unseeded generator" in lines[0]
    assert first.training
