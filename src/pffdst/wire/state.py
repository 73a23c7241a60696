"""Constants and buffers as a section: the pieces of a model's state that the receiver lacks.

    ceil(n / 8) bytes   one bit for each of the model's n pieces, lowest bit first: whether it is included
    ...                 for each included piece, planes: the first bytes of all its values, their second bytes, etc.

The first piece is the constants, if the model has any; then come the buffers. A piece's values are in row-major order
and little-endian; booleans take one bit each, lowest bit of a byte first, unused bits 0. The coding is the format of
the constants, 1 fp32 or 2 fp64, plus 0x10 if planes are compressed as for values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
import xxhash
import zstandard
from torch import Tensor

from pffdst.core.blobs import tensor_of
from pffdst.core.model import Layout
from pffdst.core.positions import bitmap_of, bits_of
from pffdst.wire.codecs.base import COMPRESSED, Bytes, joined, pack_planes, split_planes
from pffdst.wire.frame import Section, WireError

__all__ = ["decode_state", "encode_state", "from_bytes", "piece_count", "state_digest"]

_FORMATS = {torch.float32: 1, torch.float64: 2}
_DTYPES = {number: dtype for dtype, number in _FORMATS.items()}


@final
class _Piece(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def length(self) -> int:
        return int(torch.Size(self.shape).numel())

    @property
    def planes(self) -> list[int]:
        """The lengths of its planes."""
        return [(self.length + 7) // 8] if self.dtype == torch.bool else [self.length] * self.dtype.itemsize


def piece_count(layout: Layout) -> int:
    """The number of pieces in a model's state; 0 if it has none, and then no state is ever sent."""
    return len(layout.buffers) + (layout.constants > 0)


def _pieces(layout: Layout, constants: torch.dtype) -> list[_Piece]:
    buffers = [_Piece(b.shape, getattr(torch, b.dtype)) for b in layout.buffers]
    return [_Piece((layout.constants,), constants), *buffers] if layout.constants else buffers


def encode_state(pieces: Sequence[Tensor | None], dtype: torch.dtype, level: int) -> Section:
    """The pieces to send, None for each that is not sent; `dtype` is the model's, `level` zstandard's."""
    here = bitmap_of(torch.tensor([piece is not None for piece in pieces]))
    planes = [plane for piece in pieces if piece is not None for plane in _planes(piece)]
    packed, body = pack_planes(here, planes, level)
    return Section(_FORMATS[dtype] | packed, body)


def _planes(piece: Tensor) -> list[Bytes]:
    if piece.dtype == torch.bool:
        return [np.frombuffer(bitmap_of(piece.flatten()), np.uint8)]
    raw = piece.contiguous().flatten().view(torch.uint8).numpy()
    return [np.ascontiguousarray(plane) for plane in raw.reshape(-1, piece.dtype.itemsize).T]


def decode_state(section: Section, layout: Layout) -> tuple[Tensor | None, ...]:
    """The pieces of a section, None for each that was not sent. Raises WireError where it is malformed."""
    dtype, size = _DTYPES.get(section.coding & 0x0F), (piece_count(layout) + 7) // 8
    if dtype is None or section.coding & 0xF0 & ~COMPRESSED:
        raise WireError(f"STATE: coding {section.coding} is not valid for this section")
    pieces = _pieces(layout, dtype)
    try:
        here = bits_of(bytes(section.body[:size]), len(pieces)).tolist()
    except ValueError as error:
        raise WireError(f"STATE: expected {len(pieces)} bits, one per piece") from error
    sent = [piece for piece, is_here in zip(pieces, here, strict=True) if is_here]
    try:
        lengths = [length for piece in sent for length in piece.planes]
        planes = iter(split_planes(section.body, size, lengths, packed=bool(section.coding & COMPRESSED)))
    except (ValueError, zstandard.ZstdError) as error:
        raise WireError(f"STATE: {error}") from error
    found = iter([_piece(piece, [next(planes) for _ in piece.planes]) for piece in sent])
    return tuple(next(found) if is_here else None for is_here in here)


def _piece(piece: _Piece, planes: list[Bytes]) -> Tensor:
    if piece.dtype == torch.bool:
        try:
            return bits_of(bytes(planes[0]), piece.length).view(piece.shape)
        except ValueError as error:
            raise WireError("STATE: unused bits are not 0") from error
    raw = torch.from_numpy(joined(planes, "u1"))
    values = raw.view(piece.dtype).view(piece.shape)
    if (values.is_complex() or values.is_floating_point()) and not bool(values.isfinite().all()):
        raise WireError("STATE: a value is not finite")
    return values


def from_bytes(kept: Sequence[bytes], layout: Layout) -> tuple[Tensor, ...]:
    """The pieces that a client keeps, each as the bytes of its tensor."""
    double = layout.constants > 0 and len(kept[0]) == 8 * layout.constants
    pieces = _pieces(layout, torch.float64 if double else torch.float32)
    tensors = (tensor_of(raw) for raw in kept)
    return tuple(t.view(p.dtype).view(p.shape) for t, p in zip(tensors, pieces, strict=True))


def state_digest(kept: Sequence[bytes]) -> int:
    """32 bits of xxh3 over all pieces as they are kept, one after another."""
    found = xxhash.xxh3_64()
    for raw in kept:
        found.update(raw)
    return found.intdigest() & 0xFFFFFFFF
