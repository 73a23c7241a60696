"""Integer codecs: a scale for each block of values, and a byte or half a byte for each value."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.codecs.base import Bytes, ValueCodec, added_to, bytes_of, change_of, from_upper, generator, pattern_of

__all__ = ["Int4", "Int8"]


class _Blocks(ValueCodec):
    """Integers in -`most` .. `most` under one scale for each `block` values."""

    most: ClassVar[int]

    def __init__(
        self, block: int = 256, level: int = 1, difference: bool = True, client_feedback: bool = False
    ) -> None:
        super().__init__(level, difference)
        self.client_feedback = client_feedback
        if not 1 <= block <= 0xFFFF:
            raise ValueError(f"Expected `codec.block` to be in 1 .. 65535 values, but got {block}")
        self.block = block

    def _width(self, form: int) -> int:
        return 1

    def _most_bytes(self, form: int, count: int) -> int:
        return self._codes(form, count) + 2 * count + 2  # a scale for each value at the most

    def _quantise(self, change: Tensor, seed: int) -> tuple[bytes, NDArray[np.int8]]:
        """Block length and scales as bytes, and the integers [n]."""
        count = change.numel()
        padded = torch.nn.functional.pad(change, (0, -count % self.block)).view(-1, self.block)
        # the next bf16 above, so that no integer is out of range
        pattern = pattern_of(padded.abs().amax(1) / self.most).view(np.uint32)
        upper = (pattern >> np.uint32(16)) + (pattern & np.uint32(0xFFFF) > 0)
        scales = torch.from_numpy((upper << np.uint32(16)).view(np.float32)).unsqueeze(1)
        places = padded / scales.where(scales > 0, 1.0)
        places += torch.rand(padded.shape, generator=generator(seed))
        integers = places.floor_().clamp_(-self.most, self.most).nan_to_num_(0.0).to(torch.int8)
        head = self.block.to_bytes(2, "little") + upper.astype("<u2").tobytes()
        return head, integers.view(-1)[:count].numpy()

    def _head(self, body: bytes, count: int) -> int:
        block = int.from_bytes(body[:2], "little") or 1
        return 2 + 2 * -(-count // block)

    def _restore(self, head: bytes, integers: NDArray[np.int8], base: Tensor | None) -> Tensor:
        if integers.size and int(integers.min()) < -self.most:
            raise ValueError(f"an integer is below {-self.most}")
        block = int.from_bytes(head[:2], "little") or 1
        scales = np.repeat(from_upper(np.frombuffer(head, np.uint8)[2:]), block)[: len(integers)]
        return added_to(torch.from_numpy(scales) * torch.from_numpy(integers.astype(np.float32)), base)


@final
class Int8(_Blocks):
    """1 byte a value."""

    formats = (5,)
    most = 127

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        head, integers = self._quantise(change_of(values, base), seed)
        return 5, head, bytes_of(integers)

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        return self._restore(head, codes.view(np.int8), base)


@final
class Int4(_Blocks):
    """Half a byte a value."""

    formats = (6,)
    most = 7

    def _codes(self, form: int, count: int) -> int:
        return (count + 1) // 2

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        head, integers = self._quantise(change_of(values, base), seed)
        halves = np.pad(integers.view(np.uint8) & 0x0F, (0, len(integers) % 2), constant_values=8)
        return 6, head, bytes_of(halves[::2] | halves[1::2] << 4)

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        halves = np.stack([codes << 4, codes], axis=1).reshape(-1).view(np.int8) >> 4
        if count % 2 and halves[-1] != -8:
            raise ValueError("an odd number of values does not end with -8")
        return self._restore(head, halves[:count], base)
