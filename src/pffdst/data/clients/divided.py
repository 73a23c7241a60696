"""How the training and test samples are divided among the clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.seeding import derive_seed
from pffdst.data.clients.owned import Owned, facts_of
from pffdst.data.dataset import DataError

__all__ = [
    "Dirichlet",
    "Division",
    "Iid",
    "Partition",
    "PartitionError",
    "Partitioner",
    "Shards",
    "Shares",
    "check_name",
    "checked_labels",
    "follow",
    "grouped",
]

_Ints = NDArray[np.int64]
_ALPHA_MAX = 1e9  # beyond it the proportions are equal to rounding


class PartitionError(DataError, ValueError):
    """A partition that these samples do not allow."""


class Shares(ABC):
    """Which samples belong to which client, queried one client at a time."""

    @property
    @abstractmethod
    def clients(self) -> int:
        """C."""

    @abstractmethod
    def size(self, client: int) -> int:
        """n_k, the number of the client's training samples."""

    @abstractmethod
    def train(self, client: int) -> Tensor:
        """Indices int64 [n_k] of the client's training samples."""

    @property
    @abstractmethod
    def tested(self) -> int:
        """Number of clients among whom the test samples are divided: the first ones."""

    @abstractmethod
    def test_owner(self) -> Tensor:
        """The client of every test sample, int64 [N_test], below `tested`."""


@final
@dataclass(frozen=True, eq=False)
class Partition(Shares):
    """Shares as flat index arrays: client k owns order[offsets[k] : offsets[k + 1]].

    A division's `train_order` int64 [N_train] has every sample exactly once; one read from a file may omit or repeat
    samples. `test_order` int64 [N_test] has each once. `train_offsets` and `test_offsets` are int64 [C + 1]. `moved`
    counts the training samples that were moved to reach the minimum size.
    """

    train_order: Tensor
    train_offsets: Tensor
    test_order: Tensor
    test_offsets: Tensor
    moved: int = 0

    @property
    def clients(self) -> int:
        """C."""
        return len(self.train_offsets) - 1

    @property
    def tested(self) -> int:
        """C, although a small client may have no test sample."""
        return self.clients

    def size(self, client: int) -> int:
        """n_k."""
        return int(self.train_offsets[client + 1] - self.train_offsets[client])

    def train(self, client: int) -> Tensor:
        """Indices int64 [n_k] of the client's training samples."""
        return self.train_order[int(self.train_offsets[client]) : int(self.train_offsets[client + 1])]

    def test(self, client: int) -> Tensor:
        """Indices int64 of the client's test samples, ascending; a small client may have none."""
        return self.test_order[int(self.test_offsets[client]) : int(self.test_offsets[client + 1])]

    def sizes(self) -> Tensor:
        """Training samples per client, int64 [C]: n_k."""
        return self.train_offsets.diff()

    def test_owner(self) -> Tensor:
        """The client of every test sample, int64 [N_test]."""
        owner = torch.empty_like(self.test_order)
        owner[self.test_order] = torch.arange(self.clients).repeat_interleave(self.test_offsets.diff())
        return owner


@dataclass(frozen=True)
class Partitioner(ABC):
    """Assigns samples to clients. Unless test samples have owners, they follow with the same proportions per class.

    `save` names a file to write the clients' samples to, for `partition=file`.
    """

    save: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.save is not None:
            check_name("save", self.save)

    @property
    def content(self) -> str:
        """Digest of what it reads besides the data; empty if it reads nothing."""
        return ""

    @abstractmethod
    def problems(self, facts: Facts) -> list[str]:
        """Why `facts.samples` training samples of `facts.owners` owners cannot go to `facts.clients` clients."""

    @abstractmethod
    def split(self, train: Owned, test: Owned, clients: int, classes: int, seed: int) -> Shares:
        """The clients' shares of samples whose labels are in 0..classes-1.

        Raises PartitionError when the samples, the clients and the settings do not fit.
        """


class Division(Partitioner):
    """A partition in which every sample belongs to exactly one client."""

    def problems(self, facts: Facts) -> list[str]:
        """Fewer than 1 client, more clients than samples, or invalid settings."""
        samples, clients = facts.samples, facts.clients
        if clients is not None and clients < 1:
            return [f"clients must be 1 or more, got {clients}"]
        if found := self._settings_problems():
            return found
        if samples is None or clients is None:
            return []
        if clients > samples:
            return [
                f"clients={clients} is more than the {samples} training samples; write clients={samples} or fewer, "
                "or partition=drawn, whose clients share samples"
            ]
        return self._share_problems(samples, clients)

    def _settings_problems(self) -> list[str]:
        """Settings out of range."""
        return []

    def _share_problems(self, samples: int, clients: int) -> list[str]:
        """Why `clients` clients cannot share `samples` samples; there are at least as many samples as clients."""
        return []

    def split(self, train: Owned, test: Owned, clients: int, classes: int, seed: int) -> Partition:
        """Assigns every sample to exactly one client."""
        if problems := self.problems(facts_of(train, clients)):
            raise PartitionError("\n".join(problems))
        labels, tested = checked_labels(train.labels, classes), checked_labels(test.labels, classes)
        owner, moved = self._assign(labels, clients, seed)
        test_owner = follow(tested, labels, owner, clients, classes, seed)
        return Partition(*grouped(owner, clients), *grouped(test_owner, clients), moved)

    @abstractmethod
    def _assign(self, labels: _Ints, clients: int, seed: int) -> tuple[_Ints, int]:
        """The client of every training sample, and how many samples were moved to reach a minimum size."""


@final
@dataclass(frozen=True)
class Iid(Division):
    """Random equal shares: sizes differ by at most one sample."""

    def _assign(self, labels: _Ints, clients: int, seed: int) -> tuple[_Ints, int]:
        owner = np.empty_like(labels)
        owner[_shuffle(seed).permutation(len(labels))] = np.arange(len(labels)) % clients
        return owner, 0


@final
@dataclass(frozen=True)
class Dirichlet(Division):
    """Every class is divided by proportions drawn from a symmetric Dirichlet(alpha) over the clients.

    While some client has fewer than `min_size` samples, the division is drawn again, at most `retries` times; then the
    draw that lacks the fewest samples is topped up from the largest clients.
    """

    alpha: float
    min_size: int
    retries: int

    def _settings_problems(self) -> list[str]:
        found = []
        if not 0 < self.alpha <= _ALPHA_MAX:
            found.append(
                f"partition.alpha must be above 0 and at most {_ALPHA_MAX:g}, got {self.alpha}; "
                "for equal shares write partition=iid"
            )
        if self.min_size < 1:
            found.append(f"partition.min_size must be 1 or more, got {self.min_size}")
        if self.retries < 0:
            found.append(f"partition.retries must be 0 or more, got {self.retries}")
        return found

    def _share_problems(self, samples: int, clients: int) -> list[str]:
        if clients * self.min_size <= samples:
            return []
        return [
            f"partition.min_size={self.min_size} for clients={clients} needs {clients * self.min_size} training "
            f"samples, there are {samples}; write clients={samples // self.min_size} or fewer, "
            f"or partition.min_size={samples // clients}"
        ]

    def _assign(self, labels: _Ints, clients: int, seed: int) -> tuple[_Ints, int]:
        per_class = np.bincount(labels)
        attempt = self._best_attempt(per_class, clients, seed)
        generator = _shuffle(seed)
        owner = np.empty_like(labels)
        for label, counts in enumerate(self._draw(per_class, clients, seed, attempt)):
            members = generator.permutation(np.flatnonzero(labels == label))
            owner[members] = np.repeat(np.arange(clients), counts)
        return _top_up(owner, clients, self.min_size, generator)

    def _best_attempt(self, per_class: _Ints, clients: int, seed: int) -> int:
        """The first draw in which no client lacks samples, else the one that lacks the fewest."""
        lacking: list[int] = []
        for attempt in range(self.retries + 1):
            sizes = np.zeros(clients, dtype=np.int64)
            for counts in self._draw(per_class, clients, seed, attempt):
                sizes += counts
            lacking.append(int(np.maximum(self.min_size - sizes, 0).sum()))
            if lacking[-1] == 0:
                break
        return lacking.index(min(lacking))

    def _draw(self, per_class: _Ints, clients: int, seed: int, attempt: int) -> Iterator[_Ints]:
        """For every class the samples of each client, int64 [C]; a draw is named, so it can be repeated instead of
        stored."""
        generator = np.random.default_rng(derive_seed(seed, "partition", attempt))
        for count in per_class:
            ends = np.cumsum(generator.dirichlet(np.full(clients, self.alpha)))
            cuts = np.rint(ends * (count / ends[-1])).astype(np.int64)
            yield np.diff(cuts, prepend=0)  # without the 0, the first client would lose its share


@final
@dataclass(frozen=True)
class Shards(Division):
    """The samples, sorted by class, are cut into equal shards; each client gets `per_client` random ones."""

    per_client: int

    def _settings_problems(self) -> list[str]:
        return [] if self.per_client >= 1 else [f"partition.per_client must be 1 or more, got {self.per_client}"]

    def _share_problems(self, samples: int, clients: int) -> list[str]:
        if self.per_client * clients <= samples:
            return []
        return [
            f"partition.per_client={self.per_client} for clients={clients} needs {self.per_client * clients} "
            f"training samples, there are {samples}; write clients={samples // self.per_client} or fewer, "
            f"or partition.per_client={samples // clients}"
        ]

    def _assign(self, labels: _Ints, clients: int, seed: int) -> tuple[_Ints, int]:
        generator = _shuffle(seed)
        shards = clients * self.per_client
        mixed = generator.permutation(len(labels))
        by_class = mixed[np.argsort(labels[mixed], kind="stable")]
        shard = np.arange(len(labels)) * shards // len(labels)
        owner = np.empty_like(labels)
        owner[by_class] = (generator.permutation(shards) % clients)[shard]
        return owner, 0


def check_name(key: str, name: str) -> None:
    """PartitionError unless the file's name says which kind it is."""
    if not name.lower().endswith((".csv", ".npz")):
        raise PartitionError(f"Expected `partition.{key}` to end in .csv or .npz, but got {name}")


def _shuffle(seed: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "partition_shuffle"))


def checked_labels(labels: Tensor, classes: int) -> _Ints:
    """Labels int64 [N] as an array. PartitionError if one is not in 0..classes-1."""
    array: _Ints = labels.numpy()
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < classes:
        raise PartitionError(f"labels must be 0..{classes - 1}, got {array.min()}..{array.max()}")
    return array


def grouped(owner: _Ints, clients: int) -> tuple[Tensor, Tensor]:
    """The samples ordered by client, and the offset of each client: int64 [N], [C + 1]."""
    offsets = np.zeros(clients + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=clients), out=offsets[1:])
    return torch.from_numpy(np.argsort(owner, kind="stable")), torch.from_numpy(offsets)


def follow(test: _Ints, train: _Ints, owner: _Ints, clients: int, classes: int, seed: int) -> _Ints:
    """The client of every test sample: for each class, clients get the same share as of its training samples.

    `test` and `train` are labels, `owner` is the client of each training sample.
    """
    generator = np.random.default_rng(derive_seed(seed, "partition_test"))
    result = np.empty_like(test)
    for label in range(classes):
        samples = generator.permutation(np.flatnonzero(test == label))
        if not samples.size:
            continue
        holders, held = np.unique(owner[train == label], return_counts=True)
        if not holders.size:
            holders, held = np.arange(clients), np.ones(clients, dtype=np.int64)
        result[samples] = np.repeat(holders, _apportion(samples.size, held, generator))
    return result


def _apportion(total: int, weights: _Ints, generator: np.random.Generator) -> _Ints:
    """Splits `total` into integers in proportion to the weights, by largest remainder; ties are drawn by lot.

    By lot and not by index, since otherwise the first clients would get the spare test sample of every class.
    """
    shares, remainders = np.divmod(weights * total, weights.sum())
    spare = total - int(shares.sum())
    winners = np.lexsort((generator.random(len(weights)), -remainders))[:spare]
    shares[winners] += 1
    return shares


def _top_up(owner: _Ints, clients: int, min_size: int, generator: np.random.Generator) -> tuple[_Ints, int]:
    """Moves random samples from the largest clients to those below `min_size`; also returns how many were moved."""
    sizes = np.bincount(owner, minlength=clients)
    lacking = np.maximum(min_size - sizes, 0)
    moved = int(lacking.sum())
    if moved == 0:
        return owner, 0
    given = _levelled(sizes, moved)
    mixed = generator.permutation(len(owner))
    order = mixed[np.argsort(owner[mixed], kind="stable")]
    place = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner[order]]  # of each sample within its client
    leaving = order[place < given[owner[order]]]
    result = owner.copy()
    result[leaving] = np.repeat(np.arange(clients), lacking)
    return result, moved


def _levelled(sizes: _Ints, amount: int) -> _Ints:
    """How many samples each client gives if `amount` are taken one by one from the largest client: int64 [C]."""
    low, high = 0, int(sizes.max())
    while high - low > 1:  # the highest level down to which the largest must be cut
        level = (low + high) // 2
        enough = int(np.maximum(sizes - level, 0).sum()) >= amount
        low, high = (level, high) if enough else (low, level)
    given = np.maximum(sizes - low, 0)
    excess = int(given.sum()) - amount
    given[np.flatnonzero(given)[:excess]] -= 1
    return given
