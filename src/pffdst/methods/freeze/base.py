"""Freeze schedules: how a run is divided into stages, what freezes, and which model a stage starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pffdst.core.facts import Facts
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.freeze.start import Last, StartModel

__all__ = ["FreezeSchedule"]


class FreezeSchedule(ABC):
    """Divides the rounds into stages. At the start of every stage except the first, weights freeze."""

    @abstractmethod
    def stage_lengths(self, rounds: int) -> list[int]:
        """The stages' lengths in rounds; their sum is `rounds`."""

    @abstractmethod
    def stage_counts(self, counts: Sequence[int]) -> list[tuple[int, ...]]:
        """Trainable weights per layer in each stage; over the stages they sum to `counts` (k_l)."""

    def start_model(self) -> StartModel:
        """Keeps what a later stage starts from; created once per run, and told of every evaluation."""
        return Last()

    def freezes(self, model: GlobalModel, stage: Stage) -> Positions:
        """Which alive weights of the model that `stage` starts from are frozen at its start: by default all of them.

        A weight that is not frozen is drawn again with the stage's trainable set. What is frozen stays frozen.
        """
        return model.alive_at

    def stages(self, rounds: int, counts: Sequence[int]) -> tuple[Stage, ...]:
        """The stages of a run of `rounds` rounds whose final model has `counts` alive weights per layer."""
        stages, start = [], 0
        for index, (length, k) in enumerate(zip(self.stage_lengths(rounds), self.stage_counts(counts), strict=True)):
            stages.append(Stage(index, start, start + length, k))
            start += length
        return tuple(stages)

    def problems(self, facts: Facts) -> list[str]:
        """Why a run of `facts.rounds` rounds is not possible, one sentence per problem."""
        return []
