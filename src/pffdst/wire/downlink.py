"""Server to client: the trainable weights, and of masks and frozen weights only what this client lacks.

What a client keeps between rounds is a `Memory`. Section HELD names by checksums what it holds once it has read a
message:

    0   4   checksum of the trainable positions: 32 bits of xxh3 of them as increasing u32
    4   4   the same of the frozen positions, mixed with that of the coding and body of their values; 0 for none

The frozen positions come before the trainable ones: both may be coded as changes to the trainable mask held before.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
import xxhash
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.wire.codecs import Codecs
from pffdst.wire.frame import BROADCAST, Kind, Message, Section, Tag, WireError, layout_digest, pack, unpack
from pffdst.wire.positions import Known, decode_positions, encode_positions
from pffdst.wire.signals import SignalCoder

__all__ = ["Broadcast", "Memory", "Received", "decode_downlink", "remember"]

_HELD = struct.Struct("<II")
_NOTHING = 0


@final
@dataclass(frozen=True)
class Memory:
    """What a client keeps: its trainable and frozen positions, and the frozen values as they came."""

    trainable: Positions | None = None
    frozen: Positions | None = None
    frozen_values: Section | None = None


class Received(NamedTuple):
    """A decoded message: the model a client starts from, the round, and the rules' signals beside it."""

    model: GlobalModel
    t: int
    signals: Mapping[str, Tensor | Positions | Chosen]


def digest(positions: Positions, values: Section | None = None) -> int:
    """The checksum of a mask and, for frozen weights, of their values."""
    if values is None:
        return positions.digest
    return xxhash.xxh3_64_intdigest(values.body, positions.digest << 8 | values.coding) & 0xFFFFFFFF


# ---- sending -------------------------------------------------------------------------------------------------------


@final
class Broadcast:
    """A round's model as it is sent. Values are coded once; what a client lacks besides is coded for it.

    `frozen_values` are the values of the frozen weights as they were coded when they froze. `sent` is the model that
    clients decode: `model` itself, but for a lossy codec. `signals` are those of `declared`.
    """

    def __init__(
        self,
        model: GlobalModel,
        t: int,
        codecs: Codecs,
        *,
        seed: int = 0,
        frozen_values: Section | None = None,
        declared: tuple[Signal, ...] = (),
        signals: Signals | None = None,
    ) -> None:
        self._model, self._t, self._frozen_values = model, t, frozen_values
        layout, parameters = model.layout, model.layout.parameters - model.layout.maskable
        coded = codecs.values.encode(model.trained, seed=seed)
        self._values: dict[int, Section] = {
            Tag.TRAINABLE_VALUES: coded,
            Tag.PARAMETERS: codecs.exact.encode(model.rest[:parameters]),
            Tag.STATISTICS: codecs.exact.encode(model.rest[parameters:]),
        }
        self.sent = model
        if not codecs.values.exact:
            decoded = codecs.values.decode(coded, len(model.trainable_at), "values")
            self.sent = model.with_trained(decoded, model.rest)
        self._values |= SignalCoder(declared, self.sent, codecs).encode(signals or {}, seed + 1)
        frozen = _NOTHING if frozen_values is None else digest(model.frozen_at, frozen_values)
        self._held = Section(0, _HELD.pack(digest(model.trainable_at), frozen))
        self._digest = layout_digest(layout)

    def payload(
        self,
        *,
        held: Positions | None = None,
        mask: bool = True,
        frozen: bool = True,
        moves: Sequence[bytes] | None = None,
    ) -> bytes:
        """The message to clients that lack the trainable mask (`mask`) or the frozen weights (`frozen`).

        `held` is the mask they hold, None if none; `moves`, if known, are how the mask was made from it, or afresh.
        """
        model = self._model
        sections: dict[int, Section] = {Tag.HELD: self._held}
        if frozen and self._frozen_values is not None:
            nothing = Positions.none(model.layout)
            sections[Tag.FROZEN_POSITIONS] = encode_positions(model.frozen_at, Known(nothing, held))
            sections[Tag.FROZEN_VALUES] = self._frozen_values
        if mask:
            known = Known(model.frozen_at, held)
            sections[Tag.TRAINABLE_POSITIONS] = encode_positions(model.trainable_at, known, moves)
        sections |= self._values
        return pack(Message(Kind.DOWNLINK, self._t, BROADCAST, self._digest, sections))


# ---- receiving -----------------------------------------------------------------------------------------------------


_KEPT = (Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES)
_SENT = (Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS)


def _after(message: Message, memory: Memory, layout: Layout) -> Memory:
    """What is held after a message; WireError where it is not what the server takes it to be."""
    body = message.section(Tag.HELD).body
    if len(body) != _HELD.size:
        raise WireError(f"HELD: expected {_HELD.size} bytes, but got {len(body)}")
    return _remembered(layout, memory, body, tuple(_own(message.sections.get(tag)) for tag in _KEPT))


def _own(section: Section | None) -> Section | None:
    """A section that outlives its message."""
    return None if section is None else Section(section.coding, bytes(section.body))


# Clients that held the same are sent the same, in one round and in the next: it is decoded once.
@functools.lru_cache(maxsize=8)
def _remembered(layout: Layout, memory: Memory, held_body: bytes, sections: tuple[Section | None, ...]) -> Memory:
    """The memory after the sections that are kept."""
    trainable_section, frozen_section, frozen_values = sections
    trainable_digest, frozen_digest = _HELD.unpack(held_body)
    nothing, held = Positions.none(layout), memory.trainable

    frozen, values = None, None
    if frozen_digest != _NOTHING:
        frozen, values = memory.frozen, frozen_values or memory.frozen_values
        if frozen_section is not None:
            frozen = decode_positions(frozen_section, Known(nothing, held), Tag.FROZEN_POSITIONS.name)
        if frozen is None or values is None or digest(frozen, values) != frozen_digest:
            raise WireError("HELD: this client does not hold the frozen weights the server takes it to hold")
    elif frozen_section is not None or frozen_values is not None:
        raise WireError("HELD: frozen weights were sent, but none are named")

    trainable = held
    if trainable_section is not None:
        trainable = decode_positions(trainable_section, Known(frozen or nothing, held), Tag.TRAINABLE_POSITIONS.name)
    if trainable is None or digest(trainable) != trainable_digest:
        raise WireError("HELD: this client does not hold the trainable positions the server takes it to hold")
    if frozen is not None and bool(trainable.inside(frozen).any()):
        raise WireError("FROZEN_POSITIONS: a position is both trainable and frozen")
    return Memory(trainable, frozen, values)


def remember(payload: bytes | Message, memory: Memory, layout: Layout) -> Memory:
    """What a client that held `memory` keeps after `payload`. Raises WireError as the client itself would."""
    return _after(payload if isinstance(payload, Message) else unpack(payload), memory, layout)


def decode_downlink(
    payload: bytes | Message, memory: Memory, layout: Layout, codecs: Codecs, declared: tuple[Signal, ...] = ()
) -> Received:
    """What a client starts a round from. Raises WireError where anything does not fit."""
    message = payload if isinstance(payload, Message) else unpack(payload)
    if message.kind is not Kind.DOWNLINK or message.model != layout_digest(layout):
        raise WireError("model: the message is not a downlink of this client's model")
    after = _after(message, memory, layout)
    model = _model(codecs, after, tuple(message.section(tag) for tag in _SENT))
    return Received(model, message.t, SignalCoder(declared, model, codecs).decode(message))


# Clients that lack different things are sent different messages of one model: it is made once.
@functools.lru_cache(maxsize=1)
def _model(codecs: Codecs, memory: Memory, sections: tuple[Section, ...]) -> GlobalModel:
    """The model of these masks and values. Nobody writes into its tensors."""
    trainable, frozen, layout = memory.trainable, memory.frozen, memory.trainable.layout  # type: ignore[union-attr]
    assert trainable is not None
    counts = (len(trainable), layout.parameters - layout.maskable, layout.total - layout.parameters)
    weights, parameters, statistics = (
        reader.decode(section, count, tag.name)
        for tag, section, reader, count in zip(
            _SENT, sections, (codecs.values, codecs.exact, codecs.exact), counts, strict=True
        )
    )
    dtypes = {weights.dtype, parameters.dtype, statistics.dtype}
    if len(dtypes) > 1:
        raise WireError(f"values: expected one precision in a message, but got {', '.join(sorted(map(str, dtypes)))}")
    rest = torch.cat([parameters, statistics])
    if frozen is None or memory.frozen_values is None:
        return GlobalModel.of(trainable, Positions.none(layout), weights, rest)
    own = codecs.values.decode(memory.frozen_values, len(frozen), Tag.FROZEN_VALUES.name).to(weights.dtype)
    alive = trainable.plus(frozen)
    held = trainable.carry(weights, alive) + frozen.carry(own, alive)
    return GlobalModel.of(alive, frozen, held, rest)
