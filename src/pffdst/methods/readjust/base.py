"""What a readjustment rule is: when and how alive weights move inside a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.masks import Move
from pffdst.core.model import GlobalModel, Stage

__all__ = ["ReadjustRule", "room_left"]


def room_left(model: GlobalModel) -> list[int]:
    """Weights per layer that are not frozen: where a trainable set can lie."""
    return model.layout.per_layer(~model.frozen)


class ReadjustRule(ABC):
    """Moves trainable weights. Frozen weights are never candidates; every count is exact.

    The same object, made from the same configuration, stands at the server and at the clients; it keeps no state.
    """

    @abstractmethod
    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """Trainable weights per layer drawn when the stage begins; `model` holds what is frozen by then."""

    @abstractmethod
    def exploration_end(self, stage: Stage) -> int:
        """R_end: the first round from which the stage's mask is fixed."""

    def on_server(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | None:
        """The server's move at the start of round t, on the aggregated model; `seed` is the round's. Most have none.

        What is grown starts from 0, also where the same position was dropped.
        """
        del model, stage, t, seed
        return None

    def wants_gradient(self, stage: Stage, t: int) -> bool:
        """Whether clients end round t with a dense gradient of one batch, move their masks and send them."""
        del stage, t
        return False

    def on_client(self, model: GlobalModel, gradient: Tensor, stage: Stage, t: int) -> GlobalModel:
        """A client's move after its last epoch; `gradient` [W] is dense. Only called where `wants_gradient`."""
        del gradient, stage, t
        return model

    def after_aggregate(self, model: GlobalModel, support: Tensor, stage: Stage) -> GlobalModel:
        """The server's move on the mean of clients that hold different masks; `support` [W] counts samples."""
        del support, stage
        return model

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """What a user should know of stages of these lengths (rounds), though they can be run."""
        del stage_lengths
        return []

    def problems(self, facts: Facts) -> list[str]:
        """What stands against stages of `facts.stage_lengths` rounds, one sentence each."""
        return []
