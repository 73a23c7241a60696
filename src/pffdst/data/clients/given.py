"""Clients named by the data or by a file: your own patients, writers or devices, or a partition made elsewhere.

A file of clients is a table with the columns `split` (train or test; without it all rows are train), `index` (of a
sample, in the order in which the data are read) and `client` (a number or a word), as .csv or as .npz with an array
for each column. Clients are numbered in the order of their names: numbers by value, words by their characters.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.data.clients.divided import (
    Partition,
    Partitioner,
    PartitionError,
    Shares,
    check_name,
    checked_labels,
    follow,
    grouped,
)
from pffdst.data.clients.owned import Owned, Part, facts_of
from pffdst.data.columns import ranked
from pffdst.data.csv_table import columns_of, content_of, file_of
from pffdst.runs.files import write_whole

__all__ = ["ByColumn", "FromFile", "write_clients"]

_Ints = NDArray[np.int64]
_SPLITS = ("train", "test")
# Files that are not tables make the readers raise almost anything.
_UNREADABLE = (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)


@final
@dataclass(frozen=True)
class ByColumn(Partitioner):
    """Natural clients: the values of a training data column, which the source reads as the samples' owners.

    Test samples belong to their owners too; without owners they follow the clients' classes.
    """

    column: str

    def problems(self, facts: Facts) -> list[str]:
        """Samples without owners, or a number of clients other than the data's."""
        if facts.owners == 0:
            return [
                f"partition.column={self.column}: these data have no column that names their clients; store them for "
                "dataset=parquet, or write partition=file partition.path=FILE"
            ]
        return [] if facts.owners is None else _another_number("the data name", facts.owners, facts.clients)

    def split(self, train: Owned, test: Owned, clients: int, classes: int, seed: int) -> Partition:
        """Assigns every sample to its owner."""
        if problems := self.problems(facts_of(train, clients)):
            raise PartitionError("\n".join(problems))
        assert train.owners is not None
        owner = train.owners.numpy()
        if test.owners is None:
            labels, tested = (checked_labels(part.labels, classes) for part in (train, test))
            whose = follow(tested, labels, owner, clients, classes, seed)
        else:
            whose = test.owners.numpy()
        return Partition(*grouped(owner, clients), *grouped(whose, clients))


@final
@dataclass(frozen=True)
class FromFile(Partitioner):
    """Clients whose samples a file lists; training samples not in the file belong to no client.

    Either all test samples are listed, or none are and they follow the clients' classes. The file's numbers are those
    of the whole splits: samples that a validation share holds out are listed as training samples.
    """

    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("path", self.path)
        if not self.file.is_file():
            raise PartitionError(f"Expected `partition.path` to name a file, but there is no {self.file}")

    @property
    def file(self) -> Path:
        """The file, absolute."""
        return file_of(self.path)

    @property
    def content(self) -> str:
        """32 hexadecimal digits of the file's bytes."""
        return content_of(self.file)

    def problems(self, facts: Facts) -> list[str]:
        """A file that cannot be read, or that has a different number of clients."""
        try:
            return _another_number(f"{self.file} names", len(_Lists.read(self.file).names), facts.clients)
        except PartitionError as error:
            return [str(error)]

    def split(self, train: Owned, test: Owned, clients: int, classes: int, seed: int) -> Partition:
        """The lists from the file, in its order for each client."""
        if problems := self.problems(facts_of(train, clients)):
            raise PartitionError("\n".join(problems))
        lists = _Lists.read(self.file)
        if isinstance(train, Part) and isinstance(test, Part):
            return lists.but_for_held_out(train, test, classes, seed)
        labels, tested = (checked_labels(part.labels, classes) for part in (train, test))
        order, offsets = lists.of("train", len(labels))
        if not lists.any_tests:
            owner = np.repeat(np.arange(clients), np.diff(offsets))
            whose = follow(tested, labels[order], owner, clients, classes, seed)
        else:
            whose = lists.owner_of_tests(len(tested))
        return Partition(torch.from_numpy(order), torch.from_numpy(offsets), *grouped(whose, clients))


def write_clients(shares: Shares, path: Path, rows: tuple[Tensor, Tensor] | None = None) -> None:
    """Writes every client's samples; a file that already contains them is left unchanged.

    `rows` are the numbers of training and held out samples in the whole training split, if it was divided.
    PartitionError if the file contains anything else or cannot be written.
    """
    index = [shares.train(client).numpy() for client in range(shares.clients)]
    tests = shares.test_owner().numpy()
    trained, held = np.concatenate(index), np.arange(len(tests))
    if rows is not None:
        trained, held = rows[0].numpy()[trained], rows[1].numpy()
    columns = {
        "split": np.repeat(np.array(_SPLITS if rows is None else ["train"] * 2), [len(trained), len(tests)]),
        "index": np.concatenate([trained, held]),
        "client": np.concatenate([np.repeat(np.arange(shares.clients), [len(part) for part in index]), tests]),
    }
    content = _npz(columns) if path.suffix.lower() == ".npz" else _csv(columns)
    try:
        if path.exists():
            if path.read_bytes() == content:
                return
            raise PartitionError(f"partition.save: {path} has different contents; remove it, or name another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise PartitionError(f"partition.save: {path} cannot be written ({error.strerror or error})") from error


@final
@dataclass(frozen=True, eq=False)
class _Lists:
    """A file's table: for every row, whether it is in the test split, the sample and the client's number."""

    path: Path
    testing: NDArray[np.bool_]
    index: _Ints
    client: _Ints
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _Lists:
        """PartitionError if the file is not such a table, or a client has no training sample."""
        try:
            columns = _from_npz(path) if path.suffix.lower() == ".npz" else _from_csv(path)
            split, index, client = columns["split"], columns["index"].astype(np.int64), columns["client"]
        except _UNREADABLE as error:
            raise PartitionError(
                f"partition.path: {path} cannot be read ({error}); it needs the columns index and client, and split "
                "(train or test) if it lists test samples"
            ) from error
        if strange := sorted(set(np.unique(split).tolist()) - set(_SPLITS)):
            raise PartitionError(f"partition.path: {path} has an unknown split {strange[0]!r}; write train or test")
        names, numbers = _numbered(client)
        found = cls(path, split == "test", index, numbers, names)
        if untrained := set(range(len(names))) - set(numbers[~found.testing].tolist()):
            raise PartitionError(f"partition.path: in {path} client {names[min(untrained)]} has no training sample")
        return found

    @property
    def any_tests(self) -> bool:
        """Whether test samples are listed."""
        return bool(self.testing.any())

    def of(self, split: str, count: int) -> tuple[_Ints, _Ints]:
        """The samples of a split by client, and the offset of each client: int64 [n], [C + 1]."""
        mine = self.testing if split == "test" else ~self.testing
        index, client = self.index[mine], self.client[mine]
        wrong = (index < 0) | (index >= count)
        if wrong.any():
            raise PartitionError(
                f"partition.path: {self.path} lists {split} sample {index[wrong][0]}, but there are {count:,}, "
                "numbered from 0; does the file belong to other data?"
            )
        offsets = np.zeros(len(self.names) + 1, dtype=np.int64)
        np.cumsum(np.bincount(client, minlength=len(self.names)), out=offsets[1:])
        return index[np.argsort(client, kind="stable")], offsets

    def but_for_held_out(self, train: Part, test: Part, classes: int, seed: int) -> Partition:
        """The training samples of every client that are not held out, and the clients of those that are.

        If one of these belongs to none or several, all follow the clients' classes. PartitionError if a client has
        nothing left.
        """
        clients = len(self.names)
        order, offsets = self.of("train", train.whole)
        owner = np.repeat(np.arange(clients), np.diff(offsets))
        place = np.full(train.whole, -1)
        place[train.rows] = np.arange(len(train.rows))
        kept = place[order] >= 0
        sizes = np.bincount(owner[kept], minlength=clients)
        if not sizes.all():
            name = self.names[int(sizes.argmin())]
            raise PartitionError(
                f"partition.path: in {self.path} client {name} has no training sample that is not held out; write a "
                "smaller validation_share, or leave the client out"
            )
        place[test.rows] = np.arange(len(test.rows))
        mine = place[order[kept]]
        held, whose = place[order[~kept]], owner[~kept]
        if (np.bincount(held, minlength=len(test.rows)) == 1).all():
            tested = np.empty(len(test.rows), dtype=np.int64)
            tested[held] = whose
        else:
            labels, sought = (checked_labels(part.labels, classes) for part in (train, test))
            tested = follow(sought, labels[mine], owner[kept], clients, classes, seed)
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
        return Partition(torch.from_numpy(mine), ends, *grouped(tested, clients))

    def owner_of_tests(self, count: int) -> _Ints:
        """The client of every test sample, int64 [N_test]. PartitionError if one has none or several."""
        order, offsets = self.of("test", count)
        times = np.bincount(order, minlength=count)
        if (times != 1).any():
            sample = int(np.flatnonzero(times != 1)[0])
            raise PartitionError(
                f"partition.path: {self.path} lists test sample {sample} {times[sample]} times; each must belong to "
                "one client. Leave out all test rows to divide them by the clients' classes"
            )
        owner = np.empty(count, dtype=np.int64)
        owner[order] = np.repeat(np.arange(len(self.names)), np.diff(offsets))
        return owner


def _another_number(source: str, there: int, clients: int | None) -> list[str]:
    return (
        []
        if clients is None or there == clients
        else [f"clients={clients}, but {source} {there} clients; write clients={there}"]
    )


def _numbered(client: NDArray[np.generic]) -> tuple[tuple[str, ...], _Ints]:
    """The clients' names in order, and each row's client number."""
    words, codes = np.unique(client.astype(str), return_inverse=True)
    names = ranked(words.tolist())
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([place[word] for word in words.tolist()], dtype=np.int64)[codes.reshape(-1)]


def _csv(columns: dict[str, NDArray[np.generic]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return text.getvalue().encode("utf-8")


def _npz(columns: dict[str, NDArray[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict[str, Any](columns))
    return file.getvalue()


def _from_csv(path: Path) -> dict[str, NDArray[np.generic]]:
    return _with_split(dict(columns_of(path)))


def _from_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return _with_split({name: file[name] for name in file.files})


def _with_split(columns: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    if len({len(columns[name]) for name in ("index", "client")}) != 1:
        raise ValueError("index and client differ in length")
    if columns["index"].dtype.kind not in "iuU":
        raise ValueError(f"index contains {columns['index'].dtype}, not whole numbers")
    return {"split": np.full(len(columns["index"]), "train")} | columns
