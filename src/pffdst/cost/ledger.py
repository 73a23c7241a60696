"""The bill: the lengths of the payloads that really travelled, the papers' formula beside them, and FLOPs."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, final

from pffdst.cost.flops import FlopCounter
from pffdst.data.batches import steps
from pffdst.state import ClientTask, GlobalModel, Update
from pffdst.wire.messages import Tag, WireError, unpack

__all__ = ["Ledger"]

_PARTS = {
    Tag.TRAINABLE_POSITIONS: "mask",
    Tag.TRAINABLE_VALUES: "values",
    Tag.FROZEN_POSITIONS: "frozen",
    Tag.FROZEN_VALUES: "frozen",
    Tag.PARAMETERS: "dense",
    Tag.STATISTICS: "dense",
}


def parts_of(payload: bytes) -> Counter[str]:
    """A payload's length by part: header, mask, values, frozen, dense. What cannot be read counts as header."""
    try:
        sections = unpack(payload).sections
    except WireError:
        return Counter({"header": len(payload)})
    parts: Counter[str] = Counter()
    for tag, section in sections.items():
        parts[_PARTS.get(tag, "header")] += len(section.body)
    parts["header"] += len(payload) - parts.total()
    return parts


@final
class Ledger:
    """Counts a round as its messages pass and keeps totals over the run.

    paper_bytes = 4 (trainable + biases of conv and linear layers) per client and direction, the first download of
    frozen weights apart as frozen_bytes. FLOPs are the clients' training, over `epochs` (E) of their own samples.
    """

    NAMES = ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops")
    PARTS = ("header", "mask", "values", "frozen", "dense")
    COLUMNS = tuple("/".join(("round", *key)) for key in product(("up", "down"), PARTS))

    def __init__(self, flops: FlopCounter, epochs: int, batch_size: int) -> None:
        self._flops = flops
        self._epochs, self._batch_size = epochs, batch_size
        layout = flops.layout
        self._leftovers = sum(e.size for e in layout.entries if e.kind == "parameter" and not e.normalisation)
        self.total: Counter[str] = Counter()
        self.round: Counter[str] = Counter()

    def begin(self, model: GlobalModel, *, dense_gradient: bool) -> None:
        """A round starts with `model`; on `dense_gradient` rounds each client adds one dense batch."""
        self.round = Counter()
        layout = model.layout
        alive, trainable = layout.per_layer(model.alive), layout.per_layer(model.trainable)
        self._per_sample = self._flops.training(alive, trainable)
        self._per_probe = self._flops.dense_gradient(alive) if dense_gradient else 0
        self._paper = 4 * (sum(trainable) + self._leftovers)
        self._paper_frozen = 4 * (sum(alive) - sum(trainable))
        self._parts: dict[int, Counter[str]] = {}

    def down(self, task: ClientTask) -> None:
        """A payload went to a client."""
        key = id(task.payload)  # payloads are shared, and alive for the round
        if key not in self._parts:
            self._parts[key] = parts_of(task.payload)
        parts = self._parts[key]
        self.round["bytes_down"] += len(task.payload)
        self.round["paper_bytes"] += self._paper
        self.round["frozen_bytes"] += self._paper_frozen if parts["frozen"] else 0
        self.round.update({f"down/{name}": size for name, size in parts.items()})

    def up(self, update: Update, samples: int) -> None:
        """A client with so many `samples` trained and answered; what was rejected later travelled all the same."""
        if update.payload is None:
            return
        self.round["bytes_up"] += len(update.payload)
        self.round["paper_bytes"] += self._paper
        self.round["flops"] += self._epochs * samples * self._per_sample
        probe = samples if steps(samples, self._batch_size) == 1 else self._batch_size
        self.round["flops"] += probe * self._per_probe
        self.round.update({f"up/{name}": size for name, size in parts_of(update.payload).items()})

    def end(self) -> None:
        """The round joins the totals."""
        self.total.update(self.round)

    def state_dict(self) -> dict[str, Any]:
        """The totals."""
        return dict(self.total)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.total = Counter(state)
