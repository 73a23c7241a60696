"""Client to server: the trained weights, the dense leftovers, a short report, and a mask where the client moved it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pffdst.core.messages import Residual
from pffdst.core.model import GlobalModel, Layout
from pffdst.wire.frame import Kind, Message, Section, Tag, WireError, layout_digest, pack, unpack
from pffdst.wire.positions import (
    Known,
    decode_positions,
    encode_positions,
    from_bitmap,
    put_at_,
    to_bitmap,
    values_at,
)
from pffdst.wire.values import ValueCodec

__all__ = ["Report", "Upload", "decode_uplink", "encode_uplink", "residual_of", "with_residual"]

_REPORT = struct.Struct("<Idd")


@final
@dataclass(frozen=True)
class Report:
    """What a client says of its training: n_k samples, mean training loss and accuracy over its E epochs."""

    samples: int
    loss: float
    accuracy: float


@final
@dataclass(frozen=True)
class Upload:
    """A decoded update: trainable weights at the True positions of `trainable` [W], dense leftovers, report.

    `parameters` are the biases and normalisation parameters; `statistics` is None where they were not sent.
    """

    client: int
    report: Report
    trainable: Tensor
    weights: Tensor
    parameters: Tensor
    statistics: Tensor | None


def encode_uplink(
    model: GlobalModel,
    start: GlobalModel,
    client: int,
    t: int,
    report: Report,
    codec: ValueCodec,
    *,
    seed: int = 0,
    moved: bool,
    statistics: bool,
) -> bytes:
    """The update of a client that trained `model` from `start`, which the server knows.

    `moved`: the mask is the client's own and is sent; `statistics`: so are those.
    """
    layout, leftovers = model.layout, codec.leftovers
    sections: dict[Tag, Section] = {}
    if moved:
        known = Known(layout, start.frozen, start.trainable)
        sections[Tag.TRAINABLE_POSITIONS] = encode_positions(model.trainable, known)
    places = model.places if moved else start.places
    weights, base = (m.weights.index_select(0, places) for m in (model, start))
    sections[Tag.TRAINABLE_VALUES] = codec.encode(weights, seed=seed, base=base)
    for tag, span in _leftovers(layout, statistics=statistics):
        sections[tag] = leftovers.encode(model.values[span], base=start.values[span])
    sections[Tag.REPORT] = Section(0, _REPORT.pack(report.samples, report.loss, report.accuracy))
    return pack(Message(Kind.UPLINK, t, client, layout_digest(layout), sections))


def with_residual(model: GlobalModel, residual: Residual) -> GlobalModel:
    """The model with a residual added to the trainable weights that it still applies to."""
    layout, values = model.layout, model.values.clone()
    lost = torch.zeros(layout.maskable, dtype=values.dtype)
    put_at_(lost, from_bitmap(residual.mask, layout.maskable, "residual"), residual.values.to(values.dtype))
    values[: layout.maskable] += lost.masked_fill_(~model.trainable, 0.0)
    return model.with_values(values)


def residual_of(payload: bytes, model: GlobalModel, start: GlobalModel, codec: ValueCodec) -> Residual:
    """What rounding took from the update `payload` of `model`: error feedback at the client."""
    section = unpack(payload).section(Tag.TRAINABLE_VALUES)
    base = start.weights.index_select(0, start.places)
    decoded = codec.decode(section, len(base), Tag.TRAINABLE_VALUES.name, base=base)
    return Residual(to_bitmap(start.trainable), model.weights.index_select(0, start.places) - decoded)


def _leftovers(layout: Layout, *, statistics: bool) -> list[tuple[Tag, slice]]:
    """The sections of values that are not maskable, and where these lie."""
    parameters = (Tag.PARAMETERS, slice(layout.maskable, layout.parameters))
    return [parameters, (Tag.STATISTICS, slice(layout.parameters, layout.total))] if statistics else [parameters]


def _decode_report(section: Section) -> Report:
    if len(section.body) != _REPORT.size:
        raise WireError(f"REPORT: expected {_REPORT.size} bytes, but got {len(section.body)}")
    report = Report(*_REPORT.unpack(section.body))
    if report.samples < 1:
        raise WireError("REPORT: expected at least 1 sample, but got 0")
    if not (math.isfinite(report.loss) and math.isfinite(report.accuracy)):
        raise WireError("REPORT: the training loss or accuracy is not finite")
    return report


def _check_frame(message: Message, sent: GlobalModel, client: int, t: int, tags: set[Tag]) -> None:
    """The message is this client's, of this round, of this model, and holds just the sections due."""
    if message.kind is not Kind.UPLINK or message.model != layout_digest(sent.layout):
        raise WireError("model: the message is not an uplink of this run's model")
    if (message.client, message.t) != (client, t):
        raise WireError(f"client: expected client {client} in round {t}, but got {message.client} in {message.t}")
    if set(message.sections) != tags:
        got = ", ".join(sorted(tag.name for tag in message.sections))
        raise WireError(f"sections: expected {', '.join(sorted(tag.name for tag in tags))}, but got {got}")


def _decode_trainable(message: Message, sent: GlobalModel) -> Tensor:
    """The client's own mask: outside the frozen weights, with as many weights per layer as it was sent."""
    layout, known = sent.layout, Known(sent.layout, sent.frozen, sent.trainable)
    trainable = decode_positions(message.section(Tag.TRAINABLE_POSITIONS), known, "TRAINABLE_POSITIONS")
    if layout.per_layer(trainable) != layout.per_layer(sent.trainable):
        raise WireError("TRAINABLE_POSITIONS: a layer does not have the number of weights it was sent with")
    return trainable


def decode_uplink(
    payload: bytes, sent: GlobalModel, client: int, t: int, codec: ValueCodec, *, moved: bool, statistics: bool
) -> Upload:
    """Reads an update to the model that was `sent` in round t. Raises WireError where anything does not fit."""
    message, layout = unpack(payload), sent.layout
    leftovers = _leftovers(layout, statistics=statistics)
    tags = {Tag.TRAINABLE_VALUES, Tag.REPORT, *(tag for tag, _ in leftovers)}
    _check_frame(message, sent, client, t, tags | ({Tag.TRAINABLE_POSITIONS} if moved else set()))
    trainable = _decode_trainable(message, sent) if moved else sent.trainable

    def read(tag: Tag, reader: ValueCodec, base: Tensor) -> Tensor:
        values = reader.decode(message.section(tag), len(base), tag.name, base=base)
        if values.dtype != sent.values.dtype:  # a double that no single can hold would make the mean infinite
            raise WireError(f"{tag.name}: expected {sent.values.dtype}, but got {values.dtype}")
        return values

    base = values_at(sent.weights, trainable) if moved else sent.weights.index_select(0, sent.places)
    weights = read(Tag.TRAINABLE_VALUES, codec, base)
    parts = {tag: read(tag, codec.leftovers, sent.values[span]) for tag, span in leftovers}
    report = _decode_report(message.section(Tag.REPORT))
    return Upload(client, report, trainable, weights, parts[Tag.PARAMETERS], parts.get(Tag.STATISTICS))
