"""Shared code of image sources: the shape they declare, and how two read splits become a dataset."""

# Annotations are left unquoted: the check of a configuration reads them off the constructors of other modules.

import logging
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import torch

from pffdst.data.cache import SampleCache
from pffdst.data.columns import Column, owners_of, shared_labels
from pffdst.data.dataset import DataError, Dataset, DataSource, channel_statistics, image_dataset, shape_of
from pffdst.data.samples import ImageSet, Samples
from pffdst.data.sources.decode import Form, resized

__all__ = ["ImageSource", "Split", "assembled", "class_problems", "folder_of", "kept_split"]

_log = logging.getLogger(__name__)
S = TypeVar("S", bound=Samples)


@final
@dataclass(frozen=True, eq=False)
class Split(Generic[S]):
    """Samples as read. `labels` and `owners` of `samples` are the codes of the columns of the same names.

    `remarks` are what a user should know about the data read, `further` is what else is cached with the samples.
    """

    samples: S
    labels: Column
    owners: Column | None = None
    remarks: tuple[str, ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def noted(cls, samples: S, notes: Mapping[str, Any]) -> "Split[S]":
        """From samples and the result of `notes`."""
        labels = Column(samples.labels, *_restored(notes["labels"]))
        owners = None if samples.owners is None else Column(samples.owners, *_restored(notes["owners"]))
        return cls(samples, labels, owners, tuple(notes["remarks"]), notes.get("further", {}))

    def notes(self) -> dict[str, Any]:
        """Everything but the samples, in JSON form."""
        columns = {"labels": self.labels} | ({} if self.owners is None else {"owners": self.owners})
        further = {"further": dict(self.further)} if self.further else {}
        told = {name: [c.kind, list(c.names)] for name, c in columns.items()}
        return told | {"remarks": list(self.remarks)} | further


def _restored(note: Sequence[Any]) -> tuple[Any, tuple[str, ...]]:
    return note[0], tuple(note[1])


def kept_split(cache: SampleCache, key: str, kind: type[S], read: Callable[[], Split[S] | None]) -> "Split[S] | None":
    """The split of a key, from the cache if it is there, otherwise from `read`, which may return None."""
    found = cache.load(key, kind)
    if found is not None:
        return Split.noted(*found)
    fresh = read()
    if fresh is None:
        return None
    notes = fresh.notes()
    return Split.noted(cache.store(key, fresh.samples, notes), notes)


def folder_of(path: str) -> Path:
    """The path of a folder named in the configuration."""
    return Path(path).expanduser().absolute()


@dataclass(frozen=True)
class ImageSource(DataSource, ABC):
    """A source of images, with what the configuration declares about them; None values are read from the images.

    `channels` 1 or 3; `size` is the side of the stored images, `classes` the number of classes; `mean` and `std` are
    per channel, in units of pixel / 255. `crop` cuts the largest central square out of each image, then `resize`
    brings it to that many pixels per side.
    """

    name: str
    channels: int | None
    size: int | None
    classes: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    resize: int | None = field(default=None, kw_only=True)
    crop: bool = field(default=False, kw_only=True)

    @property
    def form(self) -> Form:
        """The form to which every image is converted when decoded."""
        return Form(self.channels, self.resize, self.crop)

    def shape_problems(self) -> list[str]:
        """Declared values that no dataset could have."""
        found = []
        if self.channels not in (None, 1, 3):
            found.append(f"dataset.channels must be 1, 3 or null, got {self.channels}")
        for key, value in (("size", self.size), ("resize", self.resize)):
            if value is not None and value < 1:
                found.append(f"dataset.{key} must be 1 or more, or null, got {value}")
        return [*found, *class_problems(self.classes)]

    def assembled(self, train: Split[ImageSet], test: Split[ImageSet] | None) -> Dataset:
        """The dataset of two splits, with labels and owners numbered alike in both; logs the remarks."""
        first, second, names = assembled(self.name, self.classes, train, test)
        return self.dataset(first, second, names)

    def dataset(self, train: ImageSet, test: ImageSet, class_names: tuple[str, ...] | None = None) -> Dataset:
        """The dataset of these two sets; DataError if they differ from what is declared.

        Without names, the classes are named by their numbers.
        """
        self._check_shape(train)
        if self.resize is not None:
            train, test = (_at_side(part, self.resize) for part in (train, test))
        if class_names is None:
            class_names = tuple(map(str, range(self._count(train, test))))
        mean, std = self._statistics(train)
        return image_dataset(self.name, train, test, class_names, mean, std)

    def _check_shape(self, train: ImageSet) -> None:
        size = None if self.resize is not None else self.size
        for key, said, real in (
            ("channels", self.channels, train.images.shape[1]),
            ("size", size, train.images.shape[2]),
        ):
            if said is not None and said != real:
                raise DataError(
                    f"dataset {self.name}: dataset.{key}={said}, but the images' shape is {shape_of(train)}; "
                    f"write dataset.{key}={real}"
                )

    def _count(self, train: ImageSet, test: ImageSet) -> int:
        if self.classes is not None:
            return self.classes
        return max(int(part.labels.max()) + 1 if len(part) else 0 for part in (train, test))

    def _statistics(self, train: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.mean is not None and self.std is not None:
            return tuple(self.mean), tuple(self.std)
        mean, std = channel_statistics(train.images)
        return (mean if self.mean is None else tuple(self.mean)), (std if self.std is None else tuple(self.std))


def class_problems(classes: int | None) -> list[str]:
    """A declared number of classes that no dataset could have."""
    return [f"dataset.classes must be 2 or more, or null, got {classes}"] if classes is not None and classes < 2 else []


def assembled(name: str, classes: int | None, train: Split[S], test: Split[S] | None) -> tuple[S, S, tuple[str, ...]]:
    """Training and test samples, numbered alike, and the class names; logs the remarks."""
    nothing = torch.empty(0, dtype=torch.int64)
    tested = Split(train.samples.take(nothing), Column(nothing)) if test is None else test
    for split, part in (("train", train), ("test", tested)):
        for remark in part.remarks:
            _log.info("dataset %s, %s split: %s", name, split, remark)
    first, second, names = shared_labels(
        name, train.labels, tested.labels, classes, lambda line: _log.info("dataset %s: %s", name, line)
    )
    owners = owners_of(name, train.owners, tested.owners)
    return (
        train.samples.numbered(first, owners[0]),
        tested.samples.numbered(second, owners[1]),
        names,
    )


def _at_side(samples: ImageSet, side: int) -> ImageSet:
    if tuple(samples.images.shape[2:]) == (side, side):
        return samples
    return ImageSet(resized(samples.images, side), samples.labels, samples.owners)
