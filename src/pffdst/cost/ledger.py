"""The costs: the lengths of the payloads that were actually sent, the papers' formula for comparison, and FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, final

from pffdst.core.messages import ClientTask, Update
from pffdst.core.model import GlobalModel
from pffdst.cost.flops import FlopCounter
from pffdst.data.batches import steps
from pffdst.wire.frame import FIRST_SIGNAL, Message, Section, Tag, WireError, unpack

__all__ = ["Ledger", "unpacked"]

_PARTS: dict[int, str] = {
    Tag.TRAINABLE_POSITIONS: "mask",
    Tag.TRAINABLE_VALUES: "values",
    Tag.FROZEN_POSITIONS: "frozen",
    Tag.FROZEN_VALUES: "frozen",
    Tag.PARAMETERS: "dense",
    Tag.STATISTICS: "dense",
    Tag.CHANGED_POSITIONS: "values",
    Tag.MISSED_POSITIONS: "catch_up",
    Tag.MISSED_VALUES: "catch_up",
    Tag.STATE: "state",
}


def unpacked(payload: bytes | None) -> Message | None:
    """A payload's frame, read once for all who need it; None if there is none or it cannot be read."""
    if payload is None:
        return None
    try:
        return unpack(payload)
    except WireError:
        return None


def parts_of(payload: bytes, message: Message | None) -> Counter[str]:
    """A payload's length by part, named as in `Ledger.PARTS`. What cannot be read counts as header."""
    sections: Mapping[int, Section] = {} if message is None else message.sections
    parts: Counter[str] = Counter()
    for tag, section in sections.items():
        parts["signals" if tag >= FIRST_SIGNAL else _PARTS.get(tag, "header")] += len(section.body)
    parts["header"] += len(payload) - parts.total()
    return parts


@final
class Ledger:
    """Counts a round as its messages pass and keeps totals over the run.

    Bytes by part: `catch_up` is masks and frozen weights that were new in an earlier round, sent to clients that were
    away, and for methods that only send changes, the values that those clients missed; `state` is constants, and
    buffers that changed. paper_bytes = 4 (trainable + biases of conv and linear layers) per client and direction; the
    first download of frozen weights is counted separately, as frozen_bytes. FLOPs are those of the clients' training,
    over the round's epochs of their own samples under the mask that they were sent: the forward pass, the gradient of
    the inputs, that of the weights, and their sum. `lost` and `late` count the clients that were sent a message but
    whose update never arrived, or arrived after the round closed; `deployment_seconds` is the modelled time, for runs
    with a model of time.
    """

    FLOPS = ("flops_forward", "flops_input_gradient", "flops_weight_gradient")
    MISSING = ("lost", "late")
    NAMES = ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops", *FLOPS, *MISSING)
    SECONDS = "deployment_seconds"
    PARTS = ("header", "mask", "values", "frozen", "dense", "signals", "catch_up", "state")
    BY_PART = tuple("/".join(key) for key in product(("up", "down"), PARTS))
    COLUMNS = tuple("/".join(key) for key in product(("cost", "round"), (*NAMES, SECONDS, *BY_PART)))

    def __init__(self, flops: FlopCounter, batch_size: int) -> None:
        self._flops, self._batch_size = flops, batch_size
        layout = flops.layout
        self._leftovers = sum(e.size for e in layout.entries if e.kind == "parameter" and not e.normalisation)
        self.total: Counter[str] = Counter()
        self.round: Counter[str] = Counter()

    def begin(
        self,
        model: GlobalModel,
        *,
        epochs: int,
        probes: int,
        forwards: Sequence[Sequence[int]] = (),
        dense: bool = False,
        news: tuple[bool, bool] = (True, True),
    ) -> None:
        """Starts a round of `epochs` with `model`; each client also computes `probes` dense batches.

        `forwards`: the alive weights per layer of each batch that it only passes forward.
        `dense`: training takes the gradients of all weights.
        `news`: whether this mask, and whether these frozen weights, have not been sent to any client before.
        """
        self.round = Counter()
        alive, trainable = list(model.alive_at.counts), list(model.trainable_at.counts)
        every = self._flops.dense_gradient(alive) if probes or dense else {}
        sparse = self._flops.parts(alive, trainable)
        forward = {"forward": sum(map(self._flops.forward, forwards))} if forwards else {}
        self._work = ((every if dense else sparse, epochs), (every, probes), (forward, 1))
        self._paper = 4 * (sum(trainable) + self._leftovers)
        self._paper_frozen = 4 * (sum(alive) - sum(trainable))
        self._old = [part for part, new in zip(("mask", "frozen"), news, strict=True) if not new]
        self._parts: dict[int, tuple[Counter[str], int]] = {}

    def down(self, task: ClientTask) -> None:
        """Counts a payload sent to a client."""
        key = id(task.payload)  # payloads are shared, and live as long as the round
        if key not in self._parts:
            parts = parts_of(task.payload, unpacked(task.payload))
            frozen = self._paper_frozen if parts["frozen"] else 0
            for part in self._old:
                parts["catch_up"] += parts.pop(part, 0)
            self._parts[key] = parts, frozen
        parts, frozen = self._parts[key]
        self.round["bytes_down"] += len(task.payload)
        self.round["paper_bytes"] += self._paper
        self.round["frozen_bytes"] += frozen
        self.round.update({f"down/{name}": size for name, size in parts.items()})

    def up(self, update: Update, message: Message | None, samples: int) -> None:
        """Counts the answer of a client that trained on so many `samples`; updates rejected later were sent too.

        `message` is the frame of its payload, if it could be read.
        """
        if update.payload is None:
            return
        self.round["bytes_up"] += len(update.payload)
        self.round["paper_bytes"] += self._paper
        self.trained(samples)
        self.round.update({f"up/{name}": size for name, size in parts_of(update.payload, message).items()})

    def trained(self, samples: int) -> None:
        """Counts the training of a client with so many `samples`."""
        self.round.update(self.flops(samples))

    def flops(self, samples: int) -> Counter[str]:
        """The FLOPs of a turn with so many `samples`, by part and in total."""
        found: Counter[str] = Counter()
        batch = samples if steps(samples, self._batch_size) == 1 else self._batch_size
        for (counts, times), each in zip(self._work, (samples, batch, batch), strict=True):
            for name, count in counts.items():
                found[f"flops_{name}"] += times * each * count
                found["flops"] += times * each * count
        return found

    def missing(self, what: Literal["lost", "late"]) -> None:
        """Counts a client whose update did not arrive, or arrived too late."""
        self.round[what] += 1

    def end(self, seconds: float | None = None) -> None:
        """Adds the round to the totals; it took so many `seconds` of modelled time, if time is modelled."""
        if seconds is not None:
            self.round[self.SECONDS] += seconds  # type: ignore[assignment]
        self.total.update(self.round)

    def state_dict(self) -> dict[str, Any]:
        """The totals."""
        return dict(self.total)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.total = Counter(state)
