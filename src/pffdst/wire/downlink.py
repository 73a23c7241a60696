"""Server to client: the trainable weights, plus the masks and frozen weights that this client lacks.

What a client keeps between rounds is a `Memory`. Section HELD gives checksums of what a client holds once it has read
the message:

    0   4   checksum of the trainable positions: 32 bits of xxh3 of them as increasing u32
    4   4   the same for the frozen positions, mixed with that of the coding and body of their values; 0 for none
    8   4   the same for the weights that a client keeps, if it keeps them
    .   4   the same for its constants and buffers, if the model has any

If clients keep the weights of a dense model, TRAINABLE_VALUES are those that changed since the previous download, at
CHANGED_POSITIONS. MISSED_VALUES, exact, are those that changed earlier, but since the client's own last download, at
MISSED_POSITIONS. Both sets are in the layers of all positions (sets.py). What is not trainable is frozen for now.

The frozen positions come before the trainable ones: both may be coded as changes to the trainable mask held before.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
import torch
import xxhash
from torch import Tensor

from pffdst.core.blobs import bytes_of
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.core.state import pieces_of
from pffdst.wire.codecs import Codecs
from pffdst.wire.frame import (
    BROADCAST,
    FIRST_SIGNAL,
    Kind,
    Message,
    Section,
    Tag,
    WireError,
    layout_digest,
    name_of,
    pack,
    unpack,
)
from pffdst.wire.positions import Known, decode_positions, encode_positions
from pffdst.wire.sets import decode_set, encode_set
from pffdst.wire.signals import SignalCoder
from pffdst.wire.state import decode_state, encode_state, from_bytes, piece_count, state_digest

__all__ = ["Broadcast", "Changes", "Memory", "Received", "decode_downlink", "remember"]

_HELD, _DIGEST = struct.Struct("<II"), struct.Struct("<I")
_NOTHING = 0


@final
@dataclass(frozen=True)
class Memory:
    """What a client keeps: its trainable and frozen positions, and the frozen values as received.

    `weights` are all maskable ones [W], for a method that only sends changes; `state` are the constants and buffers of
    the model, each as bytes.
    """

    trainable: Positions | None = None
    frozen: Positions | None = None
    frozen_values: Section | None = None
    weights: bytes | None = None
    state: tuple[bytes, ...] | None = None


class Received(NamedTuple):
    """A decoded message: the model a client starts from, the round, the rules' signals, and the model's buffers."""

    model: GlobalModel
    t: int
    signals: Mapping[str, Tensor | Positions | Chosen]
    buffers: tuple[Tensor, ...] = ()


def digest(positions: Positions, values: Section | None = None) -> int:
    """The checksum of a mask and, for frozen weights, of their values."""
    if values is None:
        return positions.digest
    return xxhash.xxh3_64_intdigest(values.body, positions.digest << 8 | values.coding) & 0xFFFFFFFF


@final
@dataclass(frozen=True, eq=False)
class Changes:
    """The positions `at` that a download sends to every client, and the weights [W] that clients held `before` it."""

    at: Positions
    before: Tensor


# ---- sending -------------------------------------------------------------------------------------------------------


@final
class Broadcast:
    """A round's model as it is sent. Values are coded once; whatever else a client lacks is coded for that client.

    `frozen_values` are the values of the frozen weights as they were coded when they froze. `sent` is the model that
    clients decode: `model` itself, unless the codec is lossy. `signals` match `declared`, `buffers` the layout.
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
        changes: Changes | None = None,
        buffers: Sequence[Tensor] = (),
    ) -> None:
        self._model, self._t, self._frozen_values, self._codecs = model, t, frozen_values, codecs
        layout, state = model.layout, pieces_of(model, buffers)
        parameters, statistics, _ = layout.parts_of(model.rest)
        values = model.trained if changes is None else changes.at.gather(model.weights)
        coded = codecs.values.encode(values, seed=seed)
        self._values: dict[int, Section] = {
            Tag.TRAINABLE_VALUES: coded,
            Tag.PARAMETERS: codecs.exact.encode(parameters),
            Tag.STATISTICS: codecs.exact.encode(statistics),
        }
        self.sent = model
        if changes is not None:
            self._values[Tag.CHANGED_POSITIONS] = _set(changes.at)
            self.sent = _changed(model, changes, codecs.values.decode(coded, len(changes.at), "values"))
        elif not codecs.values.exact:
            decoded = codecs.values.decode(coded, len(model.trainable_at), "values")
            self.sent = model.with_trained(decoded, model.rest)
        self._values |= SignalCoder(declared, self.sent, codecs).encode(signals or {}, seed + 1)
        frozen = _NOTHING if frozen_values is None else digest(model.frozen_at, frozen_values)
        kept = b"" if changes is None else _DIGEST.pack(_digest_of(bytes_of(self.sent.weights)))
        kept += _DIGEST.pack(state_digest([bytes_of(piece) for piece in state])) if state else b""
        self._state = state
        self._held = Section(0, _HELD.pack(digest(model.trainable_at), frozen) + kept)
        self._digest = layout_digest(layout)
        # what is frozen for now is exactly what the receiver learns from the mask
        self._barred = model.frozen_at if changes is None else Positions.none(layout)

    def payload(
        self,
        *,
        held: Positions | None = None,
        mask: bool = True,
        frozen: bool = True,
        moves: Sequence[bytes] | None = None,
        missed: Positions | None = None,
        state: Sequence[int] | None = None,
    ) -> bytes:
        """The message to clients that lack the trainable mask (`mask`) or the frozen weights (`frozen`).

        `held` is the mask they hold, None if none; `moves`, if known, say how the mask was made, from it or from
        scratch. `missed` are the weights that they lack from earlier downloads; `state` are the pieces of the model's
        state that they lack (None: all).
        """
        model = self._model
        sections: dict[int, Section] = {Tag.HELD: self._held}
        if frozen and self._frozen_values is not None:
            nothing = Positions.none(model.layout)
            sections[Tag.FROZEN_POSITIONS] = encode_positions(model.frozen_at, Known(nothing, held))
            sections[Tag.FROZEN_VALUES] = self._frozen_values
        if mask:
            known = Known(self._barred, held)
            sections[Tag.TRAINABLE_POSITIONS] = encode_positions(model.trainable_at, known, moves)
        sections |= self._values
        if missed is not None and len(missed):
            sections[Tag.MISSED_POSITIONS] = _set(missed)
            sections[Tag.MISSED_VALUES] = self._codecs.exact.encode(missed.gather(self.sent.weights))
        lacking = range(len(self._state)) if state is None else state
        if lacking:
            pieces = [piece if i in lacking else None for i, piece in enumerate(self._state)]
            sections[Tag.STATE] = encode_state(pieces, model.dtype, self._codecs.exact.level)
        return pack(Message(Kind.DOWNLINK, self._t, BROADCAST, self._digest, sections))


def _changed(model: GlobalModel, changes: Changes, values: Tensor) -> GlobalModel:
    """The dense model as clients hold it after receiving the `values` of the changes."""
    weights = changes.before.index_copy(0, changes.at.index, values)
    return model.with_values(torch.cat([weights, model.rest]))


def _set(at: Positions) -> Section:
    return Section(0, encode_set(at.index.numpy(), [e.size for e in at.layout.layers]))


# ---- receiving -----------------------------------------------------------------------------------------------------


_KEPT = (Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES)
_CHANGES = (Tag.CHANGED_POSITIONS, Tag.TRAINABLE_VALUES, Tag.MISSED_POSITIONS, Tag.MISSED_VALUES)
_SENT = (Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS)


def _after(message: Message, memory: Memory, layout: Layout, codecs: Codecs) -> Memory:
    """What a client holds after a message; WireError where that is not what the server expects."""
    body = message.section(Tag.HELD).body
    keeps, has_state = Tag.CHANGED_POSITIONS in message.sections, piece_count(layout) > 0
    size = _HELD.size + _DIGEST.size * (keeps + has_state)
    if len(body) != size:
        raise WireError(f"HELD: expected {size} bytes, but got {len(body)}")
    masks, last = replace(memory, weights=None, state=None), bytes(body[-_DIGEST.size :])
    after = _remembered(
        layout, masks, bytes(body[: _HELD.size]), tuple(_own(message.sections.get(tag)) for tag in _KEPT)
    )
    if has_state:
        after = replace(after, state=_state(layout, memory.state, last, _own(message.sections.get(Tag.STATE))))
    if not keeps:
        return after
    changes, checksum = tuple(_own(message.sections.get(tag)) for tag in _CHANGES), bytes(body[_HELD.size :][:4])
    return replace(after, weights=_weights(layout, memory.weights, checksum, changes, codecs))


@functools.lru_cache(maxsize=8)
def _state(
    layout: Layout, held: tuple[bytes, ...] | None, checksum: bytes, section: Section | None
) -> tuple[bytes, ...]:
    """The constants and buffers after a download: those held, updated with those sent."""
    kept = list(held or [b""] * piece_count(layout))
    if section is not None:
        for i, piece in enumerate(decode_state(section, layout)):
            kept[i] = kept[i] if piece is None else bytes_of(piece)
    if _DIGEST.unpack(checksum)[0] != state_digest(kept):
        raise WireError("HELD: this client does not hold the constants and buffers the server expects")
    return tuple(kept)


def _own(section: Section | None) -> Section | None:
    """A section that outlives its message."""
    return None if section is None else Section(section.coding, bytes(section.body))


def _digest_of(weights: bytes) -> int:
    return xxhash.xxh3_64_intdigest(weights) & 0xFFFFFFFF


@functools.lru_cache(maxsize=8)
def _weights(
    layout: Layout, held: bytes | None, checksum: bytes, sections: tuple[Section | None, ...], codecs: Codecs
) -> bytes:
    """The weights after a download: those held, updated with what was missed and what changed."""
    changed, values, missed, missed_values = sections
    parts = []
    for at, section, codec in ((missed, missed_values, codecs.exact), (changed, values, codecs.values)):
        if at is not None and section is not None:
            places = torch.from_numpy(decode_set(bytes(at.body), [e.size for e in layout.layers], "CHANGED_POSITIONS"))
            parts.append((places, codec.decode(section, len(places), "CHANGED_VALUES")))
    dtype = parts[-1][1].dtype
    weights = torch.zeros(layout.maskable, dtype=dtype) if held is None else _of_bytes(held, layout)
    for places, new in parts:
        weights = weights.index_copy(0, places, new.to(dtype))
    found = bytes_of(weights)
    if _DIGEST.unpack(checksum)[0] != _digest_of(found):
        raise WireError("HELD: this client does not hold the weights the server expects")
    return found


def _of_bytes(weights: bytes, layout: Layout) -> Tensor:
    """The inverse of `bytes_of`."""
    dtype = np.float32 if len(weights) == 4 * layout.maskable else np.float64
    return torch.from_numpy(np.frombuffer(weights, dtype).copy())


# Clients that held the same are sent the same, in this round and the next, so it is decoded once.
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
            raise WireError("HELD: this client does not hold the frozen weights the server expects")
    elif frozen_section is not None or frozen_values is not None:
        raise WireError("HELD: frozen weights were sent, but none are expected")

    trainable = held
    if trainable_section is not None:
        trainable = decode_positions(trainable_section, Known(frozen or nothing, held), Tag.TRAINABLE_POSITIONS.name)
    if trainable is None or digest(trainable) != trainable_digest:
        raise WireError("HELD: this client does not hold the trainable positions the server expects")
    if frozen is not None and bool(trainable.inside(frozen).any()):
        raise WireError("FROZEN_POSITIONS: a position is both trainable and frozen")
    return Memory(trainable, frozen, values)


def remember(payload: bytes | Message, memory: Memory, layout: Layout, codecs: Codecs) -> Memory:
    """What a client that held `memory` keeps after `payload`. Raises WireError as the client itself would."""
    return _after(payload if isinstance(payload, Message) else unpack(payload), memory, layout, codecs)


def decode_downlink(
    payload: bytes | Message, memory: Memory, layout: Layout, codecs: Codecs, declared: tuple[Signal, ...] = ()
) -> Received:
    """What a client starts a round from. Raises WireError where anything is inconsistent."""
    message = payload if isinstance(payload, Message) else unpack(payload)
    if message.kind is not Kind.DOWNLINK or message.model != layout_digest(layout):
        raise WireError("model: the message is not a downlink for this client's model")
    _check_sections(message, layout, declared)
    after = _after(message, memory, layout, codecs)
    model, buffers = _model(codecs, after, tuple(message.section(tag) for tag in _SENT))
    return Received(model, message.t, SignalCoder(declared, model, codecs).decode(message), buffers)


def _check_sections(message: Message, layout: Layout, declared: tuple[Signal, ...]) -> None:
    """Refuses sections that a downlink of this round may not have; a missing one is reported when it is read."""
    known = {Tag.HELD, *_KEPT, *_SENT, *_CHANGES, *range(FIRST_SIGNAL, FIRST_SIGNAL + len(declared))}
    known |= {Tag.STATE} if piece_count(layout) else set()
    if more := sorted(set(message.sections) - known):
        raise WireError(f"sections: {', '.join(map(name_of, more))} is not expected in this round")


# Clients that lack different things are sent different messages for the same model, so it is built once.
@functools.lru_cache(maxsize=1)
def _model(codecs: Codecs, memory: Memory, sections: tuple[Section, ...]) -> tuple[GlobalModel, tuple[Tensor, ...]]:
    """The model with these masks and values, and its buffers. Its tensors are never written to."""
    trainable, frozen, layout = memory.trainable, memory.frozen, memory.trainable.layout  # type: ignore[union-attr]
    assert trainable is not None
    rest, buffers = _rest(codecs, memory.state, sections[1:], layout)
    if memory.weights is not None:
        weights = _of_bytes(memory.weights, layout)
        return GlobalModel.of(Positions.all(layout), trainable.complement(), weights, rest), buffers
    weights = codecs.values.decode(sections[0], len(trainable), _SENT[0].name)
    if weights.dtype != rest.dtype:
        raise WireError(f"values: expected one precision in a message, but got {weights.dtype} and {rest.dtype}")
    if frozen is None or memory.frozen_values is None:
        return GlobalModel.of(trainable, Positions.none(layout), weights, rest), buffers
    own = codecs.values.decode(memory.frozen_values, len(frozen), Tag.FROZEN_VALUES.name).to(weights.dtype)
    alive = trainable.plus(frozen)
    held = trainable.carry(weights, alive) + frozen.carry(own, alive)
    return GlobalModel.of(alive, frozen, held, rest), buffers


def _rest(
    codecs: Codecs, state: tuple[bytes, ...] | None, sections: tuple[Section, ...], layout: Layout
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What is not maskable, [N - W], and the buffers."""
    parts = [
        codecs.exact.decode(section, count, tag.name)
        for tag, section, count in zip(_SENT[1:], sections, layout.rest[:2], strict=True)
    ]
    pieces = () if state is None else from_bytes(state, layout)
    if layout.constants:
        parts.append(pieces[0])
    if len(dtypes := {part.dtype for part in parts}) > 1:
        raise WireError(f"values: expected one precision in a message, but got {', '.join(sorted(map(str, dtypes)))}")
    return torch.cat(parts), pieces[1:] if layout.constants else pieces
