"""What changed since a client's last download, for methods that only send the changes of a dense model."""

from __future__ import annotations

from typing import Any, final

import torch

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.runs.checkpoint import from_sparse, to_sparse

__all__ = ["Downloads"]


@final
class Downloads:
    """The download that last sent each weight to all, and each client's last download; counted from 1, 0 is none.

    `values` [W] are the weights as held by up-to-date clients. Three numbers per weight, one per client.
    """

    def __init__(self, clients: int) -> None:
        self._now = 0
        self._clients = torch.zeros(clients, dtype=torch.int32)
        self._exact = self.values = torch.empty(0)
        self._sent_in = torch.empty(0, dtype=torch.int32)

    def begin(self, model: GlobalModel) -> Positions:
        """Starts a new download of a dense model: the weights that changed since the previous one."""
        weights = model.weights
        if self._now == 0:
            self.values, self._sent_in = torch.zeros_like(weights), torch.zeros(len(weights), dtype=torch.int32)
            changed = torch.ones(len(weights), dtype=torch.bool)
        else:
            changed = weights != self._exact
        self._now += 1
        self._exact = weights
        self._sent_in = torch.where(changed, self._now, self._sent_in).to(torch.int32)
        return Positions(model.layout, bits=changed)

    def took(self, client: int) -> int:
        """The last download of a client."""
        return int(self._clients[client])

    def missed(self, since: int, layout: Layout) -> Positions:
        """What a client whose last download was `since` lacks besides the current one."""
        return Positions(layout, bits=(self._sent_in > since) & (self._sent_in < self._now))

    def sent(self, client: int) -> None:
        """Notes that a client got the current download."""
        self._clients[client] = self._now

    def forget(self, client: int) -> None:
        """A client that could not read its message is assumed to hold nothing."""
        self._clients[client] = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and an integer, for the checkpoint."""
        own = {"exact": self._exact, "values": self.values, "sent_in": self._sent_in}
        return {"now": self._now, "clients": to_sparse(self._clients), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._now, self._clients = state["now"], from_sparse(state["clients"], self._clients)
        self._exact, self.values, self._sent_in = state["exact"], state["values"], state["sent_in"]
