"""What the simulated clients keep between rounds; identical contents are stored once."""

from __future__ import annotations

from collections import Counter
from typing import Any, final

import torch

from pffdst.core.messages import Kept, Residual
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.engines.packets import pack_memory, unpack_memory
from pffdst.runs.checkpoint import from_sparse, to_sparse
from pffdst.wire.codecs import Codecs
from pffdst.wire.downlink import Memory, remember

__all__ = ["ClientMemories"]


@final
class ClientMemories:
    """One index per client into a table of distinct memories, so the size hardly grows with the number of clients.

    Initially the memories contain the positions `known` beforehand, if any. If clients keep weights, there is one
    memory per download that is some client's latest. Anything else is kept per client, and only if the codec or a rule
    asks for it.
    """

    def __init__(self, clients: int, layout: Layout, codecs: Codecs, known: Positions | None = None) -> None:
        self._codecs = codecs
        self._layout = layout
        self._index = torch.zeros(clients, dtype=torch.int32)
        self._keepers = Counter({0: clients})  # clients by index
        self._table: dict[int, Memory] = {0: Memory(known)}
        self._kept: dict[int, Kept] = {}
        self._next = 1
        self._last: dict[tuple[int, int], int] = {}
        self._payload: list[bytes] = []

    def of(self, client: int) -> Memory:
        """A client's current memory."""
        return self._table[int(self._index[client])]

    def kept(self, client: int) -> Kept:
        """What a client kept from its own last round."""
        return self._kept.get(client, Kept())

    def receive(self, client: int, payload: bytes) -> None:
        """Updates a client's memory from a payload. Raises WireError as the client itself would."""
        before = int(self._index[client])
        if not any(payload is p for p in self._payload):
            self._payload = [*self._payload[-3:], payload]  # keeps the objects alive, so that their ids stay valid
            self._last = {key: at for key, at in self._last.items() if any(key[0] == id(p) for p in self._payload)}
        key = (id(payload), before)
        if key not in self._last:
            self._last[key] = self._intern(remember(payload, self._table[before], self._layout, self._codecs))
        self._index[client] = after = self._last[key]
        self._keepers.subtract((before,))
        self._keepers[after] += 1

    def keep(self, client: int, kept: Kept) -> None:
        """Stores what a client keeps for itself; its mask is the one it was last sent, so it is not stored twice."""
        if not kept.anything:
            self._kept.pop(client, None)
            return
        mask, residual = self.of(client).trainable, kept.residual
        if residual is not None and mask is not None and mask == residual.at:
            kept = Kept(Residual(mask, residual.values), kept.memory)
        self._kept[client] = kept

    def _intern(self, memory: Memory) -> int:
        """The table index of a memory, which is added if new; unused memories are dropped."""
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
        masks = {id(k.residual.at): k.residual.at for k in self._kept.values() if k.residual is not None}
        return {
            "index": to_sparse(self._index),
            "next": self._next,
            "table": {index: pack_memory(memory) for index, memory in self._table.items()},
            "masks": {key: mask.packed() for key, mask in masks.items()},
            "residuals": {c: (id(k.residual.at), k.residual.values) for c, k in self._kept.items() if k.residual},
            "memory": {c: dict(k.memory) for c, k in self._kept.items() if k.memory},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._index, self._next = from_sparse(state["index"], self._index), state["next"]
        values, counts = torch.unique(self._index, return_counts=True)
        self._keepers = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._table = {index: unpack_memory(packed, self._layout) for index, packed in state["table"].items()}
        masks = {key: Positions.unpacked(self._layout, mask) for key, mask in state["masks"].items()}
        residuals = {c: Residual(masks[key], values) for c, (key, values) in state["residuals"].items()}
        memory = state["memory"]
        self._kept = {c: Kept(residuals.get(c), memory.get(c, {})) for c in {*residuals, *memory}}
        self._last, self._payload = {}, []
