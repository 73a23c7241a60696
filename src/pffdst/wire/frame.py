"""The frame of every message: a versioned header, sections, one checksum.

    offset  size  field
    0       4     magic "PFFD"
    4       1     format version
    5       1     kind: 1 downlink, 2 uplink
    6       2     number of sections
    8       4     round t, signed: rounds before the first have negative numbers
    12      4     client (uplink; 0xFFFFFFFF in a downlink, which may be sent to many)
    16      4     model: checksum of the layout both sides must share
    20      8     xxh3 (64 bits) of everything else in the message
    28      8 each   section headers: tag u8, coding u8, two zero bytes, length u32
    ...           section bodies in the same order, back to back

All integers are little-endian. Nothing is executed, and nothing is allocated for a length that was not checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import final

import xxhash
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.model import Layout

__all__ = [
    "BROADCAST",
    "FIRST_SIGNAL",
    "MOST_SIGNALS",
    "Kind",
    "Message",
    "Section",
    "Tag",
    "WireError",
    "layout_digest",
    "name_of",
    "pack",
    "pack_section",
    "unpack",
    "unpack_section",
]

MAGIC = b"PFFD"
VERSION = 3
BROADCAST = 0xFFFFFFFF
_HEADER = struct.Struct("<4sBBHiIIQ")
_SECTION = struct.Struct("<BBHI")
_HASH_AT = 20
FIRST_SIGNAL, MOST_SIGNALS = 64, 64  # sections for the signals of rules (signals.py)


class WireError(Exception):
    """A payload that is not a well-formed message of this run. The text names the field."""


class Kind(IntEnum):
    """Direction of a message."""

    DOWNLINK = 1
    UPLINK = 2


class Tag(IntEnum):
    """What a section holds."""

    TRAINABLE_POSITIONS = 1
    TRAINABLE_VALUES = 2
    FROZEN_POSITIONS = 3
    FROZEN_VALUES = 4
    PARAMETERS = 5
    STATISTICS = 6
    HELD = 7
    REPORT = 8
    CHANGED_POSITIONS = 9
    MISSED_POSITIONS = 10
    MISSED_VALUES = 11
    STATE = 12


def name_of(tag: int) -> str:
    """The name of a section in error messages."""
    return Tag(tag).name if tag in tuple(Tag) else f"SIGNAL {tag - FIRST_SIGNAL}"


def _is_tag(tag: int) -> bool:
    return tag in tuple(Tag) or FIRST_SIGNAL <= tag < FIRST_SIGNAL + MOST_SIGNALS


@final
@dataclass(frozen=True)
class Section:
    """One part of a message: how its body is coded, and the body."""

    coding: int
    body: bytes | memoryview


def pack_section(section: Section | None) -> tuple[int, Tensor] | None:
    """A section for a checkpoint."""
    return None if section is None else (section.coding, tensor_of(section.body))


def unpack_section(packed: tuple[int, Tensor] | None) -> Section | None:
    """The section that `pack_section` packed."""
    return None if packed is None else Section(packed[0], bytes_of(packed[1]))


@final
@dataclass(frozen=True)
class Message:
    """A decoded frame: who sent it when, and its sections by tag."""

    kind: Kind
    t: int
    client: int
    model: int
    sections: Mapping[int, Section] = field(default_factory=dict)

    def section(self, tag: int) -> Section:
        """The section `tag`; WireError where it is missing."""
        if tag not in self.sections:
            raise WireError(f"section {name_of(tag)}: expected in a {self.kind.name} message, but it is missing")
        return self.sections[tag]


def layout_digest(layout: Layout) -> int:
    """A 32-bit checksum of the names, kinds and shapes of a model's tensors: both ends must use the same model."""
    return layout.digest


def pack(message: Message) -> bytes:
    """The bytes of a message."""
    heads = b"".join(_SECTION.pack(tag, s.coding, 0, len(s.body)) for tag, s in message.sections.items())
    bodies = [s.body for s in message.sections.values()]
    fields = (MAGIC, VERSION, message.kind, len(bodies), message.t, message.client, message.model)
    checksum = _hash(_HEADER.pack(*fields, 0), heads, *bodies)
    return b"".join((_HEADER.pack(*fields, checksum), heads, *bodies))


def _hash(header: bytes | memoryview, *rest: bytes | memoryview) -> int:
    """The checksum of a header, up to the checksum field, and of everything after it."""
    found = xxhash.xxh3_64(seed=xxhash.xxh3_64_intdigest(header[:_HASH_AT]))
    for piece in rest:
        found.update(piece)
    return found.intdigest()


def _header(payload: bytes) -> tuple[Kind, int, int, int, int]:
    """Kind, number of sections, round, client and model of a payload whose frame and checksum are valid."""
    if len(payload) < _HEADER.size:
        raise WireError(f"header: expected at least {_HEADER.size} bytes, but got {len(payload)}")
    magic, version, kind, sections, t, client, model, checksum = _HEADER.unpack_from(payload)
    if magic != MAGIC:
        raise WireError(f"magic: expected {MAGIC!r}, but got {magic!r}")
    if version != VERSION:
        raise WireError(f"version: expected {VERSION}, but got {version}")
    view = memoryview(payload)
    if _hash(view[: _HEADER.size], view[_HEADER.size :]) != checksum:
        raise WireError("checksum: the payload does not match the checksum in its header")
    if kind not in tuple(Kind):
        raise WireError(f"kind: expected 1 or 2, but got {kind}")
    return Kind(kind), sections, t, client, model


def unpack(payload: bytes) -> Message:
    """Reads a frame. Raises WireError naming the field that is wrong."""
    kind, count, t, client, model = _header(payload)
    start = _HEADER.size + count * _SECTION.size
    if start > len(payload):
        raise WireError(f"sections: {count} section headers do not fit in {len(payload)} bytes")
    view, sections = memoryview(payload), dict[int, Section]()
    for i in range(count):
        tag, coding, zero, length = _SECTION.unpack_from(payload, _HEADER.size + i * _SECTION.size)
        if not _is_tag(tag) or zero != 0 or tag in sections:
            raise WireError(f"section {i}: tag {tag} is unknown, repeated or badly padded")
        if start + length > len(payload):
            raise WireError(f"section {name_of(tag)}: length {length} runs past the end of the payload")
        sections[tag] = Section(coding, view[start : start + length])
        start += length
    if start != len(payload):
        raise WireError(f"length: {len(payload) - start} bytes follow the last section")
    return Message(kind, t, client, model, sections)
