"""Server to client: the trainable weights, and of masks and frozen weights only what this client lacks.

What a client keeps between rounds is a `Memory`. Section HELD names by crc32 what it holds once it has read a message:

    0   4   crc32 of the bitmap of the trainable positions
    4   4   crc32 of the bitmap of the frozen positions, then the coding byte and the body of their values; 0 for none

The frozen positions come before the trainable ones: both may be coded as changes to the trainable mask held before.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.wire.frame import BROADCAST, Kind, Message, Section, Tag, WireError, layout_digest, pack, unpack
from pffdst.wire.positions import (
    Known,
    decode_positions,
    encode_positions,
    from_bitmap,
    put_at_,
    to_bitmap,
)
from pffdst.wire.values import ValueCodec

__all__ = ["Broadcast", "Memory", "decode_downlink", "remember"]

_HELD = struct.Struct("<II")
_NOTHING = 0


@final
@dataclass(frozen=True)
class Memory:
    """What a client keeps: bitmaps of its trainable and frozen positions, the frozen values as they came."""

    trainable: bytes | None = None
    frozen: bytes | None = None
    frozen_values: Section | None = None


def digest(bitmap: bytes, values: Section | None = None) -> int:
    """crc32 of a mask and, for frozen weights, of their values."""
    crc = zlib.crc32(bitmap)
    return crc if values is None else zlib.crc32(values.body, zlib.crc32(bytes((values.coding,)), crc))


# ---- sending -------------------------------------------------------------------------------------------------------


@final
class Broadcast:
    """A round's model as it is sent. Values are coded once; what a client lacks besides is coded for it.

    `frozen_values` are the values of the frozen weights as they were coded when they froze. `sent` is the model that
    clients decode, which a lossy codec makes a little another than `model`.
    """

    def __init__(
        self,
        model: GlobalModel,
        t: int,
        codec: ValueCodec,
        *,
        seed: int = 0,
        frozen_values: Section | None = None,
    ) -> None:
        self._model, self._t, self._frozen_values = model, t, frozen_values
        layout = model.layout
        weights = model.weights.index_select(0, model.places)
        coded = codec.encode(weights, seed=seed)
        self._values = {
            Tag.TRAINABLE_VALUES: coded,
            Tag.PARAMETERS: codec.leftovers.encode(model.values[layout.maskable : layout.parameters]),
            Tag.STATISTICS: codec.leftovers.encode(model.values[layout.parameters :]),
        }
        self.sent = model if codec.exact else _with_weights(model, codec.decode(coded, len(weights), "values"))
        frozen = _NOTHING if frozen_values is None else digest(to_bitmap(model.frozen), frozen_values)
        self._held = Section(0, _HELD.pack(digest(to_bitmap(model.trainable)), frozen))

    def payload(
        self,
        *,
        held: Tensor | None = None,
        mask: bool = True,
        frozen: bool = True,
        moves: Sequence[bytes] | None = None,
    ) -> bytes:
        """The message to clients that lack the trainable mask (`mask`) or the frozen weights (`frozen`).

        `held` is the mask they hold, None if none; `moves`, if known, are how the mask was made from it, or afresh.
        """
        model = self._model
        sections = {Tag.HELD: self._held}
        if frozen and self._frozen_values is not None:
            nothing = torch.zeros_like(model.frozen)
            sections[Tag.FROZEN_POSITIONS] = encode_positions(model.frozen, Known(model.layout, nothing, held))
            sections[Tag.FROZEN_VALUES] = self._frozen_values
        if mask:
            known = Known(model.layout, model.frozen, held)
            sections[Tag.TRAINABLE_POSITIONS] = encode_positions(model.trainable, known, moves)
        sections |= self._values
        return pack(Message(Kind.DOWNLINK, self._t, BROADCAST, layout_digest(model.layout), sections))


def _with_weights(model: GlobalModel, weights: Tensor) -> GlobalModel:
    """The model with other trainable weights."""
    values = model.values.clone()
    put_at_(values[: model.layout.maskable], model.trainable, weights)
    return replace(model, values=values)


# ---- receiving -----------------------------------------------------------------------------------------------------


_KEPT = (Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES)
_SENT = (Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS)


def _after(message: Message, memory: Memory, layout: Layout) -> Memory:
    """What is held after a message; WireError where it is not what the server takes it to be."""
    body = message.section(Tag.HELD).body
    if len(body) != _HELD.size:
        raise WireError(f"HELD: expected {_HELD.size} bytes, but got {len(body)}")
    return _remembered(layout, memory, body, tuple(message.sections.get(tag) for tag in _KEPT))


# Clients that held the same are sent the same, in one round and in the next: it is decoded once.
@functools.lru_cache(maxsize=8)
def _remembered(layout: Layout, memory: Memory, held_body: bytes, sections: tuple[Section | None, ...]) -> Memory:
    """The memory after the sections that are kept."""
    trainable_section, frozen_section, frozen_values = sections
    trainable_digest, frozen_digest = _HELD.unpack(held_body)
    nothing = torch.zeros(layout.maskable, dtype=torch.bool)
    held = None if memory.trainable is None else from_bitmap(memory.trainable, layout.maskable, "memory")

    frozen, bitmap, values = nothing, None, None
    if frozen_digest != _NOTHING:
        bitmap, values = memory.frozen, frozen_values or memory.frozen_values
        if frozen_section is not None:
            frozen = decode_positions(frozen_section, Known(layout, nothing, held), Tag.FROZEN_POSITIONS.name)
            bitmap = to_bitmap(frozen)
        elif bitmap is not None:
            frozen = from_bitmap(bitmap, layout.maskable, "memory")
        if bitmap is None or values is None or digest(bitmap, values) != frozen_digest:
            raise WireError("HELD: this client does not hold the frozen weights the server takes it to hold")
    elif frozen_section is not None or frozen_values is not None:
        raise WireError("HELD: frozen weights were sent, but none are named")

    trainable = held
    if trainable_section is not None:
        trainable = decode_positions(trainable_section, Known(layout, frozen, held), Tag.TRAINABLE_POSITIONS.name)
    if trainable is None or digest(to_bitmap(trainable)) != trainable_digest:
        raise WireError("HELD: this client does not hold the trainable positions the server takes it to hold")
    if bool((trainable & frozen).any()):
        raise WireError("FROZEN_POSITIONS: a position is both trainable and frozen")
    return Memory(to_bitmap(trainable), bitmap, values)


def remember(payload: bytes, memory: Memory, layout: Layout) -> Memory:
    """What a client that held `memory` keeps after `payload`. Raises WireError as the client itself would."""
    return _after(unpack(payload), memory, layout)


def decode_downlink(payload: bytes, memory: Memory, layout: Layout, codec: ValueCodec) -> tuple[GlobalModel, int]:
    """The model a client starts round t from, and t. Raises WireError where anything does not fit."""
    message = unpack(payload)
    if message.kind is not Kind.DOWNLINK or message.model != layout_digest(layout):
        raise WireError("model: the message is not a downlink of this client's model")
    after = _after(message, memory, layout)
    return _model(layout, codec, after, tuple(message.section(tag) for tag in _SENT)), message.t


# Clients that lack different things are sent different messages of one model: it is made once.
@functools.lru_cache(maxsize=1)
def _model(layout: Layout, codec: ValueCodec, memory: Memory, sections: tuple[Section, ...]) -> GlobalModel:
    """The model of these masks and values. Nobody writes into its tensors."""
    assert memory.trainable is not None
    trainable = from_bitmap(memory.trainable, layout.maskable, "memory")
    frozen = torch.zeros_like(trainable)
    if memory.frozen is not None:
        frozen = from_bitmap(memory.frozen, layout.maskable, "memory")
    leftovers = codec.leftovers
    counts = (int(trainable.sum()), layout.parameters - layout.maskable, layout.total - layout.parameters)
    parts = [
        reader.decode(section, count, tag.name)
        for tag, section, reader, count in zip(_SENT, sections, (codec, leftovers, leftovers), counts, strict=True)
    ]
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1:
        raise WireError(f"values: expected one precision in a message, but got {', '.join(sorted(map(str, dtypes)))}")
    values = torch.zeros(layout.total, dtype=dtypes.pop())
    weights = values[: layout.maskable]
    put_at_(weights, trainable, parts[0])
    if memory.frozen_values is not None:
        own = codec.decode(memory.frozen_values, int(frozen.sum()), Tag.FROZEN_VALUES.name)
        put_at_(weights, frozen, own.to(values.dtype))
    values[layout.maskable :] = torch.cat(parts[1:])
    return GlobalModel(layout, values, trainable | frozen, frozen)
