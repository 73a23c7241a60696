"""The server average: a running mean of the aggregated model over rounds, kept at the server and never sent."""

from __future__ import annotations

from typing import Any, final

import torch

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.runs.checkpoint import check_vector

__all__ = ["ServerAverage"]


@final
class ServerAverage:
    """a = beta a + (1 - beta) w under the current mask; dead weights are 0.

    It starts over when weights freeze for good, so these keep their values to the bit; a method that holds weights for
    a while changes nothing in it.

    With `warm_up`, beta in the n-th round since the start is at most (1 + n) / (10 + n): a model's first rounds, and
    their normalisation statistics, are forgotten as soon as better ones arrive.
    """

    def __init__(self, beta: float, *, warm_up: bool) -> None:
        self._beta, self._warm_up = beta, warm_up
        self._at: Positions | None = None
        self._held = self._rest = torch.empty(0)
        self._rounds = 0

    def begin_anew(self) -> None:
        """Starts over: masks changed so much that a mean of before and after would be neither."""
        self._at, self._rounds = None, 0

    def update(self, model: GlobalModel) -> None:
        """Adds a round's model to the mean."""
        if self._at is None:
            self._held, self._rest = model.held, model.rest
        else:
            beta = self.beta
            self._held = torch.lerp(model.held, self._at.carry(self._held, model.alive_at), beta)
            self._rest = torch.lerp(model.rest, self._rest, beta)
        self._at = model.alive_at
        self._rounds += 1

    @property
    def beta(self) -> float:
        """The weight of the previous mean in the next round's mean."""
        n = self._rounds
        return min(self._beta, (1 + n) / (10 + n)) if self._warm_up else self._beta

    def model(self, last: GlobalModel) -> GlobalModel:
        """The average as a model under the masks of the `last`; the last itself if there is no average."""
        if self._at is None:
            return last
        return last.with_held(self._at.carry(self._held, last.alive_at), self._rest)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers for the checkpoint."""
        at = None if self._at is None else self._at.packed()
        return {"at": at, "held": self._held, "rest": self._rest, "rounds": self._rounds}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        self._at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        if self._at is not None:
            check_vector("held", state["held"], len(self._at))
            check_vector("rest", state["rest"], layout.total - layout.maskable)
        self._held, self._rest, self._rounds = state["held"], state["rest"], state["rounds"]
