"""What a dataset is to the rest of the framework: two sets of uint8 images in memory, and how to get them."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.seeding import generator_for
from pffdst.data.npy import map_tensor

__all__ = ["DataError", "DataSource", "Dataset", "Declared", "ImageSet", "channel_statistics"]

_CHUNK = 2048  # images per step of the statistics: bounds the memory of the widened values


class DataError(UserError):
    """Data that are missing, damaged or not what the configuration says."""


@final
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 [N, C, H, W] (contiguous) and their labels int64 [N].

    `files` names the .npy files (images, labels) that the tensors are mapped from, None when they are in memory alone;
    `mapping` is that of the images.
    """

    images: Tensor
    labels: Tensor
    files: tuple[Path, Path] | None = field(default=None, repr=False)
    mapping: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def mapped(cls, images: Path, labels: Path) -> ImageSet:
        """The set of two .npy files. Raises OSError or ValueError when one is missing or damaged."""
        tensor, mapping = map_tensor(images)
        return cls(tensor, map_tensor(labels)[0], (images, labels), mapping)

    def forget_pages(self) -> None:
        """Takes mapped images out of this process's memory until the next access; the system's cache keeps them."""
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.is_contiguous():
            given = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"Expected `images` to be contiguous uint8 [N, C, H, W], but got {given}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            given = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"Expected `labels` to be int64 [{len(self.images)}], but got {given}")

    def __len__(self) -> int:
        return len(self.labels)


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of square images with labels 0..classes-1.

    `mean` and `std` are per channel, in units of pixel / 255. Raises DataError when the parts do not fit together.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for split, images in (("training", self.train), ("test", self.test)):
            _check_images(f"dataset {self.name}, {split} set", images, self.train)
            _check_labels(f"dataset {self.name}, {split} set", images.labels, self.classes)
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise DataError(
                    f"dataset.{key} needs one number per channel ({self.channels}), got {list(values)}; "
                    f"write dataset.{key}=null to read it off the training images"
                )
        if not all(0 < s < float("inf") for s in self.std):
            raise DataError(f"dataset.std needs numbers above 0, got {list(self.std)}; write dataset.std=[...]")

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.images.shape[2]

    def with_validation(self, share: float, seed: int) -> Dataset:
        """The same without its test set: in its place stands a share of every class of the training set.

        Whatever is chosen by the accuracies of such a run has seen nothing of the test set. DataError when a set would
        be empty.
        """
        held = torch.zeros(len(self.train), dtype=torch.bool)
        for label in range(self.classes):
            rows = (self.train.labels == label).nonzero().flatten()
            order = torch.randperm(len(rows), generator=generator_for(seed, "validation", label))
            held[rows[order[: round(share * len(rows))]]] = True
        if not 0 < int(held.sum()) < len(held):
            raise DataError(
                f"validation_share={share}: it leaves a set without images (of {len(held):,}); "
                "write e.g. validation_share=0.2"
            )
        train, test = (ImageSet(self.train.images[m], self.train.labels[m]) for m in (~held, held))
        return replace(self, train=train, test=test)

    def describe(self) -> str:
        """One line for the console."""
        shape = f"{self.channels}x{self.size}x{self.size}"
        return f"{self.name}: {len(self.train):,} + {len(self.test):,} images of {shape}, {self.classes} classes"


@final
@dataclass(frozen=True)
class Declared:
    """What the configuration says of a dataset; what it leaves None is read off the images."""

    channels: int | None
    size: int | None
    classes: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None

    def problems(self) -> list[str]:
        """Values that no dataset could have."""
        found = []
        if self.channels not in (None, 1, 3):
            found.append(f"dataset.channels must be 1, 3 or null, got {self.channels}")
        for key, value, least in (("size", self.size, 1), ("classes", self.classes, 2)):
            if value is not None and value < least:
                found.append(f"dataset.{key} must be {least} or more, or null, got {value}")
        return found

    def dataset(self, name: str, train: ImageSet, test: ImageSet) -> Dataset:
        """The dataset of these two sets; DataError where they differ from what is declared."""
        for key, said, real in (
            ("channels", self.channels, train.images.shape[1]),
            ("size", self.size, train.images.shape[2]),
        ):
            if said is not None and said != real:
                raise DataError(
                    f"dataset {name}: dataset.{key}={said}, but the images' shape is {_shape(train)}; "
                    f"write dataset.{key}={real}"
                )
        mean, std = self._statistics(train)
        return Dataset(name, train, test, self._classes(train, test), mean, std)

    def _classes(self, train: ImageSet, test: ImageSet) -> int:
        if self.classes is not None:
            return self.classes
        return max(int(part.labels.max()) + 1 if len(part) else 0 for part in (train, test))

    def _statistics(self, train: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.mean is not None and self.std is not None:
            return tuple(self.mean), tuple(self.std)
        mean, std = channel_statistics(train.images)
        return (mean if self.mean is None else tuple(self.mean)), (std if self.std is None else tuple(self.std))


class DataSource(ABC):
    """Where a dataset comes from."""

    @abstractmethod
    def load(self, seed: int) -> Dataset:
        """The dataset; DataError with what to write or to put where when it cannot be had."""

    @abstractmethod
    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """What is wrong with the settings, files and folders as far as a glance can tell: no decoding, no download."""


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of uint8 [N, C, H, W], in units of pixel / 255.

    Counts of the 256 values: exact whatever the number of images. DataError when there are none.
    """
    if images.numel() == 0:
        raise DataError("the training set holds no images: it has no mean and no standard deviation")
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for chunk in torch.split(images, _CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].numpy().ravel(), minlength=256)
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(std.tolist())


def _shape(images: ImageSet) -> str:
    return "x".join(str(n) for n in images.images.shape[1:])


def _check_images(where: str, images: ImageSet, train: ImageSet) -> None:
    if len(images) == 0:
        raise DataError(f"{where}: it holds no images")
    if images.images.shape[2] != images.images.shape[3]:
        raise DataError(f"{where}: images must be square, got {_shape(images)}; crop or resize them")
    if images.images.shape[1:] != train.images.shape[1:]:
        raise DataError(f"{where}: its images are {_shape(images)}, the training images {_shape(train)}")


def _check_labels(where: str, labels: Tensor, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        value = int(labels[row])
        advice = "number the classes from 0" if value < 0 else f"write dataset.classes={int(labels.max()) + 1} or more"
        raise DataError(f"{where}: labels must be 0..{classes - 1}, got {value} in row {row}; {advice}")
