"""A client's samples as batches, and images in files that many processes share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from pffdst.data.dataset import ImageSet
from pffdst.data.npy import write_tensor

__all__ = ["ClientBatches", "SharedImages", "batch_indices", "steps"]


def steps(count: int, batch_size: int) -> int:
    """Batches per epoch over `count` samples; a last batch of one sample is joined to the one before it."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def batch_indices(count: int, batch_size: int, epochs: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """For every epoch the int64 index tensors of its batches, in an order drawn from the generator.

    BatchNorm cannot train on one sample, so with count = k * batch_size + 1 (k > 0) the last batch has batch_size + 1.
    """
    number = steps(count, batch_size)
    lengths = [batch_size] * (number - 1) + [count - batch_size * (number - 1)] if number else []
    for _ in range(epochs):
        yield list(torch.split(torch.randperm(count, generator=generator), lengths))


@final
class ClientBatches:
    """One client's epochs: every iteration over it is the next epoch, reshuffled.

    Yields images uint8 [b, C, H, W] and labels int64 [b]. Works as a Trainer's train_dataloader and in a plain loop.
    `images` [N, C, H, W] and `labels` [N] are everybody's, `indices` int64 [n] the client's own: they are gathered
    once.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Tensor, batch_size: int, generator: torch.Generator
    ) -> None:
        self._images = images.index_select(0, indices)
        self._labels = labels.index_select(0, indices)
        self._batch_size = batch_size
        self._generator = generator

    def __len__(self) -> int:
        return steps(len(self._labels), self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # a generator function: an iterator that is asked for and never used (Lightning's check) draws nothing
        for batches in batch_indices(len(self._labels), self._batch_size, 1, self._generator):
            for batch in batches:
                yield self._images.index_select(0, batch), self._labels.index_select(0, batch)


@final
@dataclass(frozen=True)
class SharedImages:
    """An image set in two .npy files: pickles as two paths, opens as a mapping whose pages all processes share."""

    images: Path
    labels: Path
    shape: tuple[int, ...]

    @classmethod
    def share(cls, image_set: ImageSet, folder: Path) -> SharedImages:
        """Writes the set under `folder`, which stays the caller's to delete; a set that is mapped from files already
        is shared through those. Raises OSError."""
        shape = tuple(image_set.images.shape)
        if image_set.files is not None:
            return cls(*image_set.files, shape)
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder, prefix="images-"))
        files = (place / "images.npy", place / "labels.npy")
        write_tensor(files[0], image_set.images)
        write_tensor(files[1], image_set.labels)
        return cls(*files, shape)

    def open(self) -> ImageSet:
        """The set mapped into memory; what is written into its tensors stays in this process and off the files.

        Raises OSError when a file is gone, ValueError when it is another than was shared.
        """
        found = ImageSet.mapped(self.images, self.labels)
        if tuple(found.images.shape) != self.shape:
            raise ValueError(f"Expected {self.images} to hold {self.shape}, but got {tuple(found.images.shape)}")
        return found
