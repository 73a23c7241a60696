"""The sections of a rule's signals: values, positions, or positions with values.

The i-th signal that a round's rules declare is section 64 + i. Positions use coding 2 of positions.py over the
positions that are not barred, without its checksum (the frame has one). A `chosen` signal starts with the length of its
positions as u32, then the positions, then the coding byte of the values and the values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.wire.codecs import Codecs
from pffdst.wire.frame import FIRST_SIGNAL, MOST_SIGNALS, Message, Section, WireError
from pffdst.wire.positions import Known, at_outside, places_outside
from pffdst.wire.sets import decode_set, encode_set

__all__ = ["SignalCoder"]

_LENGTH = struct.Struct("<IB")
_VALUES = ("values", "dense", "parameters", "statistics")


@final
@dataclass(frozen=True)
class SignalCoder:
    """Signals that accompany the model that was `sent`, in the run's codecs. `declared` says which, in order.

    ValueError where two have the same name, or where there are more signals than sections for them.
    """

    declared: tuple[Signal, ...]
    sent: GlobalModel
    codecs: Codecs

    def __post_init__(self) -> None:
        names = [s.name for s in self.declared]
        if len(set(names)) != len(names) or len(names) > MOST_SIGNALS:
            raise ValueError(f"Expected at most {MOST_SIGNALS} signals of different names in a round, but got {names}")

    @property
    def tags(self) -> set[int]:
        """The expected sections."""
        return {FIRST_SIGNAL + i for i in range(len(self.declared))}

    def encode(self, signals: Signals, seed: int) -> dict[int, Section]:
        """The sections. ValueError where a signal is missing, not declared, or not of the declared form."""
        if set(signals) != {s.name for s in self.declared}:
            raise ValueError(f"Expected the signals {[s.name for s in self.declared]}, but got {sorted(signals)}")
        return {FIRST_SIGNAL + i: self._encode(s, signals[s.name], seed + i) for i, s in enumerate(self.declared)}

    def decode(self, message: Message) -> dict[str, Tensor | Positions | Chosen]:
        """The signals of a message. Raises WireError naming one that is malformed."""
        return {s.name: self._decode(s, message.section(FIRST_SIGNAL + i)) for i, s in enumerate(self.declared)}

    def _encode(self, signal: Signal, what: Tensor | Positions | Chosen, seed: int) -> Section:
        if signal.form in _VALUES and isinstance(what, Tensor) and what.numel() == self._length(signal):
            return self._values(signal, what, seed)
        if signal.form == "positions" and isinstance(what, Positions):
            return Section(0, self._positions(signal, what))
        if signal.form == "chosen" and isinstance(what, Chosen):
            places, values = self._positions(signal, what.at), self._values(signal, what.values, seed)
            return Section(0, _LENGTH.pack(len(places), values.coding) + places + values.body)
        raise ValueError(f"Expected signal {signal.name} to be {signal.form}, but got {type(what).__name__}")

    def _length(self, signal: Signal) -> int:
        """How many values a values-only signal has."""
        layout = self.sent.layout
        if signal.form == "values":
            return signal.length
        if signal.form == "parameters":
            return layout.parameters - layout.maskable
        if signal.form == "statistics":
            return layout.total - layout.parameters
        return layout.maskable - len(signal.barred(self.sent))

    def _values(self, signal: Signal, values: Tensor, seed: int) -> Section:
        codec = self.codecs.values if signal.lossy else self.codecs.exact
        return codec.encode(values.to(self.sent.dtype).flatten(), seed=seed)

    def _positions(self, signal: Signal, at: Positions) -> bytes:
        barred = signal.barred(self.sent)
        return encode_set(places_outside(at, barred), Known(barred).free)

    def _decode(self, signal: Signal, section: Section) -> Tensor | Positions | Chosen:
        if signal.form in _VALUES:
            return self._read_values(signal, section, self._length(signal))
        if section.coding != 0:
            raise WireError(f"{signal.name}: coding {section.coding} is unknown")
        if signal.form == "positions":
            return self._read_positions(signal, bytes(section.body))
        if len(section.body) < _LENGTH.size:
            raise WireError(f"{signal.name}: expected {_LENGTH.size} bytes before the positions")
        length, coding = _LENGTH.unpack_from(section.body)
        rest = section.body[_LENGTH.size :]
        if length > len(rest):
            raise WireError(f"{signal.name}: the positions run past the end of the section")
        at = self._read_positions(signal, bytes(rest[:length]))
        return Chosen(at, self._read_values(signal, Section(coding, rest[length:]), len(at)))

    def _read_values(self, signal: Signal, section: Section, count: int) -> Tensor:
        codec = self.codecs.values if signal.lossy else self.codecs.exact
        values = codec.decode(section, count, signal.name)
        if values.dtype != self.sent.dtype:
            raise WireError(f"{signal.name}: expected {self.sent.dtype}, but got {values.dtype}")
        return values

    def _read_positions(self, signal: Signal, body: bytes) -> Positions:
        barred = signal.barred(self.sent)
        places = decode_set(body, Known(barred).free, signal.name)
        return Positions(self.sent.layout, index=torch.from_numpy(at_outside(places, barred)))
