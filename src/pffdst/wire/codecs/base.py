"""Values as bytes. A codec turns a float vector into a section and back, given how many values to expect.

The coding of a value section is a format in its low four bits, and flags:

    1 fp32    single precision
    2 fp64    double precision, for runs in float64
    3 fp16    e as i8, then half precision of value * 2^-e
    4 bf16    the upper halves of single precision
    5 int8    block length B as u16, one bf16 scale per block, one signed byte per value: value = scale * (-127 .. 127)
    6 int4    the same with four bits per value in two's complement, -7 .. 7, the first of two in the low half of a
              byte; an odd number of values ends with -8
    7 to 9    reserved for this package; 10 to 15 are for your own codecs

    0x10      compressed: each plane is preceded by a u32, the length of the zstandard frame that holds it, or 0 if the
              plane is not compressed
    0x20      difference: what is sent is to be added to what the receiver holds. In fp32 and fp64, which stay exact,
              the bit patterns are added as integers; what is sent is the zigzag code of their difference d (modulo
              2^32 or 2^64, taken as signed): 2 d where d >= 0, else -2 d - 1

A body is the head (e or B), then planes: the first bytes of all scales, their second bytes, the first bytes of all
values, their second bytes, and so on. All numbers are little-endian. Lossy formats use stochastic rounding, so that the
error has mean 0; the sender chooses the seed. They clamp values to half of single precision's range, so that finite
values decode to finite values.
"""

from __future__ import annotations

import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from pffdst.wire.frame import Section, WireError

__all__ = [
    "COMPRESSED",
    "Bytes",
    "ValueCodec",
    "added_to",
    "blocks",
    "change_of",
    "from_upper",
    "generator",
    "joined",
    "pack_planes",
    "pattern_of",
    "planes_of",
    "split_planes",
    "within",
]

COMPRESSED, DIFFERENCE = 0x10, 0x20
_BLOCK = 1 << 15
_HALF = torch.finfo(torch.float32).max / 2
_SMALL_TABLE = 8
_LARGE, _PIECES, _PIECE, _WORTH = 1 << 16, 8, 1 << 10, 0.01  # samples of a large plane show if compression pays
_LENGTH = struct.Struct("<I")

Bytes = NDArray[np.uint8]


class ValueCodec(ABC):
    """How values are encoded. Both ends use the codec of the run's configuration; a section also names its coding.

    `level` is zstandard's (1 .. 19; 0 turns compression off). With `difference`, a client's update is sent as the
    difference it makes. `exact`: what is decoded is what was encoded. `repeats`: its planes hold repeated stretches,
    which the compressor looks for; otherwise only some bytes are more frequent than others. With `client_feedback`
    (lossy codecs) a client keeps the rounding error of its update and adds it to the next one. `formats` are the
    numbers, 1 .. 15, of the encodings that it writes; 10 .. 15 are for codecs outside the package. ValueError where a
    number is out of its range, or there are no formats.
    """

    exact: ClassVar[bool] = False
    repeats: ClassVar[bool] = True
    client_feedback = False
    formats: ClassVar[tuple[int, ...]]

    def __init__(self, level: int = 1, difference: bool = True) -> None:
        formats = getattr(self, "formats", ())
        if not formats or not all(0 < form < 16 for form in formats):
            raise ValueError(f"{type(self).__name__}: name its formats, e.g. formats = (10,); 10 .. 15 are free")
        if not 0 <= level <= 19:
            raise ValueError(f"Expected `codec.level` to be in 0 .. 19, 0 for no compression, but got {level}")
        self.level = level
        self.difference = difference

    # ---- what a codec is ---------------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, values: Tensor, base: Tensor | None, seed: int) -> tuple[int, bytes, Sequence[Bytes]]:
        """The format, the head, and the planes, each uint8 and contiguous."""

    @abstractmethod
    def planes(self, form: int, head: bytes, count: int) -> list[int]:
        """The lengths of the planes that hold `count` values. ValueError where the head is invalid."""

    @abstractmethod
    def read(self, form: int, head: bytes, planes: Sequence[Bytes], count: int, base: Tensor | None) -> Tensor:
        """The values [count] of planes of the expected lengths. ValueError if no codec can have written them."""

    def head_bytes(self, form: int) -> int:
        """The length of the head in bytes."""
        return 0

    # ---- there and back ----------------------------------------------------------------------------------------------

    def encode(self, values: Tensor, *, seed: int = 0, base: Tensor | None = None) -> Section:
        """A flat vector [n] as a section; `base` [n] is what the receiver holds, `seed` is used for rounding."""
        if not self.difference:
            base = None
        if not self.exact:
            values = within(values)
        form, head, planes = self.write(values.contiguous(), base, seed)
        coding = form | (0 if base is None else DIFFERENCE)
        packed, body = pack_planes(head, planes, self.level, repeats=self.repeats)
        return Section(coding | packed, body)

    def decode(self, section: Section, count: int, name: str, *, base: Tensor | None = None) -> Tensor:
        """A section back to float [count]. Raises WireError naming `name` where it is malformed or not finite."""
        form, flags = section.coding & 0x0F, section.coding & 0xF0
        if form not in self.formats or flags & ~(COMPRESSED | DIFFERENCE):
            raise WireError(f"{name}: value coding {section.coding} does not belong to this run's codec")
        if not flags & DIFFERENCE:
            base = None
        elif base is None:
            raise WireError(f"{name}: a difference was sent, but the receiver holds no values")
        head = bytes(section.body[: self.head_bytes(form)])
        try:
            lengths = self.planes(form, head, count)
            planes = split_planes(section.body, len(head), lengths, packed=bool(flags & COMPRESSED))
            values = self.read(form, head, planes, count, base)
        except (ValueError, zstandard.ZstdError) as error:
            raise WireError(f"{name}: {error}") from error
        if not np.isfinite(values.numpy()).all():
            raise WireError(f"{name}: a value is not finite")
        return values


def pack_planes(head: bytes, planes: Sequence[Bytes], level: int, *, repeats: bool = True) -> tuple[int, bytes]:
    """The flag COMPRESSED or 0, and a body of the head and the planes, compressed if that pays and `level` > 0."""
    packed = [_packed(plane, level, repeats) for plane in planes] if level else []
    saved = sum(len(plane) - len(small) for plane, small in zip(planes, packed, strict=False) if small)
    if saved <= _LENGTH.size * len(packed):
        return 0, b"".join([head, *(plane.data for plane in planes)])
    parts: list[Any] = [head]
    for plane, small in zip(planes, packed, strict=True):
        parts += [_LENGTH.pack(len(small)), small or plane.data]
    return COMPRESSED, b"".join(parts)


def _packed(plane: Bytes, level: int, repeats: bool) -> bytes:
    """The plane compressed; empty if that does not pay."""
    compressor = _compressor(level, repeats)
    if not repeats and len(plane) >= _LARGE:
        step = len(plane) // _PIECES
        sample = np.concatenate([plane[k * step : k * step + _PIECE] for k in range(_PIECES)])
        if len(compressor.compress(sample.data)) > (1 - _WORTH) * len(sample):
            return b""
    small: bytes = compressor.compress(plane.data)
    return small if len(small) < len(plane) else b""


def split_planes(body: bytes | memoryview, at: int, lengths: Sequence[int], *, packed: bool) -> list[Bytes]:
    """The planes of a body, from offset `at`. ValueError where the body does not hold exactly these."""
    view, planes = memoryview(body), []
    for length in lengths:
        size = 0
        if packed:
            if at + _LENGTH.size > len(view):
                raise ValueError(f"the body of {len(view)} bytes ends before the length of a plane")
            (size,) = _LENGTH.unpack_from(view, at)
            at += _LENGTH.size
        end = at + (size or length)
        if end > len(view):
            raise ValueError(f"expected at least {end} bytes of values, but got {len(view)}")
        part = view[at:end]
        planes.append(np.frombuffer(_unpacked(part, length) if size else part, np.uint8))
        at = end
    if at != len(view):
        raise ValueError(f"expected {at} bytes of values, but got {len(view)}")
    return planes


_own = threading.local()  # a compressor is not thread-safe: two threads using one crash the process


def _compressor(level: int, repeats: bool) -> zstandard.ZstdCompressor:
    """This thread's compressor for a level.

    Where nothing repeats, the lowest level gains nothing from a larger table than 256 entries for finding repetitions,
    on exponents even less, and the small table takes half the time.
    """
    made = _own.__dict__.setdefault("compressors", {})
    if (level, repeats) not in made:
        if repeats or level > 1:
            made[level, repeats] = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        else:
            small = zstandard.ZstdCompressionParameters.from_level(
                level, hash_log=_SMALL_TABLE, write_content_size=True, write_checksum=False
            )
            made[level, repeats] = zstandard.ZstdCompressor(compression_params=small)
    return made[level, repeats]  # type: ignore[no-any-return]


def _unpacked(frame: memoryview, length: int) -> bytes:
    """The content of a frame that declares `length` bytes."""
    size = zstandard.frame_content_size(frame)
    if size != length:
        raise ValueError(f"a frame of {size} bytes cannot hold the {length} expected")
    if "decompressor" not in _own.__dict__:
        _own.decompressor = zstandard.ZstdDecompressor()
    content: bytes = _own.decompressor.decompress(frame, max_output_size=length, allow_extra_data=False)
    return content


# ---- what codecs share -----------------------------------------------------------------------------------------------


def blocks(count: int) -> Iterator[slice]:
    """`count` values in blocks small enough for the processor's cache, intermediate results included.

    Processing all values at once would allocate new pages of memory for every step, which cost more than the work.
    """
    return (slice(at, min(at + _BLOCK, count)) for at in range(0, count, _BLOCK))


def planes_of(codes: NDArray[Any], made_of: Callable[[slice], NDArray[Any]] | None = None) -> list[Bytes]:
    """Codes [n] of several bytes as planes, low bytes first; with `made_of`, the codes that it returns for a block.

    The planes are rows of one array.
    """
    planes = np.empty((codes.itemsize, len(codes)), np.uint8)
    for part in blocks(len(codes)):
        words = (codes[part] if made_of is None else made_of(part)).view(f"u{codes.itemsize}")
        for k, plane in enumerate(planes):  # shift and truncate: half the time of reading every fourth byte
            np.copyto(plane[part], words >> (8 * k) if k else words, casting="unsafe")
    return list(planes)


def joined(planes: Sequence[Bytes], dtype: str) -> NDArray[Any]:
    """The codes [n] of planes, in writable memory; `dtype` has as many bytes as there are planes."""
    made = np.empty(len(planes[0]), f"u{len(planes)}")
    for part in blocks(len(made)):
        words = made[part]
        words[:] = planes[-1][part]
        for plane in planes[-2::-1]:
            words <<= 8
            words |= plane[part]
    return made.view(dtype)


def pattern_of(values: Tensor) -> NDArray[np.signedinteger[Any]]:
    """The bit patterns of floats as signed integers."""
    array = values.contiguous().numpy()
    return array.view(f"i{array.itemsize}")


def generator(seed: int) -> torch.Generator:
    """The generator used for rounding."""
    return torch.Generator().manual_seed(seed)


def change_of(values: Tensor, base: Tensor | None) -> Tensor:
    """What is sent of `values` to a receiver that holds `base`, in single precision and `within` its range."""
    return (values if base is None else within(values - base, values)).float()


def within(values: Tensor, of: Tensor | None = None) -> Tensor:
    """Clamps values to half of single precision's range: however they are rounded, they stay finite.

    Values that are not finite are left alone and refused on arrival; for a difference [n], those are the ones that are
    not finite in the values `of` [n] that it was made from.
    """
    if values.numel() == 0:
        return values
    low, high = torch.aminmax(values)
    if bool(low >= -_HALF) and bool(high <= _HALF):  # neither is true for NaN
        return values
    finite = torch.isfinite(values if of is None else of)
    return torch.where(finite, values.clamp(-_HALF, _HALF), values)


def added_to(values: Tensor, base: Tensor | None) -> Tensor:
    """What the receiver reconstructs."""
    return values if base is None else base + values


def from_upper(upper: NDArray[Any]) -> NDArray[np.float32]:
    """The floats whose bit patterns have these upper halves, u16."""
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)
