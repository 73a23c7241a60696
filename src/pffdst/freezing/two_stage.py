"""PF, parameter freezing in two stages (PFFDST, AAAI-25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final, get_args

from pffdst.freezing.base import FreezeSchedule, StartFrom

__all__ = ["TwoStage"]


@final
@dataclass(frozen=True)
class TwoStage(FreezeSchedule):
    """Stages [0, R // 2) and [R // 2, R), each with half of the final alive weights: k_l // 2, then the rest.

    `start_from` says which stage-1 model is frozen: the `last` one, the server average (`ema`), or `best_test`, the
    best evaluated round after exploration ended, which chooses on test data as the paper does.
    """

    start_from: StartFrom = "last"

    def __post_init__(self) -> None:
        if self.start_from not in get_args(StartFrom):
            names = ", ".join(get_args(StartFrom))
            raise ValueError(f"Expected `freeze.start_from` to be one of {names}, but got {self.start_from!r}")

    def stage_lengths(self, rounds: int) -> list[int]:
        """R // 2 and the rest."""
        return [rounds // 2, rounds - rounds // 2]

    def stage_counts(self, counts: Sequence[int]) -> list[tuple[int, ...]]:
        """k_l // 2 and the rest."""
        return [tuple(k // 2 for k in counts), tuple(k - k // 2 for k in counts)]

    def problems(self, rounds: int) -> list[str]:
        """Two stages take two rounds."""
        if rounds >= 2:
            return []
        return [f"freeze=two_stage needs at least 2 rounds, but rounds={rounds}: raise rounds, or write freeze=none"]
