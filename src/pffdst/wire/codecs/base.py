"""Values as bytes. A codec turns a float vector into a section and back, knowing how many values are due.

The coding of a value section is a format in its low four bits, and flags:

    1 fp32    single precision
    2 fp64    double precision, for runs in float64
    3 fp16    e as i8, then half precision of value * 2^-e
    4 bf16    the upper halves of single precision
    5 int8    block length B as u16, one bf16 scale a block, one signed byte a value: value = scale * (-127 .. 127)
    6 int4    the same with four bits a value in two's complement, -7 .. 7, the first of two in the low half of a byte;
              an odd number of values ends with -8

    0x10      compressed: the body is one zstandard frame that names its content's size. Values of several bytes lie in
              it in planes: after what comes before them the first bytes of all values, then their second bytes, ...
    0x20      difference: what is sent is to be added to what the receiver holds. In fp32 and fp64, which stay exact,
              the bit patterns are added as integers; of their difference d, modulo 2^32 or 2^64 and taken as signed,
              the zigzag code is sent: 2 d where d >= 0, else -2 d - 1

All numbers are little-endian. Lossy formats round at random, so that the error has mean 0; the seed is the sender's.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.frame import Section, WireError

__all__ = [
    "COMPRESSED",
    "DIFFERENCE",
    "Bytes",
    "ValueCodec",
    "added_to",
    "bytes_of",
    "change_of",
    "from_upper",
    "generator",
    "pattern_of",
]

COMPRESSED, DIFFERENCE = 0x10, 0x20

Bytes = NDArray[np.uint8]


class ValueCodec(ABC):
    """How values travel. Both ends use the codec of the run's configuration; a section names its coding as well.

    `level` is zstandard's (1 .. 19; 0 does not compress). With `difference` a client's update is sent as what it
    changes. `exact`: what is decoded is what was encoded. With `client_feedback` (lossy codecs) a client keeps what
    rounding took from its update and adds it to its next. ValueError where a number is out of its range.
    """

    exact: ClassVar[bool] = False
    client_feedback = False
    formats: ClassVar[tuple[int, ...]]

    def __init__(self, level: int = 1, difference: bool = True) -> None:
        if not 0 <= level <= 19:
            raise ValueError(f"Expected `codec.level` to be in 0 .. 19, 0 for no compression, but got {level}")
        self.level = level
        self.difference = difference

    def encode(self, values: Tensor, *, seed: int = 0, base: Tensor | None = None) -> Section:
        """A flat vector [n] as a section; `base` [n] is what the receiver holds, `seed` the rounding's."""
        if not self.difference:
            base = None
        form, head, codes = self._write(values.contiguous(), base, seed)
        coding, body = form | (0 if base is None else DIFFERENCE), head + codes.tobytes()
        if self.level and codes.size:
            small = _compressor(self.level).compress(head + np.ascontiguousarray(codes.T).tobytes())
            if len(small) < len(body):
                coding, body = coding | COMPRESSED, small
        return Section(coding, body)

    def decode(self, section: Section, count: int, name: str, *, base: Tensor | None = None) -> Tensor:
        """A section back to float [count]. Raises WireError naming `name` where it is malformed or not finite."""
        form, flags = section.coding & 0x0F, section.coding & 0xF0
        if form not in self.formats or flags & ~(COMPRESSED | DIFFERENCE):
            raise WireError(f"{name}: value coding {section.coding} is not one of this run's codec")
        if not flags & DIFFERENCE:
            base = None
        elif base is None:
            raise WireError(f"{name}: a difference was sent where the receiver holds no values")
        body = section.body
        if flags & COMPRESSED:
            body = _decompress(body, self._most_bytes(form, count), name)
        head = self._head(body, count)
        codes = np.frombuffer(body, np.uint8)[head:]
        width = self._width(form)
        expected = self._codes(form, count) * width
        if len(codes) != expected:
            raise WireError(f"{name}: expected {head + expected} bytes of values, but got {len(body)}")
        if flags & COMPRESSED:
            codes = np.ascontiguousarray(codes.reshape(width, -1).T).reshape(-1)
        try:
            values = self._read(form, body[:head], codes, count, base)
        except ValueError as error:
            raise WireError(f"{name}: {error}") from error
        if not bool(torch.isfinite(values).all()):
            raise WireError(f"{name}: a value is not finite")
        return values

    @abstractmethod
    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        """The format, what comes before the codes, and the codes [n, width]."""

    @abstractmethod
    def _width(self, form: int) -> int:
        """Bytes of a code of a format."""

    def _codes(self, form: int, count: int) -> int:
        """Codes of `count` values: one each, unless a code holds several."""
        return count

    def _most_bytes(self, form: int, count: int) -> int:
        """The most bytes that head and codes of `count` values can take: a decompressed body has no more."""
        return self._codes(form, count) * self._width(form) + self._head(b"", count)

    def _head(self, body: bytes, count: int) -> int:
        """How many bytes come before the codes of `count` values."""
        return 0

    @abstractmethod
    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        """The other way round; `codes` is flat and has its due length. ValueError if no codec can have written them."""


_own = threading.local()  # a compressor serves one thread at a time: two that enter it crash the process


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's compressor of a level."""
    made = _own.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
    return made[level]  # type: ignore[no-any-return]


def _decompress(body: bytes, most: int, name: str) -> bytes:
    """The content of a frame that says it has at most `most` bytes."""
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= most:
            raise WireError(f"{name}: a frame of {size} bytes cannot hold the values that are due")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"{name}: the compressed values are damaged: {error}") from error


def bytes_of(codes: NDArray[np.generic]) -> Bytes:
    """Little-endian codes [n] as bytes [n, width]."""
    return codes.view(np.uint8).reshape(len(codes), codes.itemsize)


def pattern_of(values: Tensor) -> NDArray[np.signedinteger]:
    """The bit patterns of floats as signed integers."""
    array = values.contiguous().numpy()
    return array.view(f"i{array.itemsize}")


def generator(seed: int) -> torch.Generator:
    """The draw that rounds."""
    return torch.Generator().manual_seed(seed)


def change_of(values: Tensor, base: Tensor | None) -> Tensor:
    """What is sent of `values` to who holds `base`, in single precision."""
    return values.float() if base is None else (values - base).float()


def added_to(values: Tensor, base: Tensor | None) -> Tensor:
    """What the receiver makes of it."""
    return values if base is None else base + values


def from_upper(codes: Bytes) -> NDArray[np.float32]:
    """The floats whose patterns' upper halves these bytes are."""
    return (codes.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
