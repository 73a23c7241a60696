"""PF, parameter freezing in two stages (PFFDST, AAAI-25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from pffdst.core.facts import Facts
from pffdst.core.shares import whole_share
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.freeze.start import START_MODELS, StartModel

__all__ = ["TwoStage"]


@final
@dataclass(frozen=True)
class TwoStage(FreezeSchedule):
    """Stages [0, F) and [F, R), each with half of the final alive weights: k_l // 2, then the rest.

    F = floor(`at` R): stage 2 starts after a share `at` of the rounds; half of them in the paper. `start_from` says
    which stage-1 model is frozen: the `last` one, the server average (`ema`), `best_test`, the best evaluated round
    after exploration ended, which chooses on test data as the paper does, or your own `StartModel`.
    """

    start_from: Literal["last", "ema", "best_test"] | StartModel = "last"
    at: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.at < 1.0:
            raise ValueError(f"Expected `freeze.at`, a share of rounds, strictly between 0 and 1, but got {self.at}")
        if not isinstance(self.start_from, StartModel) and self.start_from not in START_MODELS:
            names = ", ".join(START_MODELS)
            raise ValueError(f"Expected `freeze.start_from` to be one of {names}, but got {self.start_from!r}")

    def stage_lengths(self, rounds: int) -> list[int]:
        """F and the rest."""
        first = whole_share(self.at, rounds)
        return [first, rounds - first]

    def stage_counts(self, counts: Sequence[int]) -> list[tuple[int, ...]]:
        """k_l // 2 and the rest."""
        return [tuple(k // 2 for k in counts), tuple(k - k // 2 for k in counts)]

    def start_model(self) -> StartModel:
        """As `start_from` says."""
        return self.start_from if isinstance(self.start_from, StartModel) else START_MODELS[self.start_from]()

    def problems(self, facts: Facts) -> list[str]:
        """Each stage needs at least one round."""
        rounds = facts.rounds
        if rounds is None:
            return []
        if rounds < 2:
            return [f"freeze=two_stage needs at least 2 rounds, but rounds={rounds}: raise it, or write freeze=none"]
        if self.stage_lengths(rounds)[0] == 0:
            return [f"freeze.at={self.at} leaves stage 1 without any of the {rounds} rounds: raise freeze.at or rounds"]
        return []
