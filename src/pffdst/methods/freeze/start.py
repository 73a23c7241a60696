"""Which model a later stage starts from: the one whose weights freeze."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, final

from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions

__all__ = ["START_MODELS", "Average", "BestTest", "Last", "StartModel"]


class StartModel(ABC):
    """Told of every evaluated round of a stage; returns the model that the next stage starts from."""

    def note(self, explored: bool, accuracy: float, model: GlobalModel) -> None:
        """Notes an evaluation: its accuracy on the pooled test set. `explored`: the stage's mask is already fixed."""

    @abstractmethod
    def model(self, last: GlobalModel, average: GlobalModel) -> GlobalModel:
        """The model, from the last aggregated one and the server average."""

    def state_dict(self) -> dict[str, Any]:
        """What is kept between rounds."""
        return {}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""


@final
class Last(StartModel):
    """The last aggregated model."""

    def model(self, last: GlobalModel, average: GlobalModel) -> GlobalModel:
        """The last."""
        return last


@final
class Average(StartModel):
    """The server average."""

    def model(self, last: GlobalModel, average: GlobalModel) -> GlobalModel:
        """The average."""
        return average


@final
class BestTest(StartModel):
    """The best evaluated round of the stage after exploration ended, as in the paper: it chooses on test data."""

    def __init__(self) -> None:
        self._best: tuple[float, Positions, Tensor, Tensor] | None = None

    def note(self, explored: bool, accuracy: float, model: GlobalModel) -> None:
        """Keeps the model if it is the best so far."""
        if explored and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, model.alive_at, model.held, model.rest)

    def model(self, last: GlobalModel, average: GlobalModel) -> GlobalModel:
        """The best; the last if none was evaluated. The next stage looks for its own."""
        if self._best is None:
            return last
        _, at, held, rest = self._best
        self._best = None
        return last.with_held(at.carry(held, last.alive_at), rest)

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        if self._best is None:
            return {"best": None}
        accuracy, at, held, rest = self._best
        return {"best": (accuracy, at.packed(), held, rest)}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Goes back to what `state_dict` gave."""
        best = state["best"]
        self._best = None if best is None else (best[0], Positions.unpacked(layout, best[1]), best[2], best[3])


START_MODELS: Final[dict[str, type[StartModel]]] = {"last": Last, "ema": Average, "best_test": BestTest}
