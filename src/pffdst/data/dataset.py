"""The dataset as the rest of the framework sees it: two sets of samples in memory, and how to load them."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.inputs import ImageInputs, Inputs
from pffdst.core.seeding import generator_for
from pffdst.data.clients.owned import Owned, Part
from pffdst.data.samples import ImageSet, Samples

__all__ = ["DataError", "DataSource", "Dataset", "channel_statistics", "image_dataset", "shape_of"]

_CHUNK = 2048  # images per step of the statistics: bounds the memory of the widened values


class DataError(UserError):
    """Data that are missing, damaged or not as configured."""


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of samples of one kind, with labels 0..classes-1; the test set may be empty.

    `class_names` has the name of every class in label order; `inputs` is the kind of samples. `rows`, if the test set
    is held out, are the numbers of both sets' samples in the whole training split. Raises DataError if the parts do not
    match.
    """

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    inputs: Inputs
    rows: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        for split, samples in (("training", self.train), ("test", self.test)):
            _check_labels(f"dataset {self.name}, {split} set", samples.labels, self.classes)
        if len(self.train) == 0:
            raise DataError(f"dataset {self.name}, training set: it contains no {self.inputs.noun}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @functools.cached_property
    def content(self) -> str:
        """32 hexadecimal digits of both sets and the class names: different digits mean different data."""
        parts = (self.train.digest, self.test.digest, self.class_names)
        return hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=16).hexdigest()

    @property
    def described(self) -> dict[str, str]:
        """Both sets and the classes as text, with digests of their contents."""
        sets = {"training set": self.train, "test set": self.test}
        shape, noun = "x".join(map(str, self.inputs.shape)), self.inputs.noun
        found = {name: f"{len(s):,} {noun} of {shape}, content {s.digest[:12]}" for name, s in sets.items()}
        return found | {"classes": f"{self.classes}: {', '.join(self.class_names)}"}

    @property
    def divisible(self) -> tuple[Owned, Owned]:
        """Both sets as a partition divides them."""
        if self.rows is None:
            return self.train, self.test
        (first, second), whole = self.rows, len(self.train) + len(self.test)
        train, test = self.train, self.test
        return Part(train.labels, train.owners, first, whole), Part(test.labels, test.owners, second, whole)

    def problems(self) -> list[str]:
        """Why there is nothing to learn: one class, as where a folder lies one level deeper than it should."""
        if self.classes > 1:
            return []
        return [
            f"dataset {self.name}: all samples have the label {self.class_names[0]}, but there must be two or more: "
            "check dataset.path and the column of the labels"
        ]

    def with_validation(self, share: float, seed: int) -> Dataset:
        """The same data with a share of the training set as the test set; unchanged for a share of 0.

        If the data name owners, it is a share of every client's samples (each client keeps at least one), otherwise of
        every class. So choices based on the accuracies of such a run do not use the test set. DataError if a set would
        be empty.
        """
        if share == 0 and len(self.test) == 0:
            raise DataError(
                f"dataset {self.name}: the test split is empty; add {self.inputs.noun} to it, or write "
                "validation_share=0.2 to hold out part of the training set instead"
            )
        if share == 0:
            return self
        held = _held_out(self.train, share, seed)
        if not 0 < int(held.sum()) < len(held):
            raise DataError(
                f"validation_share={share}: it leaves a set without {self.inputs.noun} (of {len(held):,}); "
                "write e.g. validation_share=0.2"
            )
        rows = (~held).nonzero().flatten(), held.nonzero().flatten()
        train, test = (self.train.take(part) for part in rows)
        return replace(self, train=train, test=test, rows=rows)

    def numbered_as(self, names: Sequence[str]) -> Dataset:
        """The same data with its classes numbered as in `names`, which has them all. DataError if it has not."""
        if strange := [name for name in self.class_names if name not in names]:
            raise DataError(f"dataset {self.name}: its classes {', '.join(strange)} are not among {', '.join(names)}")
        place = torch.tensor([names.index(name) for name in self.class_names])
        train, test = (part.numbered(place[part.labels], part.owners) for part in (self.train, self.test))
        return replace(self, train=train, test=test, class_names=tuple(names))

    def describe(self) -> str:
        """One line for the console."""
        counts = f"{len(self.train):,} + {len(self.test):,} {self.inputs.noun}"
        shape = "x".join(map(str, self.inputs.shape))
        return f"{self.name}: {counts} of {shape}, {self.classes} classes"


def image_dataset(
    name: str,
    train: ImageSet,
    test: ImageSet,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Dataset:
    """The data set of two sets of square images; `mean` and `std` are per channel, in units of pixel / 255.

    DataError if they do not match.
    """
    for split, images in (("training", train), ("test", test)):
        _check_images(f"dataset {name}, {split} set", images, train)
    _, channels, height, width = train.images.shape
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise DataError(
                f"dataset.{key} needs one number per channel ({channels}), got {list(values)}; "
                f"write dataset.{key}=null to compute it from the training images"
            )
    if not all(0 < s < float("inf") for s in std):
        raise DataError(f"dataset.std needs numbers above 0, got {list(std)}; write dataset.std=[...]")
    return Dataset(name, train, test, class_names, ImageInputs((channels, height, width), tuple(mean), tuple(std)))


class DataSource(ABC):
    """Where a dataset comes from. `gives` are the model arguments that its data provide, besides `classes`.

    `elsewhere`: the training samples are on the clients, with empty placeholders here.
    """

    elsewhere: ClassVar[bool] = False
    gives: ClassVar[tuple[str, ...]] = ("channels", "size")

    @abstractmethod
    def load(self, seed: int) -> Dataset:
        """The dataset; DataError with what to write, or which files to provide, if it cannot be loaded."""

    def load_for(self, seed: int, inputs: Inputs) -> Dataset:
        """The dataset as a finished model for `inputs` takes it; the same as a run's, if samples have only one form."""
        return self.load(seed)

    @abstractmethod
    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Problems of settings, files and folders that a quick look shows: no decoding, no download."""

    def test_problems(self) -> list[str]:
        """Why there is no test split, as far as a quick look shows; not asked if a validation share replaces it."""
        return []


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of uint8 [N, C, H, W], in units of pixel / 255.

    From counts of the 256 values: exact for any number of images. DataError if there are none.
    """
    if images.numel() == 0:
        raise DataError("the training set contains no images, so it has no mean or standard deviation")
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for chunk in torch.split(images, _CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].numpy().ravel(), minlength=256)
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(std.tolist())


def shape_of(images: ImageSet) -> str:
    """CxHxW of the images."""
    return "x".join(str(n) for n in images.images.shape[1:])


def _check_images(where: str, images: ImageSet, train: ImageSet) -> None:
    if images.images.shape[2] != images.images.shape[3]:
        raise DataError(
            f"{where}: images must be square, got {shape_of(images)}; write dataset.crop=true to cut out the "
            "central square, or dataset.resize=32 to stretch them to 32x32"
        )
    if images.images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"{where}: its images are {shape_of(images)}, the training images {shape_of(train)}; write e.g. "
            f"dataset.resize={train.images.shape[2]}"
        )


def _check_labels(where: str, labels: Tensor, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        value = int(labels[row])
        advice = f"write dataset.classes={int(labels.max()) + 1} or more"
        if value < 0:
            advice = "-1 means a hidden label: leave out those rows or the split, or number the classes from 0"
        raise DataError(f"{where}: labels must be 0..{classes - 1}, got {value} in row {row}; {advice}")


def _held_out(train: Samples, share: float, seed: int) -> Tensor:
    """True for a random share of every group's samples, bool [N]; groups are owners if there are any, else classes."""
    groups = train.labels if train.owners is None else train.owners
    held = torch.zeros(len(train), dtype=torch.bool)
    members = torch.split(groups.argsort(stable=True), groups.bincount().tolist())
    for group, rows in enumerate(members):
        order = torch.randperm(len(rows), generator=generator_for(seed, "validation", group))
        count = round(share * len(rows))
        held[rows[order[: count if train.owners is None else min(count, max(len(rows) - 1, 0))]]] = True
    return held
