"""Masks as bytes, whichever way is smallest for a mask and a receiver.

Both ends know the frozen positions before they speak of the trainable ones; what is frozen is never coded.

coding 0  all      every position that is not frozen: empty body
coding 1  bitmap   ceil(W / 8) bytes, position j in bit j mod 8 of byte j // 8, unused bits 0
coding 2  set      the positions, as a set in the layers of what is not frozen (sets.py)
coding 3  changed  what left the mask the receiver holds, and what joined it: a byte, 1 if the set is balanced, else 0;
                   one set in the layers of the former mask and, after them, in the layers of its free positions
coding 4  moves    how the mask was made, from the held one or from none: the number of moves, a varint, and each move

A move is one byte, 1 where positions leave, 2 where positions are drawn, 3 where both; what leaves, as a set in the
layers of the mask before it, after the set's length as a varint; the seed, u64, and per layer the number of positions
drawn, as varints. A first move without any that leave begins from no position at all.

Free is what is neither in the mask nor frozen; "in the layers of X" counts positions of X alone. Codings 2 to 4 begin
with the crc32 of the bitmap of the mask they decode to: a table or a draw that differs between two machines is found.
A draw takes, in each layer, the free positions j of least key; the key is splitmix64's output j from the seed.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.masks import Move
from pffdst.core.model import Layout
from pffdst.wire.frame import Section, WireError
from pffdst.wire.sets import decode_set, encode_set, entropy_bytes, read_varint, write_varint

__all__ = [
    "MOST_MOVES",
    "Coding",
    "Known",
    "decode_positions",
    "encode_move",
    "encode_positions",
    "from_bitmap",
    "put_at_",
    "to_bitmap",
    "values_at",
]

MOST_MOVES = 64  # in one section: a decoder's work has a bound
_CRC = struct.Struct("<I")
_SEED = struct.Struct("<Q")
_LEAVES, _DRAWS = 1, 2


class Coding(IntEnum):
    """How a position section is coded."""

    ALL = 0
    BITMAP = 1
    SET = 2
    CHANGED = 3
    MOVES = 4


@final
@dataclass(frozen=True)
class Known:
    """What both ends know beforehand: the layers, the frozen positions, and the mask [W] the receiver holds, if any."""

    layout: Layout
    frozen: Tensor
    held: Tensor | None = None

    @property
    def former(self) -> Tensor:
        """The held mask without what froze since."""
        assert self.held is not None
        return self.held & ~self.frozen


# ---- flat masks ----------------------------------------------------------------------------------------------------


def values_at(values: Tensor, mask: Tensor) -> Tensor:
    """The values [W] at the True positions of a flat bool mask [W], in order.

    The same as `values[mask]` in a sixth of the time: numpy finds the positions faster than torch does.
    """
    return values.index_select(0, _indices(mask))


def put_at_(values: Tensor, mask: Tensor, chosen: Tensor) -> None:
    """Writes `chosen` to the True positions of a flat bool mask [W]: the other way round."""
    values.index_copy_(0, _indices(mask), chosen)


def _indices(mask: Tensor) -> Tensor:
    return torch.from_numpy(_positions(mask))


def _positions(mask: Tensor) -> NDArray[np.int64]:
    return np.flatnonzero(mask.numpy())


def to_bitmap(mask: Tensor) -> bytes:
    """A flat bool mask [W] as ceil(W / 8) bytes."""
    return np.packbits(mask.numpy(), bitorder="little").tobytes()


def from_bitmap(body: bytes, length: int, name: str) -> Tensor:
    """The other way round. Raises WireError naming `name` where the bytes are not such a bitmap."""
    if len(body) != (length + 7) // 8:
        raise WireError(f"{name}: expected a bitmap of {(length + 7) // 8} bytes, but got {len(body)}")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
    if bits[length:].any():
        raise WireError(f"{name}: bits past position {length} are set")
    return torch.from_numpy(bits[:length].view(np.bool_))


# ---- encoding ------------------------------------------------------------------------------------------------------


def encode_positions(mask: Tensor, known: Known, moves: Sequence[bytes] | None = None) -> Section:
    """The mask [W] in the coding that is smallest by its entropy.

    `moves`, if given, are how the mask was made (`encode_move`): from the held one, or the first of them afresh.
    """
    if bool((mask | known.frozen).all()):
        return Section(Coding.ALL, b"")
    numbers = 2 * len(known.layout.layers)  # about what the counts of a set take
    estimates = {Coding.BITMAP: mask.numel() / 8, Coding.SET: numbers + _entropy_in(known.layout, mask, ~known.frozen)}
    if known.held is not None:
        estimates[Coding.CHANGED] = 2 * numbers + _changed_entropy(mask, known)
    if moves is not None and len(moves) <= MOST_MOVES:
        estimates[Coding.MOVES] = float(sum(map(len, moves)))
    coding = min(estimates, key=lambda c: estimates[c])
    bitmap = to_bitmap(mask)
    if coding is Coding.BITMAP:
        return Section(coding, bitmap)
    if coding is Coding.MOVES:
        assert moves is not None
        body = b"".join((write_varint(len(moves)), *moves))
    else:
        body = _BODIES[coding](mask, known)
    return Section(coding, _CRC.pack(zlib.crc32(bitmap)) + body)


def encode_move(move: Move, layout: Layout, before: Tensor) -> bytes:
    """One move of the trainable mask `before` [W]."""
    dropped, drawn = b"", b""
    if move.dropped is not None:
        leaving = encode_set(_ranks(move.dropped, before), layout.per_layer(before))
        dropped = write_varint(len(leaving)) + leaving
    if move.dropped is None or any(move.counts):
        drawn = _SEED.pack(move.seed) + b"".join(write_varint(count) for count in move.counts)
    kind = (_LEAVES if dropped else 0) | (_DRAWS if drawn else 0)
    return bytes((kind,)) + dropped + drawn


def _entropy_in(layout: Layout, chosen: Tensor, universe: Tensor) -> float:
    return entropy_bytes(layout.per_layer(chosen), layout.per_layer(universe))


def _changed_entropy(mask: Tensor, known: Known) -> float:
    former = known.former
    left, joined = _entropy_in(known.layout, former & ~mask, former), mask & ~former
    return left + _entropy_in(known.layout, joined, ~(former | known.frozen))


def _set_body(mask: Tensor, known: Known) -> bytes:
    return encode_set(_ranks(mask, ~known.frozen), known.layout.per_layer(~known.frozen))


def _changed_body(mask: Tensor, known: Known) -> bytes:
    former = known.former
    free = ~(former | known.frozen)
    left, joined = _ranks(former & ~mask, former), _ranks(mask & ~former, free)
    sizes = known.layout.per_layer(former)
    balanced = known.layout.per_layer(former & ~mask) == known.layout.per_layer(mask & ~former)
    universe = [*sizes, *known.layout.per_layer(free)]
    return bytes((balanced,)) + encode_set(np.concatenate([left, joined + sum(sizes)]), universe, balanced=balanced)


_BODIES: dict[Coding, Callable[[Tensor, Known], bytes]] = {Coding.SET: _set_body, Coding.CHANGED: _changed_body}


def _ranks(chosen: Tensor, universe: Tensor) -> NDArray[np.int64]:
    """The places of the chosen positions, all of the universe, among the universe's positions."""
    inside = chosen.numpy()
    return np.flatnonzero(inside if bool(universe.all()) else inside[universe.numpy()])


# ---- decoding ------------------------------------------------------------------------------------------------------


def decode_positions(section: Section, known: Known, name: str) -> Tensor:
    """A section back to the mask bool [W]. Raises WireError naming `name` where it is malformed."""
    if section.coding not in tuple(Coding):
        raise WireError(f"{name}: position coding {section.coding} is unknown")
    coding, body = Coding(section.coding), section.body
    if coding is Coding.ALL:
        if body:
            raise WireError(f"{name}: expected an empty body for coding 'all', but got {len(body)} bytes")
        return ~known.frozen
    if coding is Coding.BITMAP:
        mask = from_bitmap(body, known.layout.maskable, name)
    else:
        mask = _decode_checked(coding, body, known, name)
    if bool((mask & known.frozen).any()):
        raise WireError(f"{name}: a position is both trainable and frozen")
    return mask


def _decode_checked(coding: Coding, body: bytes, known: Known, name: str) -> Tensor:
    if len(body) < _CRC.size:
        raise WireError(f"{name}: expected the crc32 of the mask, but got {len(body)} bytes")
    rest = body[_CRC.size :]
    if coding is Coding.SET:
        mask = torch.zeros_like(known.frozen)
        mask[_at(~known.frozen, decode_set(rest, known.layout.per_layer(~known.frozen), name))] = True
    elif coding is Coding.CHANGED:
        mask = _decode_changed(rest, known, name)
    else:
        mask = _decode_moves(rest, known, name)
    if zlib.crc32(to_bitmap(mask)) != _CRC.unpack_from(body)[0]:
        raise WireError(f"{name}: the decoded mask does not have the checksum that was sent")
    return mask


def _decode_changed(body: bytes, known: Known, name: str) -> Tensor:
    if known.held is None:
        raise WireError(f"{name}: a change to a mask was sent to a client that holds none")
    if not body or body[0] > 1:
        raise WireError(f"{name}: expected a byte 0 or 1, but got {body[:1]!r}")
    former = known.former
    free = ~(former | known.frozen)
    sizes = known.layout.per_layer(former)
    places = decode_set(body[1:], [*sizes, *known.layout.per_layer(free)], name, balanced=body[0] == 1)
    cut = np.searchsorted(places, sum(sizes))
    mask = former.clone()
    mask[_at(former, places[:cut])] = False
    mask[_at(free, places[cut:] - sum(sizes))] = True
    return mask


def _decode_moves(body: bytes, known: Known, name: str) -> Tensor:
    view = memoryview(body)
    count, at = read_varint(view, 0, name)
    if not 1 <= count <= MOST_MOVES:
        raise WireError(f"{name}: expected 1 to {MOST_MOVES} moves, but got {count}")
    moves = list[bytes]()
    for _ in range(count):
        end = _end_of_move(view, at, len(known.layout.layers), name)
        moves.append(body[at:end])
        at = end
    if at != len(body):
        raise WireError(f"{name}: {len(body) - at} bytes follow the last move")
    former = torch.zeros_like(known.frozen)
    if moves[0][0] & _LEAVES:
        if known.held is None:
            raise WireError(f"{name}: a change to a mask was sent to a client that holds none")
        former = known.former
    bitmap, frozen = to_bitmap(former), to_bitmap(known.frozen)
    for move in moves:
        bitmap = _moved(known.layout, bitmap, frozen, move, name)
    return from_bitmap(bitmap, known.layout.maskable, name)


def _end_of_move(view: memoryview, at: int, layers: int, name: str) -> int:
    """Where the move that begins at `at` ends. WireError where it does not."""
    if at >= len(view) or not 1 <= view[at] <= (_LEAVES | _DRAWS):
        raise WireError(f"{name}: expected a move, but got {bytes(view[at : at + 1])!r}")
    kind, at = view[at], at + 1
    if kind & _LEAVES:
        length, at = read_varint(view, at, name)
        at += length
    if kind & _DRAWS:
        at += _SEED.size
        for _ in range(layers):
            _, at = read_varint(view, at, name)
    if at > len(view):
        raise WireError(f"{name}: the body ends inside a move")
    return at


# Clients that were away for different times are sent different moves to the same masks: each is made once.
@functools.lru_cache(maxsize=8)
def _moved(layout: Layout, before: bytes, frozen: bytes, body: bytes, name: str) -> bytes:
    """The mask after one whole move of the mask `before`; masks are bitmaps."""
    mask, blocked = (from_bitmap(bitmap, layout.maskable, name) for bitmap in (before, frozen))
    view, at, dropped = memoryview(body), 1, torch.zeros_like(mask)
    if body[0] & _LEAVES:
        length, at = read_varint(view, at, name)
        dropped[_at(mask, decode_set(body[at : at + length], layout.per_layer(mask), name))] = True
        at += length
    counts, seed = [0] * len(layout.layers), 0
    if body[0] & _DRAWS:
        (seed,) = _SEED.unpack_from(body, at)
        at += _SEED.size
        for i in range(len(counts)):
            counts[i], at = read_varint(view, at, name)
    try:
        return to_bitmap(Move(dropped, tuple(counts), seed).apply(layout, mask, blocked))
    except ValueError as error:
        raise WireError(f"{name}: {error}") from error


def _at(universe: Tensor, places: NDArray[np.int64]) -> Tensor:
    """The positions that lie at these places among the universe's."""
    return torch.from_numpy(places if bool(universe.all()) else _positions(universe)[places])
