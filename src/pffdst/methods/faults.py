"""Clients with injected faults, to test a server before it meets real ones.

A share of the clients is drawn once, by a named draw, and is faulty in every round it takes part in. A fault can act in
four places, each of which is honest unless overridden: the labels that a client trains on, the model that it sends, the
number of samples that it reports, and the bytes of its message. What the client's rules produce, including its signals,
is not changed.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.facts import Facts
from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for, without_replacement

__all__ = [
    "Fault",
    "Faulty",
    "FaultyTurn",
    "Filled",
    "Honest",
    "Lie",
    "Scaled",
    "ShuffledLabels",
    "Stale",
    "Truncated",
    "WrongSamples",
    "base_of",
]

_KEPT: Final = "fault:"
_MOST_SAMPLES: Final = 2**32 - 1  # the most that the report of an update can hold


@final
@dataclass(frozen=True, eq=False)
class FaultyTurn:
    """One turn of a faulty client.

    `start` is the model that it was sent and `memory` what its fault kept at the end of its last turn. `generator` is
    the turn's own random generator.
    """

    client: int
    t: int
    start: GlobalModel
    memory: Mapping[str, Tensor]
    generator: torch.Generator


class Fault(ABC):
    """What a `share` (0 < share <= 1) of all clients do wrong. By default every hook is honest."""

    share: float

    def labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The classes int64 [n] that a client trains on, given those of its samples; the same in every round."""
        return labels

    def model(self, trained: GlobalModel, turn: FaultyTurn) -> GlobalModel:
        """The model that a client sends, under the masks of what it `trained`, after its rules have been applied."""
        return trained

    def samples(self, count: int) -> int:
        """The number of samples that a client reports: 0 .. 2**32 - 1."""
        return count

    def message(self, payload: bytes, turn: FaultyTurn) -> bytes:
        """The bytes that a client sends; at least one."""
        return payload

    def keep(self, sent: GlobalModel, payload: bytes, turn: FaultyTurn) -> Mapping[str, Tensor]:
        """What a client's fault keeps until its next turn, from what would have been sent without the fault."""
        return {}

    def problems(self, facts: Facts) -> list[str]:
        """A share out of range."""
        if 0 < self.share <= 1:
            return []
        return [f"faults.share={self.share}: expected 0 < share <= 1 of the clients; write e.g. faults.share=0.1"]


@final
@dataclass(frozen=True)
class Honest(Fault):
    """No fault."""

    share: float = 0.0


@final
@dataclass(frozen=True)
class Lie:
    """A turn, with what its fault does to what is sent."""

    fault: Fault
    turn: FaultyTurn

    def model(self, honest: GlobalModel) -> GlobalModel:
        """The model that is sent."""
        return self.fault.model(honest, self.turn)

    def samples(self, count: int) -> int:
        """The number of samples that is reported."""
        return self.fault.samples(count)

    def message(self, payload: bytes) -> bytes:
        """The bytes that are sent."""
        return self.fault.message(payload, self.turn)

    def kept(self, honest: GlobalModel, payload: bytes) -> dict[str, Tensor]:
        """What the client keeps for the fault, under names that no rule uses."""
        return {_KEPT + key: value for key, value in self.fault.keep(honest, payload, self.turn).items()}


@final
@dataclass(frozen=True)
class Faulty:
    """A run's fault and the clients that have it: round(share C) of them, at least one, drawn with the run's seed."""

    fault: Fault = Honest()
    clients: frozenset[int] = frozenset()
    seed: int = 0

    @classmethod
    def of(cls, fault: Fault, clients: int, seed: int) -> Faulty:
        """Draws them: the first of `clients` numbers in random order, in memory proportional to the number drawn."""
        count, draw = max(1, round(fault.share * clients)), generator_for(seed, "faults")
        chosen = without_replacement(count, clients, lambda n: int(torch.randint(n, (), generator=draw)))
        return cls(fault, frozenset(chosen), seed)

    def relabels(self, client: int) -> bool:
        """Whether a client trains on labels other than its own."""
        return client in self.clients and type(self.fault).labels is not Fault.labels

    def labels(self, client: int, labels: Tensor) -> Tensor:
        """The labels int64 [n] that a client trains on instead of its own."""
        return self.fault.labels(labels, generator_for(self.seed, "faulty labels", client))

    def lie(self, client: int, t: int, start: GlobalModel, memory: Mapping[str, Tensor]) -> Lie:
        """What a client does to its turn: nothing if it is honest."""
        own = {key.removeprefix(_KEPT): value for key, value in memory.items() if key.startswith(_KEPT)}
        fault = self.fault if client in self.clients else Honest()
        return Lie(fault, FaultyTurn(client, t, start, own, generator_for(self.seed, "faulty", t, client)))


def base_of(start: GlobalModel, trained: GlobalModel) -> Tensor:
    """The trainable values [T] that a client started from at the positions that it trained; 0 where it grew."""
    return start.trainable_at.carry(start.trained, trained.trainable_at)


def _parameters(model: GlobalModel) -> int:
    return model.layout.rest[0]


# ---- what is sent -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Filled(Fault):
    """Every trained value is `value`: nan, inf, or a huge finite number."""

    value: float | Literal["nan", "inf", "-inf"] = "nan"
    share: float = 0.1

    def model(self, trained: GlobalModel, turn: FaultyTurn) -> GlobalModel:
        """Trainable weights and parameters; statistics are unchanged."""
        rest = trained.rest.clone()
        rest[: _parameters(trained)] = float(self.value)
        return trained.with_trained(torch.full_like(trained.trained, float(self.value)), rest)


@final
@dataclass(frozen=True)
class Scaled(Fault):
    """The update scaled by `factor`: w0 + factor (w - w0), where w0 was sent; -1 reverses it."""

    factor: float = 10.0
    share: float = 0.1

    def model(self, trained: GlobalModel, turn: FaultyTurn) -> GlobalModel:
        """Trainable weights and parameters; statistics are unchanged."""
        count, base, rest = _parameters(trained), base_of(turn.start, trained), trained.rest.clone()
        was = turn.start.rest[:count]
        rest[:count] = was + self.factor * (rest[:count] - was)
        return trained.with_trained(base + self.factor * (trained.trained - base), rest)


@final
@dataclass(frozen=True)
class Stale(Fault):
    """Sends something old: the model as it was `sent`, the `update` of the client's first turn, or its last `message`.

    An `update` is the change that the first turn made, added to the model sent now, at the positions that are still
    trained. The last message is sent again byte for byte, so it names another round. In its first turn a client has
    nothing old except what it was sent, and sends what it trained.
    """

    what: Literal["sent", "update", "message"] = "sent"
    share: float = 0.1

    def __post_init__(self) -> None:
        if self.what not in ("sent", "update", "message"):
            raise ValueError(f"Expected `faults.what` to be sent, update or message, but got {self.what!r}")

    def model(self, trained: GlobalModel, turn: FaultyTurn) -> GlobalModel:
        """What was sent, or the old change added to it."""
        if self.what == "sent":
            return trained.with_trained(base_of(turn.start, trained), turn.start.rest)
        if "change" not in turn.memory:
            return trained
        at = Positions.unpacked(trained.layout, turn.memory["at"])
        change = at.carry(turn.memory["change"], trained.trainable_at)
        rest = turn.start.rest + turn.memory["rest"]
        return trained.with_trained(base_of(turn.start, trained) + change, rest)

    def message(self, payload: bytes, turn: FaultyTurn) -> bytes:
        """The message of the last turn."""
        return bytes_of(turn.memory["payload"]) if "payload" in turn.memory else payload

    def keep(self, sent: GlobalModel, payload: bytes, turn: FaultyTurn) -> Mapping[str, Tensor]:
        """The first turn's change, or this one's message."""
        if self.what == "message":
            return {"payload": tensor_of(payload)}
        if self.what == "sent" or "change" in turn.memory:
            return turn.memory
        change = sent.trained - base_of(turn.start, sent)
        return {"at": sent.trainable_at.packed(), "change": change, "rest": sent.rest - turn.start.rest}


@final
@dataclass(frozen=True)
class Truncated(Fault):
    """The message ends after `kept` of its bytes, 0 < kept < 1."""

    kept: float = 0.5
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.kept < 1:
            raise ValueError(f"Expected `faults.kept` to be in (0, 1), a share of a message's bytes, got {self.kept}")

    def message(self, payload: bytes, turn: FaultyTurn) -> bytes:
        """Its beginning."""
        return payload[: max(1, int(self.kept * len(payload)))]


# ---- what is trained on and what is said ------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class ShuffledLabels(Fault):
    """A client trains on its samples with their labels shuffled."""

    share: float = 0.1

    def labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The same classes, shuffled once for the run."""
        return labels[torch.randperm(len(labels), generator=generator)]


@final
@dataclass(frozen=True)
class WrongSamples(Fault):
    """A client reports `count` samples, 0 .. 2**32 - 1, the range a message can hold."""

    count: int = _MOST_SAMPLES
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.count <= _MOST_SAMPLES:
            raise ValueError(
                f"Expected `faults.count` to be in 0 .. {_MOST_SAMPLES}, the range a message can hold, but got "
                f"{self.count}"
            )

    def samples(self, count: int) -> int:
        """The wrong number."""
        return self.count
