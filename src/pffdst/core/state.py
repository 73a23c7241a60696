"""What a model has besides trained values and statistics: constants and buffers, as pieces.

The pieces are the constants, flat [n] if there are any, then each buffer of the layout. They are sent to clients that
lack them, and combined by a separate rule, since buffers are not real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout

__all__ = ["BufferMean", "changes", "pieces_of"]


def pieces_of(model: GlobalModel, buffers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The constants of a model, if it has any, and its buffers."""
    constants = model.rest[len(model.rest) - model.layout.constants :]
    return (constants, *buffers) if len(constants) else tuple(buffers)


def changes(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Each buffer that changed; None for one that did not."""
    return tuple(None if torch.equal(old, new) else new for old, new in zip(before, after, strict=True))


@final
class BufferMean:
    """The buffers after a round: what the server sent and the weighted mean change of its clients.

    An integer is rounded to the nearest, halves to even; a boolean takes the value with the greater weight and is
    unchanged in a tie. A client that changed nothing counts with what it was sent.

    `middle`, if given, replaces the mean: it makes one change float64 [n] from the clients' [K, n], all with the same
    weight, and the changes are kept until the end.
    """

    def __init__(
        self, layout: Layout, sent: Sequence[Tensor], middle: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._sent, self._middle = tuple(sent), middle
        self._changes: list[tuple[Tensor | None, ...]] = []
        self._sums: list[Tensor | None] = [None] * len(layout.buffers)
        self._weight = 0

    def add(self, changed: Sequence[Tensor | None], weight: int) -> None:
        """A client's buffers, None for each that it did not change."""
        self._weight += weight
        if self._middle is not None:
            self._changes.append(tuple(changed))
            return
        for i, (new, sent) in enumerate(zip(changed, self._sent, strict=True)):
            if new is not None:
                change = _wide(new) - _wide(sent)
                exact = change.to(torch.complex128 if change.is_complex() else torch.float64) * weight
                before = self._sums[i]
                self._sums[i] = exact if before is None else before + exact

    def result(self) -> tuple[Tensor, ...]:
        """The buffers; the same objects that were sent if no client changed them."""
        if self._middle is not None:
            return tuple(self._in_the_middle(i, self._middle) for i in range(len(self._sent)))
        return tuple(
            sent if total is None else _moved(sent, total / self._weight)
            for sent, total in zip(self._sent, self._sums, strict=True)
        )

    def _in_the_middle(self, i: int, middle: Callable[[Tensor], Tensor]) -> Tensor:
        """The i-th buffer; real and imaginary parts are treated separately."""
        sent = self._sent[i]
        if all(changed[i] is None for changed in self._changes):
            return sent
        there = [sent if changed[i] is None else changed[i] for changed in self._changes]
        moves = torch.stack([_wide(new) - _wide(sent) for new in there if new is not None])
        if not moves.is_complex():
            return _moved(sent, middle(moves.double().flatten(1)).view(sent.shape))
        real, imaginary = (middle(part.double().flatten(1)).view(sent.shape) for part in (moves.real, moves.imag))
        return _moved(sent, torch.complex(real, imaginary))


def _wide(buffer: Tensor) -> Tensor:
    """The buffer in a type in which differences are exact."""
    return buffer.to(torch.complex128) if buffer.is_complex() else buffer.to(torch.int64)


def _moved(sent: Tensor, change: Tensor) -> Tensor:
    """A buffer plus its mean change."""
    if sent.is_complex():
        return (sent.to(torch.complex128) + change).to(sent.dtype)
    if sent.dtype == torch.bool:
        return sent ^ (change.abs() > 0.5)
    return (sent.to(torch.int64) + change.round().to(torch.int64)).to(sent.dtype)
