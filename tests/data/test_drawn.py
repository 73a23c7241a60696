"""Clients that draw their samples: each the same whenever it is asked for, together distributed as they should be."""

import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.data.clients.divided import PartitionError
from pffdst.data.clients.drawn import Drawn

WAY = Drawn(alpha=0.3, samples=40, spread=0.5, min_size=2, panel=50)


def labels(count, classes, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def held(labels, owners=None):
    """Samples as a partition knows them."""
    return SimpleNamespace(labels=labels, owners=owners)


def mixes(shares, train, classes, clients):
    """Shares of the classes in each client's samples, [clients, classes]."""
    counts = [torch.bincount(train[shares.train(k)], minlength=classes) for k in range(clients)]
    return torch.stack([row / row.sum() for row in counts])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10**6), st.integers(0, 10**9), st.data())
def test_a_client_is_the_same_draw_whenever_it_is_asked_for(clients, seed, data):
    train, test = labels(300, 5), labels(60, 5, seed=1)
    one, two = (WAY.split(held(train), held(test), clients, 5, seed) for _ in range(2))
    client = data.draw(st.integers(0, clients - 1))
    two.train(0)
    assert torch.equal(one.train(client), two.train(client))
    assert one.size(client) == len(one.train(client)) >= 2
    assert bool(((one.train(client) >= 0) & (one.train(client) < 300)).all())
    more = WAY.split(held(train), held(test), clients + 7, 5, seed)
    assert torch.equal(more.train(client), one.train(client))  # others coming does not change it


def test_another_seed_is_another_population():
    train = labels(300, 5)
    one, two = (WAY.split(held(train), held(train), 10, 5, seed) for seed in (0, 1))
    assert not torch.equal(one.train(3), two.train(3))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_sizes_have_the_mean_and_the_spread_that_were_asked_for(spread):
    shares = Drawn(1.0, 200, spread, 1, 1).split(held(labels(50, 2)), held(labels(5, 2)), 10**6, 2, 0)
    sizes = torch.tensor([float(shares.size(k)) for k in range(0, 10**6, 250)])
    deviation = 200 * (torch.tensor(spread**2).exp() - 1).sqrt()
    assert abs(float(sizes.mean()) - 200) <= 4 * float(deviation) / 4000**0.5 + 0.01
    assert abs(float(sizes.log().std()) - spread) < 0.05


def test_mixes_are_dirichlet_around_the_training_frequencies():
    """Mean p and variance p (1 - p) (1 + a / n) / (1 + a) of a class's share in n samples, a = alpha x classes."""
    train = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    shares = Drawn(0.5, 100, 0.0, 1, 1).split(held(train), held(train), 3000, 3, 0)
    found, p, total = mixes(shares, train, 3, 3000), torch.tensor([0.6, 0.3, 0.1]), 1.5
    variance = p * (1 - p) * (1 + total / 100) / (1 + total)
    assert bool(((found.mean(dim=0) - p).abs() < 4 * (variance / 3000).sqrt()).all())
    assert bool((found.var(dim=0) / variance - 1).abs().max() < 0.15)


def test_a_class_without_training_samples_is_never_drawn():
    train = torch.tensor([0, 2] * 20)
    shares = WAY.split(held(train), held(labels(30, 3)), 5, 3, 0)
    assert all(set(train[shares.train(k)].tolist()) <= {0, 2} for k in range(5))


def test_within_a_class_every_image_has_the_same_chance():
    train = torch.arange(4).repeat(10)
    shares = Drawn(1e9, 50, 0.0, 1, 1).split(held(train), held(train), 400, 4, 0)
    hits = torch.bincount(torch.cat([shares.train(k) for k in range(400)]), minlength=40).double()
    assert float(((hits - 500) ** 2 / 500).sum()) < 75  # chi-square, 39 degrees of freedom: p < 0.0005


@pytest.mark.parametrize("clients", [7, 1000])
def test_the_test_set_is_divided_among_the_panel_in_its_proportions(clients):
    train, test = labels(400, 4), labels(2000, 4, seed=1)
    shares = WAY.split(held(train), held(test), clients, 4, 0)
    owner = shares.test_owner()
    assert shares.tested == min(clients, 50)
    assert (owner.min() >= 0, owner.max() < shares.tested, owner.shape) == (True, True, test.shape)
    own = torch.stack([torch.bincount(train[shares.train(k)], minlength=4) for k in range(shares.tested)]).double()
    due = own / own.sum(dim=0) * torch.bincount(test, minlength=4)
    got = torch.bincount(owner * 4 + test, minlength=4 * shares.tested).view(-1, 4)
    assert bool(((got - due).abs() < 1 - 1e-9).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "`partition.alpha` to be above 0"),
        ({"alpha": float("nan")}, "`partition.alpha` to be above 0"),
        ({"samples": 0.5}, "`partition.samples` to be 1 or more, but got 0.5"),
        ({"spread": 3.0}, "`partition.spread` to be in [0, 2], but got 3.0"),
        ({"min_size": 0}, "`partition.min_size` to be 1 or more"),
        ({"panel": 0}, "`partition.panel` to be 1 or more"),
    ],
)
def test_impossible_numbers_are_refused(change, message):
    numbers = {"alpha": 0.3, "samples": 50.0, "spread": 0.5, "min_size": 2, "panel": 10}
    with pytest.raises(PartitionError, match=re.escape(message)):
        Drawn(**(numbers | change))


def test_no_clients_are_refused():
    with pytest.raises(PartitionError, match="clients must be 1 or more, got 0"):
        WAY.split(held(labels(10, 2)), held(labels(10, 2)), 0, 2, 0)
