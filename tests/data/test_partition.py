import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.core.errors import UserError
from pffdst.data.clients.divided import Dirichlet, Iid, PartitionError, Shards
from pffdst.data.clients.owned import facts_of

ALL = (Iid(), Dirichlet(0.3, 1, 3), Dirichlet(0.05, 2, 0), Dirichlet(100.0, 1, 1), Shards(1), Shards(2))


def labels(count, classes, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def held(labels, owners=None):
    """Samples as a partition knows them."""
    return SimpleNamespace(labels=labels, owners=owners)


def class_table(found, labels, classes):
    """Training samples per client and class [C, classes]."""
    return torch.stack([torch.bincount(labels[found.train(k)], minlength=classes) for k in range(found.clients)])


@st.composite
def cases(draw, ways=ALL):
    way, classes, clients = draw(st.sampled_from(ways)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    train = draw(st.lists(st.integers(0, classes - 1), min_size=2 * clients, max_size=120))
    test = draw(st.lists(st.integers(0, classes - 1), max_size=60))
    as_tensor = [torch.tensor(x, dtype=torch.int64) for x in (train, test)]
    return way, *as_tensor, clients, classes, draw(st.integers(-(2**40), 2**40))


def laws(test):
    return settings(deadline=None, max_examples=60)(given(cases())(test))


@laws
def test_every_sample_is_assigned_exactly_once(case):
    way, train, test, clients, *rest = case
    found = way.split(held(train), held(test), clients, *rest)
    for order, offsets, count in (
        (found.train_order, found.train_offsets, len(train)),
        (found.test_order, found.test_offsets, len(test)),
    ):
        assert torch.equal(order.sort().values, torch.arange(count))
        assert (int(offsets[0]), int(offsets[-1]), len(offsets)) == (0, count, clients + 1)
        assert bool((offsets.diff() >= 0).all())
    assert torch.equal(torch.cat([found.train(k) for k in range(clients)]), found.train_order)
    assert torch.equal(torch.cat([found.test(k) for k in range(clients)]), found.test_order)


@laws
def test_every_client_has_samples_and_the_smallest_size(case):
    way, *rest = case
    sizes = way.split(*map(held, rest[:2]), *rest[2:]).sizes()
    assert int(sizes.min()) >= getattr(way, "min_size", 1)
    if isinstance(way, Iid):
        assert int(sizes.max() - sizes.min()) <= 1


@laws
def test_views_agree(case):
    way, train, test, clients, classes, seed = case
    found = way.split(held(train), held(test), clients, classes, seed)
    owner = found.test_owner()
    for k in range(clients):
        assert torch.equal((owner == k).nonzero().flatten(), found.test(k))
        assert (len(found.train(k)), int(found.sizes()[k])) == (found.size(k), found.size(k))


@laws
def test_test_samples_follow_the_training_proportions(case):
    """Largest remainder: every client is within one sample of its exact share of every class."""
    way, train, test, clients, classes, seed = case
    found = way.split(held(train), held(test), clients, classes, seed)
    table = class_table(found, train, classes).double()
    total = table.sum(dim=0)
    share = torch.where(total > 0, table / total.clamp_min(1), torch.ones(()) / clients)
    got = torch.bincount(found.test_owner() * classes + test, minlength=clients * classes).view(clients, classes)
    assert bool(((got - share * torch.bincount(test, minlength=classes)).abs() < 1 - 1e-9).all())


@laws
def test_the_seed_decides(case):
    way, *rest = case
    one, two = (way.split(*map(held, rest[:2]), *rest[2:]) for _ in range(2))
    assert all(torch.equal(getattr(one, f), getattr(two, f)) for f in ("train_order", "train_offsets", "test_order"))


@pytest.mark.parametrize("way", ALL)
def test_another_seed_is_another_partition(way):
    train, test = labels(600, 5), labels(200, 5, seed=1)
    one, two = way.split(held(train), held(test), 10, 5, 0), way.split(held(train), held(test), 10, 5, 1)
    assert not torch.equal(one.train_order, two.train_order)
    assert not torch.equal(one.test_order, two.test_order)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1e-300, 0.01, 0.1]))
def test_topping_up_moves_no_more_than_it_must(seed, min_size, alpha):
    train = labels(100, 4)
    topped = Dirichlet(alpha, min_size, 0).split(held(train), held(train), 20, 4, seed)
    assert int(topped.sizes().min()) >= min_size
    assert topped.moved == 0 or int(topped.sizes().min()) == min_size
    assert topped.moved < 20 * min_size


def test_topping_up_takes_from_the_largest():
    train = labels(1000, 10)
    free = Dirichlet(0.1, 1, 0).split(held(train), held(train), 20, 10, 3)
    topped = Dirichlet(0.1, 20, 0).split(held(train), held(train), 20, 10, 3)
    before, after = free.sizes(), topped.sizes()
    assert free.moved == 0
    assert topped.moved == int((20 - before).clamp_min(0).sum()) > 0
    given_away = before > after
    assert bool((after[before < 20] == 20).all())
    assert int(after[given_away].max() - after[given_away].min()) <= 1  # the givers end level
    assert int(after[given_away].min()) >= int(before[~given_away].max()) - 1  # and nobody larger gave nothing
    kept = {k: set(topped.train(k).tolist()) for k in range(20)}
    assert sum(len(set(free.train(k).tolist()) - kept[k]) for k in range(20)) == topped.moved


def test_redrawing_finds_a_draw_that_needs_no_topping_up():
    train = labels(400, 10)
    moved = [Dirichlet(0.3, 4, retries).split(held(train), held(train), 20, 10, 1).moved for retries in (0, 1, 50)]
    assert moved[0] >= moved[1] >= moved[2] == 0
    assert moved[0] > 0


def test_dirichlet_shares_have_the_right_distribution():
    """Mean 1/C and variance (C-1)/(C^2 (C alpha + 1)) of a client's share, for every client, the first included."""
    alpha, clients, train = 0.5, 5, torch.zeros(2000, dtype=torch.int64)
    shares = torch.stack(
        [Dirichlet(alpha, 1, 0).split(held(train), held(train), clients, 1, s).sizes() / 2000 for s in range(600)]
    )
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    tolerance = 4 * (variance / 600) ** 0.5
    assert bool(((shares.mean(dim=0) - 1 / clients).abs() < tolerance).all())
    assert bool((shares.var(dim=0) / variance - 1).abs().max() < 0.3)


def test_smaller_alpha_means_fewer_classes_per_client():
    train = labels(5000, 10)
    several = [
        (class_table(Dirichlet(a, 1, 0).split(held(train), held(train), 20, 10, 0), train, 10) > 5)
        .sum(dim=1)
        .float()
        .mean()
        for a in (0.05, 0.5, 1000.0)
    ]
    assert several[0] < several[1] < several[2] == 10


def test_shards_hold_few_classes():
    train = torch.arange(10).repeat(100)
    found = Shards(2).split(held(train), held(train), 10, 10, 0)
    table = class_table(found, train, 10)
    assert bool((found.sizes() == 100).all())
    assert int((table > 0).sum(dim=1).max()) <= 2


def test_a_class_without_training_samples_is_spread_evenly():
    train, test = torch.zeros(40, dtype=torch.int64), torch.tensor([1] * 20 + [0] * 20)
    found = Dirichlet(0.1, 1, 0).split(held(train), held(test), 8, 2, 0)
    counts = torch.bincount(found.test_owner()[:20], minlength=8)
    assert int(counts.max() - counts.min()) == 1


def test_spare_test_samples_do_not_all_go_to_the_first_clients():
    """Every client has the same claim on each of these samples: a lot decides, class by class."""
    train, test = torch.zeros(100, dtype=torch.int64), torch.arange(1, 11).repeat_interleave(3)
    owners = Iid().split(held(train), held(test), 100, 11, 0).test_owner()
    assert len(owners.unique()) > 20


@pytest.mark.parametrize(
    ("way", "samples", "clients", "message"),
    [
        (Iid(), 10, 11, "clients=11 is more than the 10 training samples; write clients=10 or fewer"),
        (Iid(), 10, 0, "clients must be 1 or more, got 0"),
        (Dirichlet(0.0, 1, 1), 10, 2, "partition.alpha must be above 0"),
        (Dirichlet(float("nan"), 1, 1), 10, 2, "partition.alpha must be above 0"),
        (Dirichlet(float("inf"), 1, 1), 10, 2, "for equal shares write partition=iid"),
        (Dirichlet(0.1, 0, 1), 10, 2, "partition.min_size must be 1 or more, got 0"),
        (Dirichlet(0.1, 1, -1), 10, 2, "partition.retries must be 0 or more, got -1"),
        (Dirichlet(0.1, 4, 1), 10, 3, "needs 12 training samples, there are 10; write clients=2 or fewer, or "
         "partition.min_size=3"),
        (Shards(0), 10, 2, "partition.per_client must be 1 or more, got 0"),
        (Shards(6), 10, 2, "needs 12 training samples, there are 10; write clients=1 or fewer, or "
         "partition.per_client=5"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(way, samples, clients, message):
    assert message in "\n".join(way.problems(facts_of(held(torch.zeros(samples)), clients)))
    train = torch.zeros(samples, dtype=torch.int64)
    for kind in (ValueError, UserError, PartitionError):
        with pytest.raises(kind, match=re.escape(message)):
            way.split(held(train), held(train), clients, 1, 0)


def test_no_problem_at_the_limit():
    for way in (Iid(), Dirichlet(0.1, 2, 1), Shards(2)):
        assert way.problems(facts_of(held(torch.zeros(20)), 10)) == []


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"labels must be 0..1, got 0..2"):
        Iid().split(held(torch.tensor([0, 1, 2])), held(torch.tensor([0])), 2, 2, 0)


@pytest.mark.parametrize("way", [Iid(), Dirichlet(0.1, 1, 10), Shards(1)])
def test_fifty_thousand_clients_are_quick(way):
    train, test = labels(50_000, 10), labels(10_000, 10, seed=1)
    began = time.process_time()
    found = way.split(held(train), held(test), 50_000, 10, 0)
    assert time.process_time() - began < 2
    assert int(found.sizes().min()) == int(found.sizes().max()) == 1
    assert np.prod(class_table(found, train, 10).shape) == 500_000
