"""Integer codecs: a scale for each block of values, and a byte or half a byte for each value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.codecs.base import (
    Bytes,
    ValueCodec,
    added_to,
    change_of,
    from_upper,
    generator,
    joined,
    pattern_of,
    planes_of,
)

__all__ = ["Int4", "Int8"]


class _Blocks(ValueCodec):
    """Integers in -`most` .. `most`, with one scale per `block` values."""

    most: ClassVar[int]

    def __init__(
        self, block: int = 256, level: int = 1, difference: bool = True, client_feedback: bool = False
    ) -> None:
        super().__init__(level, difference)
        self.client_feedback = client_feedback
        if not 1 <= block <= 0xFFFF:
            raise ValueError(f"Expected `codec.block` to be in 1 .. 65535 values, but got {block}")
        self.block = block

    def head_bytes(self, form: int) -> int:
        """The block length."""
        return 2

    def codes(self, count: int) -> int:
        """The number of bytes for `count` values."""
        return count

    def planes(self, form: int, head: bytes, count: int) -> list[int]:
        """Two bytes per scale, then the values."""
        block = int.from_bytes(head, "little")
        if len(head) != 2 or block == 0:
            raise ValueError(f"expected a block length in 1 .. 65535, but got {head!r}")
        return [-(-count // block)] * 2 + [self.codes(count)]

    def _quantise(self, change: Tensor, seed: int) -> tuple[bytes, list[Bytes], NDArray[np.int8]]:
        """The block length as bytes, the planes of the scales, and the integers [n]."""
        count = change.numel()
        padded = torch.nn.functional.pad(change, (0, -count % self.block)).view(-1, self.block)
        # rounded up to the next bf16, so that no integer is out of range
        pattern = pattern_of(padded.abs().amax(1) / self.most).view(np.uint32)
        upper = (pattern >> np.uint32(16)) + (pattern & np.uint32(0xFFFF) > 0)
        scales = torch.from_numpy((upper << np.uint32(16)).view(np.float32)).unsqueeze(1)
        places = padded / scales.where(scales > 0, 1.0)
        places += torch.rand(padded.shape, generator=generator(seed))
        integers = places.floor_().clamp_(-self.most, self.most).nan_to_num_(0.0).to(torch.int8)
        return self.block.to_bytes(2, "little"), planes_of(upper.astype(np.uint16)), integers.view(-1)[:count].numpy()

    def _restore(self, head: bytes, scales: Sequence[Bytes], integers: NDArray[np.int8], base: Tensor | None) -> Tensor:
        if integers.size and int(integers.min()) < -self.most:
            raise ValueError(f"an integer is below {-self.most}")
        block = int.from_bytes(head, "little")
        each = np.repeat(from_upper(joined(scales, "<u2")), block)[: len(integers)]
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused elsewhere
            values = each * integers.astype(np.float32)
        return added_to(torch.from_numpy(values), base)


@final
class Int8(_Blocks):
    """1 byte per value."""

    formats = (5,)
    most = 127

    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """Scales and bytes."""
        head, scales, integers = self._quantise(change_of(values, base), seed)
        return 5, head, [*scales, integers.view(np.uint8)]

    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """Scale times integer."""
        return self._restore(head, planes[:2], planes[2].view(np.int8), base)


@final
class Int4(_Blocks):
    """Half a byte per value."""

    formats = (6,)
    most = 7

    def codes(self, count: int) -> int:
        """Two values per byte."""
        return (count + 1) // 2

    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """Scales and halves of bytes."""
        head, scales, integers = self._quantise(change_of(values, base), seed)
        halves = np.pad(integers.view(np.uint8) & 0x0F, (0, len(integers) % 2), constant_values=8)
        return 6, head, [*scales, halves[::2] | halves[1::2] << 4]

    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """Scale times integer."""
        halves = np.stack([planes[2] << 4, planes[2]], axis=1).reshape(-1).view(np.int8) >> 4
        if count % 2 and halves[-1] != -8:
            raise ValueError("an odd number of values does not end with -8")
        return self._restore(head, planes[:2], halves[:count], base)
