"""The bill: the lengths of the payloads that really travelled, the papers' formula beside them, and FLOPs."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, final

from pffdst.core.messages import ClientTask, Update
from pffdst.core.model import GlobalModel
from pffdst.cost.flops import FlopCounter
from pffdst.data.batches import steps
from pffdst.wire.frame import Tag, WireError, unpack

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

    Bytes by part: the part `catch_up` is masks and frozen weights that were new in an earlier round, sent to clients
    that were away. paper_bytes = 4 (trainable + biases of conv and linear layers) per client and direction, the first
    download of frozen weights apart as frozen_bytes. FLOPs are the clients' training, over `epochs` (E) of their own
    samples: the forward pass, the gradient of the inputs and that of the weights, and their sum.
    """

    FLOPS = ("flops_forward", "flops_input_gradient", "flops_weight_gradient")
    NAMES = ("bytes_up", "bytes_down", "paper_bytes", "frozen_bytes", "flops", *FLOPS)
    PARTS = ("header", "mask", "values", "frozen", "dense", "catch_up")
    BY_PART = tuple("/".join(key) for key in product(("up", "down"), PARTS))
    COLUMNS = tuple("/".join(key) for key in product(("cost", "round"), (*NAMES, *BY_PART)))

    def __init__(self, flops: FlopCounter, epochs: int, batch_size: int) -> None:
        self._flops = flops
        self._epochs, self._batch_size = epochs, batch_size
        layout = flops.layout
        self._leftovers = sum(e.size for e in layout.entries if e.kind == "parameter" and not e.normalisation)
        self.total: Counter[str] = Counter()
        self.round: Counter[str] = Counter()

    def begin(self, model: GlobalModel, *, dense_gradient: bool, news: tuple[bool, bool] = (True, True)) -> None:
        """A round starts with `model`; on `dense_gradient` rounds each client adds one dense batch.

        `news`: whether nobody was sent this mask before, and whether nobody was sent these frozen weights.
        """
        self.round = Counter()
        layout = model.layout
        alive, trainable = layout.per_layer(model.alive), layout.per_layer(model.trainable)
        self._per_sample = self._flops.parts(alive, trainable)
        self._per_probe = self._flops.dense_gradient(alive) if dense_gradient else {}
        self._paper = 4 * (sum(trainable) + self._leftovers)
        self._paper_frozen = 4 * (sum(alive) - sum(trainable))
        self._old = [part for part, new in zip(("mask", "frozen"), news, strict=True) if not new]
        self._parts: dict[int, tuple[Counter[str], int]] = {}

    def down(self, task: ClientTask) -> None:
        """A payload went to a client."""
        key = id(task.payload)  # payloads are shared, and alive for the round
        if key not in self._parts:
            parts = parts_of(task.payload)
            frozen = self._paper_frozen if parts["frozen"] else 0
            for part in self._old:
                parts["catch_up"] += parts.pop(part, 0)
            self._parts[key] = parts, frozen
        parts, frozen = self._parts[key]
        self.round["bytes_down"] += len(task.payload)
        self.round["paper_bytes"] += self._paper
        self.round["frozen_bytes"] += frozen
        self.round.update({f"down/{name}": size for name, size in parts.items()})

    def up(self, update: Update, samples: int) -> None:
        """A client with so many `samples` trained and answered; what was rejected later travelled all the same."""
        if update.payload is None:
            return
        self.round["bytes_up"] += len(update.payload)
        self.round["paper_bytes"] += self._paper
        probe = samples if steps(samples, self._batch_size) == 1 else self._batch_size
        for counts, images in ((self._per_sample, self._epochs * samples), (self._per_probe, probe)):
            for name, count in counts.items():
                self.round[f"flops_{name}"] += images * count
                self.round["flops"] += images * count
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
