"""A dataset whose training images are on the clients: only their counts, by client and class, and a test set are here.

The counts are a table (CSV) with the columns `client` (0, 1, ...), `class` (its name) and `samples`, written by hand or
by `pffdst deploy survey`. Empty placeholders replace the training images; they are never read.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.data.columns import ranked
from pffdst.data.dataset import DataError, Dataset, DataSource, image_dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import folder_of
from pffdst.data.sources.decode import Form
from pffdst.data.sources.folder import FolderSource
from pffdst.data.sources.vision import ParquetSource

__all__ = ["COLUMNS", "CountedSource", "images_of", "write_counts"]

COLUMNS = ("client", "class", "samples")
_MOST = 2**31  # samples of all clients together


@final
@dataclass(frozen=True)
class CountedSource(DataSource):
    """The test images are in `path`: a parquet file, a folder of them, or a folder of class folders.

    `counts` names the table. `mean` and `std` are those of the clients' images, per channel, in units of pixel / 255.
    `resize` and `crop` also apply to the clients' images.
    """

    elsewhere: ClassVar[bool] = True
    name: str
    path: str
    counts: str
    mean: Sequence[float] | None
    std: Sequence[float] | None
    cache: str
    channels: int | None = None
    resize: int | None = field(default=None, kw_only=True)
    crop: bool = field(default=False, kw_only=True)

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Missing files, missing statistics, or a different number of clients."""
        found = []
        if not folder_of(self.path).exists():
            found.append(f"dataset.path must name the test images, but there is no {folder_of(self.path)}")
        found += [
            f"dataset.{key} must describe the clients' images, which are not here: write dataset.{key}=[...] as "
            "printed by `pffdst deploy survey`"
            for key, value in (("mean", self.mean), ("std", self.std))
            if value is None
        ]
        try:
            clients = len(_Counts.read(folder_of(self.counts)).clients)
        except DataError as error:
            return [*found, str(error)]
        if facts.clients is not None and facts.clients != clients:
            found.append(f"{folder_of(self.counts)} has {clients} clients: write clients={clients}")
        return found

    def load(self, seed: int) -> Dataset:
        """The test images, and empty training images with the clients' classes."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        form = Form(self.channels, self.resize, self.crop)
        tested = images_of(folder_of(self.path), Path(self.cache), form, self.mean, self.std, self.name)
        counts = _Counts.read(folder_of(self.counts))
        names = tuple(ranked({*counts.classes, *tested.class_names}))
        assert isinstance(tested.train, ImageSet)
        assert self.mean is not None
        assert self.std is not None
        place = torch.tensor([names.index(name) for name in tested.class_names])
        test = ImageSet(tested.train.images, place[tested.train.labels])
        train = counts.stand_in(names, tuple(test.images.shape[1:]))
        return image_dataset(self.name, train, test, names, tuple(self.mean), tuple(self.std))


def images_of(
    place: Path,
    cache: Path,
    form: Form,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "own",
) -> Dataset:
    """All images of a parquet file, of a folder of them, or of a folder of class folders, as a training set.

    DataError if they cannot be read or do not have this form.
    """
    flat = not place.is_dir() or any(place.glob("*.parquet"))
    folder, pattern = (place, "*.parquet") if place.is_dir() else (place.parent, place.name)
    given: dict[str, Any] = {"name": name, "size": None, "classes": None, "mean": mean, "std": std, "path": str(folder)}
    given |= {"cache": str(cache), "channels": form.channels, "resize": form.resize, "crop": form.crop}
    if not flat:
        return FolderSource(train="train", test=None, **given).load(0)
    columns = {"train": pattern, "test": None, "image": None, "label": None, "owner": None}
    return ParquetSource(parquet=columns, **given).load(0)


def write_counts(path: Path, counts: Sequence[Mapping[str, int]]) -> None:
    """Writes the table of the clients' samples by class name."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for client, own in enumerate(counts):
            writer.writerows((client, name, own[name]) for name in ranked(own))


@final
@dataclass(frozen=True)
class _Counts:
    """The samples of every client by class name."""

    clients: tuple[dict[str, int], ...]

    @classmethod
    def read(cls, path: Path) -> _Counts:
        """DataError if the table is missing or has no samples for a client."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"dataset.counts must name a table with the columns {', '.join(COLUMNS)} (`pffdst deploy survey` makes "
                f"one), but {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
        found: dict[int, dict[str, int]] = {}
        for number, row in enumerate(rows, start=2):
            client, name, samples = cls._row(path, number, row)
            own = found.setdefault(client, {})
            if name in own:
                raise DataError(f"{path}, line {number}: client {client} and class {name} are already listed")
            own[name] = samples
        for client in range(len(found)):
            if sum(found.get(client, {}).values()) == 0:
                raise DataError(f"{path}: client {client} has no samples; number the clients from 0, without gaps")
        if not found or sum(sum(own.values()) for own in found.values()) > _MOST:
            raise DataError(f"{path}: expected clients with at most {_MOST:,} samples, but got {len(found)} clients")
        return cls(tuple(found[client] for client in range(len(found))))

    @staticmethod
    def _row(path: Path, number: int, row: dict[str, str | None]) -> tuple[int, str, int]:
        client, name, samples = (str(row.get(key) or "").strip() for key in COLUMNS)
        if not (client.isdecimal() and samples.isdecimal() and name and len(client + samples) < 20):
            raise DataError(f"{path}, line {number}: expected {','.join(COLUMNS)}, such as 0,cat,12")
        return int(client), name, int(samples)

    @property
    def classes(self) -> set[str]:
        """All names."""
        return {name for own in self.clients for name in own}

    def stand_in(self, names: tuple[str, ...], shape: tuple[int, ...]) -> ImageSet:
        """Empty images with these classes and owners; their memory is never touched."""
        cells = [(k, names.index(name), own[name]) for k, own in enumerate(self.clients) for name in ranked(own)]
        owners, labels, counts = (torch.tensor(column) for column in zip(*cells, strict=True))
        labels, owners = (column.repeat_interleave(counts) for column in (labels, owners))
        empty = torch.from_numpy(np.zeros((len(labels), *shape), np.uint8))  # numpy leaves the memory untouched
        return ImageSet(empty, labels, owners, image_digest="elsewhere")
