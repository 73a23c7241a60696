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

import math
import threading
from abc import ABC, abstractmethod
from typing import ClassVar, final

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.frame import Section, WireError

__all__ = ["BFloat16", "Float16", "Float32", "Int4", "Int8", "ValueCodec"]

COMPRESSED, DIFFERENCE = 0x10, 0x20
_WIDTHS = {1: 4, 2: 8, 3: 2, 4: 2, 5: 1, 6: 1}  # bytes of a code by format; int4 has two values in one

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
            body = _decompress(body, 3 * count + 2 if form > 4 else count * _WIDTHS[form] + 1, name)
        head = self._head(body, count)
        codes = np.frombuffer(body, np.uint8)[head:]
        expected = (count + 1) // 2 if form == 6 else count * _WIDTHS[form]
        if len(codes) != expected:
            raise WireError(f"{name}: expected {head + expected} bytes of values, but got {len(body)}")
        if flags & COMPRESSED:
            codes = np.ascontiguousarray(codes.reshape(_WIDTHS[form], -1).T).reshape(-1)
        try:
            values = self._read(form, body[:head], codes, count, base)
        except ValueError as error:
            raise WireError(f"{name}: {error}") from error
        if not bool(torch.isfinite(values).all()):
            raise WireError(f"{name}: a value is not finite")
        return values

    @property
    def leftovers(self) -> Float32:
        """What biases, normalisation parameters and statistics travel by: they are few, and stay exact."""
        return Float32(self.level, self.difference)

    @abstractmethod
    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        """The format, what comes before the codes, and the codes [n, width]."""

    def _head(self, body: bytes, count: int) -> int:
        """How many bytes come before the codes of `count` values."""
        del body, count
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


def _bytes_of(codes: NDArray[np.generic]) -> Bytes:
    """Little-endian codes [n] as bytes [n, width]."""
    return codes.view(np.uint8).reshape(len(codes), codes.itemsize)


# ---- exact ---------------------------------------------------------------------------------------------------------


@final
class Float32(ValueCodec):
    """Exactly the values: 4 bytes each (8 in a float64 run), less what compression takes."""

    exact = True
    formats = (1, 2)

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        del seed
        form, codes = (2 if values.dtype == torch.float64 else 1), _pattern(values)
        if base is not None:
            change = codes - _pattern(base)  # wraps around
            codes = change << 1 ^ change >> (8 * change.itemsize - 1)
        return form, b"", _bytes_of(codes.astype(f"<i{codes.itemsize}", copy=False))

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        del head, count
        width = _WIDTHS[form]
        pattern = codes.view(f"<i{width}").astype(f"i{width}")  # a copy: torch wants writable memory
        if base is not None:
            half = (pattern.view(f"u{width}") >> 1).view(f"i{width}")
            pattern = (half ^ -(pattern & 1)) + _pattern(base.to(torch.float64 if form == 2 else torch.float32))
        return torch.from_numpy(pattern.view(f"f{width}"))


def _pattern(values: Tensor) -> NDArray[np.signedinteger]:
    """The bit patterns of floats as signed integers."""
    array = values.contiguous().numpy()
    return array.view(f"i{array.itemsize}")


# ---- rounded floats ------------------------------------------------------------------------------------------------


class _Rounded(ValueCodec):
    """Single precision with the lower bits of the mantissa rounded away, at random."""

    dropped: ClassVar[int]

    def __init__(self, level: int = 1, difference: bool = True, client_feedback: bool = False) -> None:
        super().__init__(level, difference)
        self.client_feedback = client_feedback

    def _rounded(self, values: Tensor, seed: int) -> Tensor:
        """Float32 values whose lowest `dropped` bits are 0; what is not finite stays as it is."""
        pattern = values.view(torch.int32)
        noise = torch.randint(1 << self.dropped, values.shape, generator=_generator(seed), dtype=torch.int32)
        rounded = (pattern + noise) >> self.dropped << self.dropped
        return torch.where(torch.isfinite(values), rounded, pattern).view(torch.float32)


@final
class BFloat16(_Rounded):
    """2 bytes a value: the range of single precision with 8 bits of mantissa."""

    formats = (4,)
    dropped = 16

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        rounded = self._rounded(_change(values, base), seed)
        upper = _pattern(rounded).view(np.uint32) >> np.uint32(16)
        return 4, b"", _bytes_of(upper.astype("<u2"))

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        del form, head, count
        return _changed(torch.from_numpy(_from_upper(codes)), base)


@final
class Float16(_Rounded):
    """2 bytes a value: 11 bits of mantissa, the largest value scaled to the upper end of the range."""

    formats = (3,)
    dropped = 13

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        change = _change(values, base)
        most = float(change.abs().max()) if change.numel() else 0.0
        exponent = max(-112, min(112, math.frexp(most)[1] - 15)) if math.isfinite(most) else 0
        codes = self._rounded(torch.ldexp(change, torch.tensor(-exponent)), seed).to(torch.float16)
        return 3, exponent.to_bytes(1, "little", signed=True), _bytes_of(codes.numpy().astype("<f2", copy=False))

    def _head(self, body: bytes, count: int) -> int:
        del body, count
        return 1

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        del form, count
        exponent = int.from_bytes(head, "little", signed=True)
        values = torch.from_numpy(codes.view("<f2").astype(np.float32))
        return _changed(torch.ldexp(values, torch.tensor(exponent)), base)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _change(values: Tensor, base: Tensor | None) -> Tensor:
    return values.float() if base is None else (values - base).float()


def _changed(values: Tensor, base: Tensor | None) -> Tensor:
    return values if base is None else base + values


def _from_upper(codes: Bytes) -> NDArray[np.float32]:
    """The floats whose patterns' upper halves these bytes are."""
    return (codes.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


# ---- integers ------------------------------------------------------------------------------------------------------


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

    def _quantise(self, change: Tensor, seed: int) -> tuple[bytes, NDArray[np.int8]]:
        """Block length and scales as bytes, and the integers [n]."""
        count = change.numel()
        padded = torch.nn.functional.pad(change, (0, -count % self.block)).view(-1, self.block)
        # the next bf16 above, so that no integer is out of range
        pattern = _pattern(padded.abs().amax(1) / self.most).view(np.uint32)
        upper = (pattern >> np.uint32(16)) + (pattern & np.uint32(0xFFFF) > 0)
        scales = torch.from_numpy((upper << np.uint32(16)).view(np.float32)).unsqueeze(1)
        places = padded / scales.where(scales > 0, 1.0)
        places += torch.rand(padded.shape, generator=_generator(seed))
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
        scales = np.repeat(_from_upper(np.frombuffer(head, np.uint8)[2:]), block)[: len(integers)]
        return _changed(torch.from_numpy(scales) * torch.from_numpy(integers.astype(np.float32)), base)


@final
class Int8(_Blocks):
    """1 byte a value."""

    formats = (5,)
    most = 127

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        head, integers = self._quantise(_change(values, base), seed)
        return 5, head, _bytes_of(integers)

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        del form, count
        return self._restore(head, codes.view(np.int8), base)


@final
class Int4(_Blocks):
    """Half a byte a value."""

    formats = (6,)
    most = 7

    def _write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Bytes]:
        head, integers = self._quantise(_change(values, base), seed)
        halves = np.pad(integers.view(np.uint8) & 0x0F, (0, len(integers) % 2), constant_values=8)
        return 6, head, _bytes_of(halves[::2] | halves[1::2] << 4)

    def _read(self, form: int, head: bytes, codes: Bytes, count: int, base: Tensor | None) -> Tensor:
        del form
        halves = np.stack([codes << 4, codes], axis=1).reshape(-1).view(np.int8) >> 4
        if count % 2 and halves[-1] != -8:
            raise ValueError("an odd number of values does not end with -8")
        return self._restore(head, halves[:count], base)
