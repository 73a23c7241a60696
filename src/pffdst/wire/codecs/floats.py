"""Floating-point codecs: exact single and double precision; bfloat16 and half precision, stochastically rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.codecs.base import (
    Bytes,
    ValueCodec,
    added_to,
    blocks,
    change_of,
    from_upper,
    generator,
    joined,
    pattern_of,
    planes_of,
)

__all__ = ["BFloat16", "Float16", "Float32"]

Integers = NDArray[np.signedinteger[Any]]


@final
class Float32(ValueCodec):
    """Exactly the values: 4 bytes each (8 in a float64 run), less what compression saves."""

    exact = True
    repeats = False
    formats = (1, 2)

    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """The bit patterns, or the zigzag codes of their differences."""
        form, pattern = (2 if values.dtype == torch.float64 else 1), pattern_of(values)
        if base is None:
            return form, b"", planes_of(pattern)
        held = pattern_of(base)
        return form, b"", planes_of(pattern, lambda part: _zigzag_(pattern[part] - held[part]))  # wraps around

    def planes(self, form: int, head: bytes, count: int) -> list[int]:
        """One for each byte of a value."""
        return [count] * (8 if form == 2 else 4)

    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """The values to the bit."""
        width = len(planes)
        if base is None:
            return torch.from_numpy(joined(planes, f"f{width}"))
        pattern = np.empty(count, f"i{width}")
        held = pattern_of(base.to(torch.float64 if form == 2 else torch.float32))
        for part in blocks(count):
            change = _from_zigzag_(joined([plane[part] for plane in planes], f"i{width}"))
            np.add(change, held[part], out=pattern[part])
        return torch.from_numpy(pattern.view(f"f{width}"))


def _zigzag_(change: Integers) -> Integers:
    """2 d where d >= 0, else -2 d - 1; may reuse d's memory."""
    codes: Integers = change << 1
    change >>= 8 * change.itemsize - 1
    codes ^= change
    return codes


def _from_zigzag_(codes: Integers) -> Integers:
    """The inverse, in place."""
    sign = -(codes & 1)
    half = codes.view(f"u{codes.itemsize}")
    half >>= 1
    codes ^= sign
    return codes


class _Rounded(ValueCodec):
    """Single precision with the lower bits of the mantissa removed by stochastic rounding."""

    dropped: ClassVar[int]

    def __init__(self, level: int = 1, difference: bool = True, client_feedback: bool = False) -> None:
        super().__init__(level, difference)
        self.client_feedback = client_feedback

    def planes(self, form: int, head: bytes, count: int) -> list[int]:
        """Two bytes per value."""
        return [count, count]

    def _rounded(self, values: Tensor, seed: int) -> Tensor:
        """Float32 values whose lowest `dropped` bits are 0; values that are not finite are unchanged."""
        pattern = values.view(torch.int32)
        noise = torch.randint(1 << self.dropped, values.shape, generator=generator(seed), dtype=torch.int32)
        rounded = (pattern + noise) >> self.dropped << self.dropped
        return torch.where(torch.isfinite(values), rounded, pattern).view(torch.float32)


@final
class BFloat16(_Rounded):
    """2 bytes per value: the range of single precision with 8 bits of mantissa."""

    formats = (4,)
    repeats = False
    dropped = 16

    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """The upper halves."""
        rounded = self._rounded(change_of(values, base), seed)
        upper = pattern_of(rounded).view(np.uint32) >> np.uint32(16)
        return 4, b"", planes_of(upper.astype(np.uint16))

    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """Single precision whose lower halves are 0."""
        return added_to(torch.from_numpy(from_upper(joined(planes, "u2"))), base)


@final
class Float16(_Rounded):
    """2 bytes per value: 11 bits of mantissa, the largest value scaled to the upper end of the range."""

    formats = (3,)
    dropped = 13

    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """The exponent of the scale, and half precision."""
        change = change_of(values, base)
        most = float(change.abs().max()) if change.numel() else 0.0
        exponent = max(-112, min(112, math.frexp(most)[1] - 15)) if math.isfinite(most) else 0
        codes = self._rounded(torch.ldexp(change, torch.tensor(-exponent)), seed).to(torch.float16)
        return 3, exponent.to_bytes(1, "little", signed=True), planes_of(codes.numpy().view(np.uint16))

    def head_bytes(self, form: int) -> int:
        """The exponent."""
        return 1

    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """Times the power of 2."""
        exponent = int.from_bytes(head, "little", signed=True)
        values = torch.from_numpy(joined(planes, "f2").astype(np.float32))
        return added_to(torch.ldexp(values, torch.tensor(exponent)), base)
