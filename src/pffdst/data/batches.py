"""A client's samples as batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from pffdst.data.samples import Samples

__all__ = ["ClientBatches", "batch_indices", "steps"]


def steps(count: int, batch_size: int) -> int:
    """Batches per epoch over `count` samples; a last batch of one sample is merged into the one before it."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def batch_indices(count: int, batch_size: int, epochs: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """For every epoch, the int64 index tensors of its batches, in an order drawn from the generator.

    BatchNorm cannot train on one sample, so with count = k * batch_size + 1 (k > 0) the last batch has batch_size + 1.
    """
    number = steps(count, batch_size)
    lengths = [batch_size] * (number - 1) + [count - batch_size * (number - 1)] if number else []
    for _ in range(epochs):
        yield list(torch.split(torch.randperm(count, generator=generator), lengths))


@final
class ClientBatches:
    """One client's epochs: each iteration over it is the next epoch, reshuffled.

    Yields the batches of `Samples.batch`: for images, uint8 [b, C, H, W] and labels int64 [b]. Works as a Trainer's
    train_dataloader and in a plain loop. `samples` are those of all clients, `indices` int64 [n] the client's own,
    which are gathered once. `labels` int64 [n], if given, replace the client's own labels in training.
    """

    def __init__(
        self,
        samples: Samples,
        indices: Tensor,
        batch_size: int,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> None:
        own = samples.take(indices)
        self._own = own if labels is None else own.numbered(labels, own.owners)
        self._batch_size = batch_size
        self._generator = generator

    def __len__(self) -> int:
        return steps(len(self._own), self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # a generator function: an iterator that is created but never used (Lightning's check) draws nothing
        for batches in batch_indices(len(self._own), self._batch_size, 1, self._generator):
            for batch in batches:
                yield self._own.batch(batch)
