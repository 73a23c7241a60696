"""Server to client: the trainable weights, and of masks and frozen weights only what this client lacks.

What a client keeps between rounds is a `Memory`: the position section of the trainable set it was last sent, and the
positions and values of the frozen weights. A message names by crc32 what it takes the client to hold (section HELD).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import final

import torch

from pffdst.state import GlobalModel, Layout
from pffdst.wire.messages import BROADCAST, Kind, Message, Section, Tag, WireError, layout_digest, pack, unpack
from pffdst.wire.positions import decode_positions, encode_positions, put_at_, values_at
from pffdst.wire.values import ValueCodec

__all__ = ["Memory", "decode_downlink", "encode_downlink", "remember"]

_HELD = struct.Struct("<II")
_NOTHING = 0


@final
@dataclass(frozen=True)
class Memory:
    """What a client keeps: sections as they arrived, None where it holds none."""

    trainable: Section | None = None
    frozen_positions: Section | None = None
    frozen_values: Section | None = None


def digest(*sections: Section | None) -> int:
    """crc32 over codings and bodies; 0 where nothing is held."""
    crc = _NOTHING
    for section in sections:
        if section is not None:
            crc = zlib.crc32(section.body, zlib.crc32(bytes((section.coding,)), crc))
    return crc


def encode_downlink(model: GlobalModel, t: int, codec: ValueCodec, *, mask: bool, frozen: bool) -> bytes:
    """The message of round t to clients that lack the trainable positions (`mask`) or the frozen weights (`frozen`)."""
    layout, trainable = model.layout, encode_positions(model.trainable)
    sections: dict[Tag, Section] = {}
    frozen_sections: tuple[Section, ...] = ()
    if bool(model.frozen.any()):
        frozen_sections = (encode_positions(model.frozen), codec.encode(values_at(model.weights, model.frozen)))
    sections[Tag.HELD] = Section(0, _HELD.pack(digest(trainable), digest(*frozen_sections)))
    if mask:
        sections[Tag.TRAINABLE_POSITIONS] = trainable
    if frozen and frozen_sections:
        sections[Tag.FROZEN_POSITIONS], sections[Tag.FROZEN_VALUES] = frozen_sections
    sections[Tag.TRAINABLE_VALUES] = codec.encode(values_at(model.weights, model.trainable))
    sections[Tag.PARAMETERS] = codec.encode(model.values[layout.maskable : layout.parameters])
    sections[Tag.STATISTICS] = codec.encode(model.values[layout.parameters :])
    return pack(Message(Kind.DOWNLINK, t, BROADCAST, layout_digest(layout), sections))


def _remembered(message: Message, memory: Memory) -> Memory:
    """The memory after a message; WireError where the client does not hold what the server takes it to hold."""
    body = message.section(Tag.HELD).body
    if len(body) != _HELD.size:
        raise WireError(f"HELD: expected {_HELD.size} bytes, but got {len(body)}")
    trainable_digest, frozen_digest = _HELD.unpack(body)
    parts = message.sections
    after = Memory(
        parts.get(Tag.TRAINABLE_POSITIONS, memory.trainable),
        parts.get(Tag.FROZEN_POSITIONS, memory.frozen_positions),
        parts.get(Tag.FROZEN_VALUES, memory.frozen_values),
    )
    if after.trainable is None or digest(after.trainable) != trainable_digest:
        raise WireError("HELD: this client does not hold the trainable positions the server takes it to hold")
    if frozen_digest == _NOTHING:
        return Memory(after.trainable)
    frozen_sections = (after.frozen_positions, after.frozen_values)
    if None in frozen_sections or digest(*frozen_sections) != frozen_digest:
        raise WireError("HELD: this client does not hold the frozen weights the server takes it to hold")
    return after


def remember(payload: bytes, memory: Memory) -> Memory:
    """What a client that held `memory` keeps after `payload`."""
    return _remembered(unpack(payload), memory)


def decode_downlink(payload: bytes, memory: Memory, layout: Layout, codec: ValueCodec) -> tuple[GlobalModel, int]:
    """The model a client starts round t from, and t. Raises WireError where anything does not fit."""
    message = unpack(payload)
    if message.kind is not Kind.DOWNLINK or message.model != layout_digest(layout):
        raise WireError("model: the message is not a downlink of this client's model")
    held = _remembered(message, memory)
    assert held.trainable is not None  # _remembered raised otherwise
    trainable = decode_positions(held.trainable, layout.maskable, "TRAINABLE_POSITIONS")
    frozen = torch.zeros_like(trainable)
    if held.frozen_positions is not None:
        frozen = decode_positions(held.frozen_positions, layout.maskable, "FROZEN_POSITIONS")
    if bool((trainable & frozen).any()):
        raise WireError("FROZEN_POSITIONS: a position is both trainable and frozen")
    parts = {
        tag: codec.decode(message.section(tag), count, tag.name)
        for tag, count in (
            (Tag.TRAINABLE_VALUES, int(trainable.sum())),
            (Tag.PARAMETERS, layout.parameters - layout.maskable),
            (Tag.STATISTICS, layout.total - layout.parameters),
        )
    }
    if held.frozen_values is not None:
        parts[Tag.FROZEN_VALUES] = codec.decode(held.frozen_values, int(frozen.sum()), "FROZEN_VALUES")
    dtypes = {part.dtype for part in parts.values()}
    if len(dtypes) > 1:
        raise WireError(f"values: expected one precision in a message, but got {', '.join(sorted(map(str, dtypes)))}")
    values = torch.zeros(layout.total, dtype=dtypes.pop())
    weights = values[: layout.maskable]
    put_at_(weights, trainable, parts[Tag.TRAINABLE_VALUES])
    if Tag.FROZEN_VALUES in parts:
        put_at_(weights, frozen, parts[Tag.FROZEN_VALUES])
    values[layout.maskable : layout.parameters] = parts[Tag.PARAMETERS]
    values[layout.parameters :] = parts[Tag.STATISTICS]
    return GlobalModel(layout, values, trainable | frozen, frozen), message.t
