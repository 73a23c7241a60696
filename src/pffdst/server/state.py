"""The model's constants and buffers at the server, and which of them each client lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from pffdst.core.state import changes
from pffdst.runs.checkpoint import from_sparse, to_sparse

__all__ = ["ServerState"]


@final
class ServerState:
    """The current buffers, the version in which each piece last changed, and the version that each client holds.

    Constants, if the model has any, are the first piece and always have version 1. A client with version 0 holds
    nothing.
    """

    def __init__(self, clients: int, constants: int, buffers: Sequence[Tensor]) -> None:
        self.buffers = tuple(buffers)
        self._constants = int(constants > 0)
        self._changed_in = [1] * (self._constants + len(self.buffers))
        self._now = 1
        self._clients = torch.zeros(clients if self._changed_in else 0, dtype=torch.int32)

    def lacks(self, client: int) -> tuple[int, ...]:
        """The pieces that a client must be sent."""
        held = int(self._clients[client]) if self._changed_in else 0
        return tuple(i for i, changed_in in enumerate(self._changed_in) if changed_in > held)

    def sent(self, client: int) -> None:
        """Notes that a client was sent what it lacked."""
        self._note(client, self._now)

    def forget(self, client: int) -> None:
        """A client that could not read its message is assumed to hold nothing."""
        self._note(client, 0)

    def _note(self, client: int, version: int) -> None:
        if self._changed_in:
            self._clients[client] = version

    def take(self, buffers: Sequence[Tensor]) -> None:
        """Takes the buffers after a round."""
        moved = [i for i, new in enumerate(changes(self.buffers, buffers), self._constants) if new is not None]
        if moved:
            self._now += 1
            self.buffers = tuple(buffers)
            for i in moved:
                self._changed_in[i] = self._now

    def state_dict(self) -> dict[str, Any]:
        """Tensors and integers, for the checkpoint."""
        own = {"now": self._now, "changed_in": list(self._changed_in), "clients": to_sparse(self._clients)}
        return {"buffers": list(self.buffers), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.buffers = tuple(state["buffers"])
        self._now, self._changed_in = state["now"], list(state["changed_in"])
        self._clients = from_sparse(state["clients"], self._clients)
