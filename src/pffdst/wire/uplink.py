"""Client to server: the trained weights, the dense leftovers, a short report, and a mask where the client moved it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import final

from torch import Tensor

from pffdst.state import GlobalModel
from pffdst.wire.messages import Kind, Message, Section, Tag, WireError, layout_digest, pack, unpack
from pffdst.wire.positions import decode_positions, encode_positions, values_at
from pffdst.wire.values import ValueCodec

__all__ = ["Report", "Upload", "decode_uplink", "encode_uplink"]

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
    model: GlobalModel, client: int, t: int, report: Report, codec: ValueCodec, *, moved: bool, statistics: bool
) -> bytes:
    """A client's update. `moved`: the mask is the client's own and is sent; `statistics`: so are those."""
    layout = model.layout
    sections: dict[Tag, Section] = {}
    if moved:
        sections[Tag.TRAINABLE_POSITIONS] = encode_positions(model.trainable)
    sections[Tag.TRAINABLE_VALUES] = codec.encode(values_at(model.weights, model.trainable))
    sections[Tag.PARAMETERS] = codec.encode(model.values[layout.maskable : layout.parameters])
    if statistics:
        sections[Tag.STATISTICS] = codec.encode(model.values[layout.parameters :])
    sections[Tag.REPORT] = Section(0, _REPORT.pack(report.samples, report.loss, report.accuracy))
    return pack(Message(Kind.UPLINK, t, client, layout_digest(layout), sections))


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
    layout = sent.layout
    trainable = decode_positions(message.section(Tag.TRAINABLE_POSITIONS), layout.maskable, "TRAINABLE_POSITIONS")
    if bool((trainable & sent.frozen).any()):
        raise WireError("TRAINABLE_POSITIONS: a frozen position is claimed")
    if layout.per_layer(trainable) != layout.per_layer(sent.trainable):
        raise WireError("TRAINABLE_POSITIONS: a layer does not have the number of weights it was sent with")
    return trainable


def decode_uplink(
    payload: bytes, sent: GlobalModel, client: int, t: int, codec: ValueCodec, *, moved: bool, statistics: bool
) -> Upload:
    """Reads an update to the model `sent` in round t. Raises WireError where anything does not fit."""
    message, layout = unpack(payload), sent.layout
    tags = {Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.REPORT}
    tags |= ({Tag.TRAINABLE_POSITIONS} if moved else set()) | ({Tag.STATISTICS} if statistics else set())
    _check_frame(message, sent, client, t, tags)
    trainable = _decode_trainable(message, sent) if moved else sent.trainable
    dense, total = layout.parameters - layout.maskable, layout.total - layout.parameters

    def read(tag: Tag, count: int) -> Tensor:
        values = codec.decode(message.section(tag), count, tag.name)
        if values.dtype != sent.values.dtype:  # a double that no single can hold would make the mean infinite
            raise WireError(f"{tag.name}: expected {sent.values.dtype}, but got {values.dtype}")
        return values

    return Upload(
        client,
        _decode_report(message.section(Tag.REPORT)),
        trainable,
        read(Tag.TRAINABLE_VALUES, int(trainable.sum())),
        read(Tag.PARAMETERS, dense),
        read(Tag.STATISTICS, total) if statistics else None,
    )
