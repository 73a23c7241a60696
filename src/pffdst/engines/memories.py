"""What the simulated clients keep between rounds, held once however many clients keep the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, final

import torch

from pffdst.core.messages import Residual
from pffdst.core.model import Layout
from pffdst.engines.packets import pack_memory, tensor_of, unpack_memory
from pffdst.runs.checkpoint import from_sparse, to_sparse
from pffdst.wire.downlink import Memory, remember

__all__ = ["ClientMemories"]


@final
class ClientMemories:
    """One index per client into a table of distinct memories: flat in the number of clients.

    Residuals are each client's own; there are none unless the codec asks for them.
    """

    def __init__(self, clients: int, layout: Layout) -> None:
        self._layout = layout
        self._index = torch.zeros(clients, dtype=torch.int32)
        self._keepers = Counter({0: clients})  # clients by index
        self._table: dict[int, Memory] = {0: Memory()}
        self._residuals: dict[int, Residual] = {}
        self._next = 1
        self._last: dict[tuple[int, int], int] = {}
        self._payload: list[bytes] = []

    def of(self, client: int) -> Memory:
        """What a client keeps now."""
        return self._table[int(self._index[client])]

    def residual(self, client: int) -> Residual | None:
        """What rounding took from a client's last update; None where it is not kept."""
        return self._residuals.get(client)

    def receive(self, client: int, payload: bytes) -> None:
        """A client keeps what a payload tells it to. Raises WireError as the client itself would."""
        before = int(self._index[client])
        if not any(payload is p for p in self._payload):
            self._payload = [*self._payload[-3:], payload]  # keeps the objects alive, so that ids stay theirs
            self._last = {key: at for key, at in self._last.items() if any(key[0] == id(p) for p in self._payload)}
        key = (id(payload), before)
        if key not in self._last:
            self._last[key] = self._intern(remember(payload, self._table[before], self._layout))
        self._index[client] = after = self._last[key]
        self._keepers.subtract((before,))
        self._keepers[after] += 1

    def keep(self, client: int, residual: Residual | None) -> None:
        """A client keeps its residual; its mask is the one it was last sent, which is not held twice."""
        if residual is None:
            self._residuals.pop(client, None)
            return
        mask = self.of(client).trainable
        if mask is not None and mask == residual.mask:
            residual = replace(residual, mask=mask)
        self._residuals[client] = residual

    def _intern(self, memory: Memory) -> int:
        """The table's index of a memory, which is added if it is new; memories nobody keeps are dropped."""
        for index, known in self._table.items():
            if known == memory:
                return index
        used = {0, *self._last.values()}
        self._table = {i: m for i, m in self._table.items() if i in used or self._keepers[i] > 0}
        self._table[self._next] = memory
        self._next += 1
        return self._next - 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, for the checkpoint."""
        masks = {id(r.mask): r.mask for r in self._residuals.values()}
        return {
            "index": to_sparse(self._index),
            "next": self._next,
            "table": {index: pack_memory(memory) for index, memory in self._table.items()},
            "masks": {key: tensor_of(mask) for key, mask in masks.items()},
            "residuals": {client: (id(r.mask), r.values) for client, r in self._residuals.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self._index, self._next = from_sparse(state["index"]), state["next"]
        values, counts = torch.unique(self._index, return_counts=True)
        self._keepers = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._table = {index: unpack_memory(packed) for index, packed in state["table"].items()}
        masks = {key: mask.numpy().tobytes() for key, mask in state["masks"].items()}
        self._residuals = {c: Residual(masks[key], values) for c, (key, values) in state["residuals"].items()}
        self._last, self._payload = {}, []
