"""Masks as bytes, in whichever coding is smallest for a mask and a receiver.

Both ends know the frozen positions before the trainable ones are coded; frozen positions are never coded.

coding 0  all      every position that is not frozen: empty body
coding 1  bitmap   ceil(W / 8) bytes, position j in bit j mod 8 of byte j // 8, unused bits 0
coding 2  set      the positions, as a set in the layers of what is not frozen (sets.py)
coding 3  changed  what left the mask the receiver holds, and what joined it: a byte, 1 if the set is balanced, else 0;
                   one set in the layers of the former mask and, after them, in the layers of its free positions
coding 4  moves    how the mask was made, from the held one or from none: the number of moves, a varint, then each move

A move is one byte: 1 if positions leave, 2 if positions are drawn, 3 if both. Then come the positions that leave, as a
set in the layers of the mask before the move, preceded by the set's length as a varint; then the seed, u64, and the
number of positions drawn per layer, as varints. A first move in which nothing leaves starts from an empty mask.

A position is free if it is neither in the mask nor frozen; "in the layers of X" counts only positions of X. Codings 2
to 4 begin with the checksum of the mask they decode to, 32 bits of xxh3 of its positions as increasing u32, so that a
table or a draw that differs between two machines is detected.
In each layer a draw takes the free positions j with the smallest keys; the key is splitmix64's output j from the seed.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from pffdst.core.masks import Move
from pffdst.core.model import Layout
from pffdst.core.positions import Positions, bits_of
from pffdst.wire.frame import Section, WireError
from pffdst.wire.sets import decode_set, encode_set, entropy_bytes, read_varint, write_varint

__all__ = [
    "MOST_MOVES",
    "Coding",
    "Known",
    "at_outside",
    "decode_positions",
    "encode_move",
    "encode_positions",
    "places_outside",
    "positions_of",
]

MOST_MOVES = 64  # per section, to bound a decoder's work
_CHECKSUM = struct.Struct("<I")
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
    """What both ends already know: the barred (frozen) positions, and the mask the receiver holds, if any."""

    barred: Positions
    held: Positions | None = None

    @property
    def layout(self) -> Layout:
        """The layers."""
        return self.barred.layout

    @property
    def former(self) -> Positions:
        """The held mask without the positions frozen since."""
        assert self.held is not None
        return self.held.without(self.barred)

    @property
    def free(self) -> tuple[int, ...]:
        """How many positions of each layer are not barred."""
        return _room(self.layout, self.barred)


def _room(layout: Layout, taken: Positions) -> tuple[int, ...]:
    return tuple(e.size - n for e, n in zip(layout.layers, taken.counts, strict=True))


# ---- places among others -------------------------------------------------------------------------------------------


def places_in(chosen: Positions, universe: Positions) -> NDArray[np.int64]:
    """The indices of the chosen positions, all in the universe, among the universe's positions."""
    if universe.everything:
        return chosen.index.numpy()
    return np.searchsorted(universe.index.numpy(), chosen.index.numpy())


def places_outside(chosen: Positions, taken: Positions) -> NDArray[np.int64]:
    """The indices of the chosen positions, none of them taken, among those that are not taken. O(chosen + taken)."""
    own = chosen.index.numpy()
    return own if len(taken) == 0 else own - np.searchsorted(taken.index.numpy(), own)


def at_outside(places: NDArray[np.int64], taken: Positions) -> NDArray[np.int64]:
    """The positions at these indices among those that are not taken: the inverse of `places_outside`."""
    if len(taken) == 0:
        return places
    # there are index[i] - i free positions before the i-th taken one
    free_before = taken.index.numpy() - np.arange(len(taken))
    return places + np.searchsorted(free_before, places, side="right")


# ---- encoding ------------------------------------------------------------------------------------------------------


def encode_positions(mask: Positions, known: Known, moves: Sequence[bytes] | None = None) -> Section:
    """The mask in the coding with the lowest entropy.

    `moves`, if given, say how the mask was made (`encode_move`): from the held one, or from scratch by the first move.
    """
    layout = known.layout
    if len(mask) + len(known.barred) == layout.maskable:
        return Section(Coding.ALL, b"")
    numbers = 2 * len(layout.layers)  # about the size of a set's counts
    estimates = {
        Coding.BITMAP: layout.maskable / 8,
        Coding.SET: numbers + entropy_bytes(mask.counts, known.free),
    }
    change = None if known.held is None else _change(mask, known)
    if change is not None:
        estimates[Coding.CHANGED] = 2 * numbers + change.entropy
    if moves is not None and len(moves) <= MOST_MOVES:
        estimates[Coding.MOVES] = float(sum(map(len, moves)))
    coding = min(estimates, key=lambda c: estimates[c])
    if coding is Coding.BITMAP:
        return Section(coding, mask.bitmap)
    if coding is Coding.MOVES:
        assert moves is not None
        body = b"".join((write_varint(len(moves)), *moves))
    elif coding is Coding.CHANGED:
        assert change is not None
        body = change.body
    else:
        body = encode_set(places_outside(mask, known.barred), known.free)
    return Section(coding, _CHECKSUM.pack(mask.digest) + body)


def encode_move(move: Move, before: Positions) -> bytes:
    """One move of the trainable mask `before`."""
    dropped, drawn = b"", b""
    if move.dropped is not None:
        leaving = encode_set(places_in(move.dropped, before), before.counts)
        dropped = write_varint(len(leaving)) + leaving
    if move.dropped is None or any(move.counts):
        drawn = _SEED.pack(move.seed) + b"".join(write_varint(count) for count in move.counts)
    kind = (_LEAVES if dropped else 0) | (_DRAWS if drawn else 0)
    return bytes((kind,)) + dropped + drawn


@final
@dataclass(frozen=True)
class _Change:
    """The former mask, what left it, what joined it, and what was not free to join it."""

    former: Positions
    left: Positions
    joined: Positions
    taken: Positions

    @property
    def free(self) -> tuple[int, ...]:
        """How many positions of each layer were free to join."""
        return _room(self.former.layout, self.taken)

    @property
    def entropy(self) -> float:
        """The entropy of the change, in bytes."""
        return entropy_bytes(self.left.counts, self.former.counts) + entropy_bytes(self.joined.counts, self.free)

    @property
    def body(self) -> bytes:
        """Coding 3."""
        balanced = self.left.counts == self.joined.counts
        left, joined = places_in(self.left, self.former), places_outside(self.joined, self.taken)
        both = np.concatenate([left, joined + len(self.former)])
        return bytes((balanced,)) + encode_set(both, [*self.former.counts, *self.free], balanced=balanced)


def _change(mask: Positions, known: Known) -> _Change:
    former = known.former
    return _Change(former, former.without(mask), mask.without(former), former.plus(known.barred))


# ---- decoding ------------------------------------------------------------------------------------------------------


def decode_positions(section: Section, known: Known, name: str) -> Positions:
    """A section back to the mask. Raises WireError naming `name` where it is malformed."""
    if section.coding not in tuple(Coding):
        raise WireError(f"{name}: position coding {section.coding} is unknown")
    coding, body = Coding(section.coding), bytes(section.body)
    if coding is Coding.ALL:
        if body:
            raise WireError(f"{name}: expected an empty body for coding 'all', but got {len(body)} bytes")
        return known.barred.complement()
    if coding is Coding.BITMAP:
        mask = positions_of(body, known.layout, name)
    else:
        mask = _decode_checked(coding, body, known, name)
    if bool(mask.inside(known.barred).any()):
        raise WireError(f"{name}: a position is both trainable and frozen")
    return mask


def positions_of(bitmap: bytes, layout: Layout, name: str) -> Positions:
    """The set of a bitmap. Raises WireError naming `name` where the bytes are not one."""
    try:
        return Positions(layout, bits=bits_of(bitmap, layout.maskable))
    except ValueError as error:
        raise WireError(f"{name}: {error}") from error


def _decode_checked(coding: Coding, body: bytes, known: Known, name: str) -> Positions:
    if len(body) < _CHECKSUM.size:
        raise WireError(f"{name}: expected the checksum of the mask, but got {len(body)} bytes")
    rest = body[_CHECKSUM.size :]
    if coding is Coding.SET:
        places = decode_set(rest, known.free, name)
        mask = Positions(known.layout, index=torch.from_numpy(at_outside(places, known.barred)))
    elif coding is Coding.CHANGED:
        mask = _decode_changed(rest, known, name)
    else:
        mask = _decode_moves(rest, known, name)
    if mask.digest != _CHECKSUM.unpack_from(body)[0]:
        raise WireError(f"{name}: the decoded mask does not match the checksum that was sent")
    return mask


def _decode_changed(body: bytes, known: Known, name: str) -> Positions:
    if known.held is None:
        raise WireError(f"{name}: a change to a mask was sent to a client that holds none")
    if not body or body[0] > 1:
        raise WireError(f"{name}: expected a byte 0 or 1, but got {body[:1]!r}")
    former = known.former
    taken, size = former.plus(known.barred), len(former)
    universe = [*former.counts, *_room(known.layout, taken)]
    places = decode_set(body[1:], universe, name, balanced=body[0] == 1)
    cut = np.searchsorted(places, size)
    left = Positions(known.layout, index=former.index[torch.from_numpy(places[:cut])])
    joined = Positions(known.layout, index=torch.from_numpy(at_outside(places[cut:] - size, taken)))
    return former.without(left).plus(joined)


def _decode_moves(body: bytes, known: Known, name: str) -> Positions:
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
    former = Positions.none(known.layout)
    if moves[0][0] & _LEAVES:
        if known.held is None:
            raise WireError(f"{name}: a change to a mask was sent to a client that holds none")
        former = known.former
    bitmap, barred = former.bitmap, known.barred.bitmap
    for move in moves:
        bitmap = _moved(known.layout, bitmap, barred, move, name)
    return positions_of(bitmap, known.layout, name)


def _end_of_move(view: memoryview, at: int, layers: int, name: str) -> int:
    """Where the move that begins at `at` ends. WireError if it is cut off."""
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


# Clients that were away for different times are sent different moves to the same masks: each is computed once.
@functools.lru_cache(maxsize=8)
def _moved(layout: Layout, before: bytes, barred: bytes, body: bytes, name: str) -> bytes:
    """The mask after one whole move of the mask `before`; masks are bitmaps."""
    mask, blocked = (positions_of(bitmap, layout, name) for bitmap in (before, barred))
    view, at, dropped = memoryview(body), 1, Positions.none(layout)
    if body[0] & _LEAVES:
        length, at = read_varint(view, at, name)
        places = decode_set(body[at : at + length], mask.counts, name)
        dropped = Positions(layout, index=mask.index[torch.from_numpy(places)])
        at += length
    counts, seed = [0] * len(layout.layers), 0
    if body[0] & _DRAWS:
        (seed,) = _SEED.unpack_from(body, at)
        at += _SEED.size
        for i in range(len(counts)):
            counts[i], at = read_varint(view, at, name)
    try:
        return Move(dropped, tuple(counts), seed).apply(mask, blocked).bitmap
    except ValueError as error:
        raise WireError(f"{name}: {error}") from error
