"""What the simulated clients keep between rounds, held once however many clients keep the same."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pffdst.wire.downlink import Memory, remember
from pffdst.wire.messages import Section

__all__ = ["ClientMemories"]

_PARTS = ("trainable", "frozen_positions", "frozen_values")


@final
class ClientMemories:
    """One index per client into a table of distinct memories: flat in the number of clients."""

    def __init__(self, clients: int) -> None:
        self._index = torch.zeros(clients, dtype=torch.int32)
        self._table: dict[int, Memory] = {0: Memory()}
        self._next = 1
        self._last: dict[tuple[int, int], int] = {}
        self._payload: list[bytes] = []

    def of(self, client: int) -> Memory:
        """What a client keeps now."""
        return self._table[int(self._index[client])]

    def receive(self, client: int, payload: bytes) -> None:
        """A client keeps what a payload tells it to. Raises WireError as the client itself would."""
        before = int(self._index[client])
        if not any(payload is p for p in self._payload):
            self._payload = [*self._payload[-3:], payload]  # keeps the objects alive, so that ids stay theirs
            self._last = {key: at for key, at in self._last.items() if any(key[0] == id(p) for p in self._payload)}
        key = (id(payload), before)
        if key not in self._last:
            self._last[key] = self._intern(remember(payload, self._table[before]))
        self._index[client] = self._last[key]

    def _intern(self, memory: Memory) -> int:
        """The table's index of a memory, which is added if it is new; memories nobody keeps are dropped."""
        for index, known in self._table.items():
            if known == memory:
                return index
        used = {0, *torch.unique(self._index).tolist(), *self._last.values()}
        self._table = {index: m for index, m in self._table.items() if index in used}
        self._table[self._next] = memory
        self._next += 1
        return self._next - 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, for the checkpoint."""
        table = {
            index: {name: _pack(getattr(memory, name)) for name in _PARTS} for index, memory in self._table.items()
        }
        return {"index": self._index.clone(), "next": self._next, "table": table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self._index, self._next = state["index"].clone(), state["next"]
        self._table = {
            index: Memory(*(_unpack(parts[name]) for name in _PARTS)) for index, parts in state["table"].items()
        }
        self._last, self._payload = {}, []


def _pack(section: Section | None) -> tuple[int, Tensor] | None:
    """A body as a tensor: a weights_only reader takes no empty bytes."""
    return None if section is None else (section.coding, torch.from_numpy(np.frombuffer(section.body, np.uint8).copy()))


def _unpack(packed: tuple[int, Tensor] | None) -> Section | None:
    return None if packed is None else Section(packed[0], packed[1].numpy().tobytes())
