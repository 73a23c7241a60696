"""Client to server: trained weights, the dense rest, a report, signals, and a mask if it is the client's own."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from torch import Tensor

from pffdst.core.messages import Residual
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.wire.codecs import Codecs, ValueCodec
from pffdst.wire.frame import Kind, Message, Section, Tag, WireError, layout_digest, name_of, pack, unpack
from pffdst.wire.positions import Known, decode_positions, encode_positions
from pffdst.wire.signals import SignalCoder
from pffdst.wire.state import decode_state, encode_state, piece_count

__all__ = ["Report", "UplinkForm", "Upload", "decode_uplink", "encode_uplink", "with_residual"]

_REPORT = struct.Struct("<Idd")


@final
@dataclass(frozen=True)
class Report:
    """What a client reports about its training: n_k samples, mean training loss and accuracy over its E epochs."""

    samples: int
    loss: float
    accuracy: float


@final
@dataclass(frozen=True)
class UplinkForm:
    """What a round's updates contain, as both ends know it.

    `values`: the trained weights and parameters are sent (not in a round that only asks for signals). `own_masks`:
    clients send masks of their own, with as many weights per layer as they were sent (`layers`) or with any number
    (`any`). `statistics`: the statistics of normalisation layers are sent, and buffers that changed. `signals`: what
    the rules ask for.
    """

    codecs: Codecs
    values: bool = True
    own_masks: Literal["layers", "any"] | None = None
    statistics: bool = True
    signals: tuple[Signal, ...] = ()

    def rest(self, layout: Layout) -> list[tuple[Tag, slice]]:
        """The sections of values that are not maskable, and where they are in the rest [N - W]."""
        if not self.values:
            return []
        parameters, statistics, _ = layout.rest
        sections = [(Tag.PARAMETERS, slice(0, parameters))]
        return (
            [*sections, (Tag.STATISTICS, slice(parameters, parameters + statistics))] if self.statistics else sections
        )

    def sends_buffers(self, layout: Layout) -> bool:
        """Whether there are buffers, which are sent if they changed."""
        return self.values and self.statistics and len(layout.buffers) > 0

    def tags(self, layout: Layout) -> set[int]:
        """The expected sections."""
        tags: set[int] = {Tag.REPORT, *(tag for tag, _ in self.rest(layout))}
        if self.values:
            tags.add(Tag.TRAINABLE_VALUES)
        if self.values and self.own_masks is not None:
            tags.add(Tag.TRAINABLE_POSITIONS)
        return tags


@final
@dataclass(frozen=True, eq=False)
class Upload:
    """A decoded update: trained weights [k] at the positions `at`, the dense rest, the report and the signals.

    `parameters` are the biases and normalisation parameters; `statistics` is None if they were not sent. All three
    are None in a round that only asked for signals. `buffers` has None for each buffer that the client did not change.
    """

    client: int
    report: Report
    at: Positions
    weights: Tensor | None
    parameters: Tensor | None
    statistics: Tensor | None
    signals: Mapping[str, Tensor | Positions | Chosen] = field(default_factory=dict)
    buffers: Sequence[Tensor | None] = ()


# ---- encoding ------------------------------------------------------------------------------------------------------


def encode_uplink(
    model: GlobalModel,
    start: GlobalModel,
    client: int,
    t: int,
    report: Report,
    form: UplinkForm,
    *,
    seed: int = 0,
    signals: Signals | None = None,
    keep_residual: bool = False,
    buffers: Sequence[Tensor | None] = (),
) -> tuple[bytes, Residual | None]:
    """The update of a client that trained `model` from `start`, which the server knows; `buffers` are those it changed.

    With `keep_residual` the rounding error is returned too, for error feedback at the client.
    """
    layout = model.layout
    sections: dict[int, Section] = {}
    residual = None
    if form.values:
        own = form.own_masks is not None
        if own:
            sections[Tag.TRAINABLE_POSITIONS] = encode_positions(
                model.trainable_at, Known(start.frozen_at, start.trainable_at)
            )
        base = _base(start, model.trainable_at if own else start.trainable_at)
        coded = form.codecs.values.encode(model.trained, seed=seed, base=base)
        sections[Tag.TRAINABLE_VALUES] = coded
        if keep_residual:
            residual = _residual(model, start, form.codecs.values, coded, base)
    for tag, span in form.rest(layout):
        sections[tag] = form.codecs.exact.encode(model.rest[span], base=start.rest[span])
    if form.sends_buffers(layout) and any(buffer is not None for buffer in buffers):
        pieces = [*(None for _ in range(piece_count(layout) - len(buffers))), *buffers]
        sections[Tag.STATE] = encode_state(pieces, model.dtype, form.codecs.exact.level)
    sections[Tag.REPORT] = Section(0, _REPORT.pack(report.samples, report.loss, report.accuracy))
    sections |= SignalCoder(form.signals, start, form.codecs).encode(signals or {}, seed + 1)
    return pack(Message(Kind.UPLINK, t, client, layout_digest(layout), sections)), residual


def _residual(
    model: GlobalModel, start: GlobalModel, codec: ValueCodec, coded: Section, base: Tensor
) -> Residual | None:
    """The rounding error; none for an update that is not finite, which the server refuses."""
    try:
        decoded = codec.decode(coded, len(base), Tag.TRAINABLE_VALUES.name, base=base)
    except WireError:
        return None
    return Residual(start.trainable_at, model.trained - decoded)


def _base(start: GlobalModel, at: Positions) -> Tensor:
    """The values [k] that both ends hold at the positions of an update; 0 where the client has grown."""
    return start.trainable_at.carry(start.trained, at)


def with_residual(model: GlobalModel, residual: Residual) -> GlobalModel:
    """The model with a residual added to the trainable weights that it still applies to."""
    lost = residual.at.carry(residual.values.to(model.dtype), model.trainable_at)
    return model.with_trained(model.trained + lost, model.rest)


# ---- decoding ------------------------------------------------------------------------------------------------------


def _decode_report(section: Section) -> Report:
    if len(section.body) != _REPORT.size:
        raise WireError(f"REPORT: expected {_REPORT.size} bytes, but got {len(section.body)}")
    report = Report(*_REPORT.unpack(section.body))
    if report.samples < 1:
        raise WireError("REPORT: expected at least 1 sample, but got 0")
    if not (math.isfinite(report.loss) and math.isfinite(report.accuracy)):
        raise WireError("REPORT: the training loss or accuracy is not finite")
    return report


def _check_frame(message: Message, sent: GlobalModel, client: int, t: int, tags: set[int], may: set[int]) -> None:
    """Checks client, round and model, and that the sections are those expected (`tags`), or that it `may` have."""
    if message.kind is not Kind.UPLINK or message.model != layout_digest(sent.layout):
        raise WireError("model: the message is not an uplink for this run's model")
    if (message.client, message.t) != (client, t):
        raise WireError(
            f"client: expected client {client} in round {t + 1}, but got {message.client} in {message.t + 1}"
        )
    if set(message.sections) - may != tags:
        got = ", ".join(sorted(map(name_of, message.sections)))
        raise WireError(f"sections: expected {', '.join(sorted(map(name_of, tags)))}, but got {got}")


def _decode_trainable(message: Message, sent: GlobalModel, form: UplinkForm) -> Positions:
    """The client's own mask: outside the frozen weights and, if required, with as many per layer as it was sent."""
    known = Known(sent.frozen_at, sent.trainable_at)
    trainable = decode_positions(message.section(Tag.TRAINABLE_POSITIONS), known, "TRAINABLE_POSITIONS")
    if form.own_masks == "layers" and trainable.counts != sent.trainable_at.counts:
        raise WireError("TRAINABLE_POSITIONS: a layer does not have the number of weights it was sent with")
    return trainable


def decode_uplink(payload: bytes | Message, sent: GlobalModel, client: int, t: int, form: UplinkForm) -> Upload:
    """Reads an update to the model that was `sent` in round t. Raises WireError where anything is inconsistent."""
    message = payload if isinstance(payload, Message) else unpack(payload)
    layout, coder = sent.layout, SignalCoder(form.signals, sent, form.codecs)
    may: set[int] = {Tag.STATE} if form.sends_buffers(layout) else set()
    _check_frame(message, sent, client, t, form.tags(layout) | coder.tags, may)

    def read(tag: Tag, codec: ValueCodec, base: Tensor) -> Tensor:
        values = codec.decode(message.section(tag), len(base), tag.name, base=base)
        if values.dtype != sent.dtype:  # a double beyond single precision's range would make the mean infinite
            raise WireError(f"{tag.name}: expected {sent.dtype}, but got {values.dtype}")
        return values

    at, weights = sent.trainable_at, None
    if form.values:
        at = at if form.own_masks is None else _decode_trainable(message, sent, form)
        weights = read(Tag.TRAINABLE_VALUES, form.codecs.values, _base(sent, at))
    parts = {tag: read(tag, form.codecs.exact, sent.rest[span]) for tag, span in form.rest(layout)}
    report = _decode_report(message.section(Tag.REPORT))
    parameters, statistics = (parts.get(tag) for tag in (Tag.PARAMETERS, Tag.STATISTICS))
    buffers = _decode_buffers(message.sections.get(Tag.STATE), layout)
    return Upload(client, report, at, weights, parameters, statistics, coder.decode(message), buffers)


def _decode_buffers(section: Section | None, layout: Layout) -> tuple[Tensor | None, ...]:
    """The buffers that a client changed; clients may not send constants."""
    if section is None:
        return tuple(None for _ in layout.buffers)
    pieces = decode_state(section, layout)
    constants, buffers = pieces[: len(pieces) - len(layout.buffers)], pieces[len(pieces) - len(layout.buffers) :]
    if any(piece is not None for piece in constants):
        raise WireError("STATE: a client sent constants")
    return buffers
