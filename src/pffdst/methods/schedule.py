"""When a mask moves, kept separate from how it moves, so that any rule works with any schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from pffdst.core.model import Stage

__all__ = ["Every", "UpdateSchedule"]


class UpdateSchedule(ABC):
    """The rounds of a stage on which its mask moves, and how the share that moves decays."""

    @abstractmethod
    def end(self, stage: Stage) -> float:
        """T_end in rounds after the stage's start, after which nothing moves. Not rounded."""

    @abstractmethod
    def due(self, stage: Stage, t: int) -> bool:
        """Whether the mask moves in round t."""

    def fixed_from(self, stage: Stage) -> int:
        """The first round from which nothing moves: t0 + ceil(T_end)."""
        return stage.start + math.ceil(self.end(stage))

    def decay(self, stage: Stage, t: int) -> float:
        """1 + cos(pi t / T_end), t from the stage's start: from 2 to 0. A share is half of it times its start value."""
        end = self.end(stage)
        since = t - stage.start
        return 0.0 if since >= end else 1 + math.cos(math.pi * since / end)


@final
@dataclass(frozen=True)
class Every(UpdateSchedule):
    """Every `interval` rounds (Delta R) from round `first` of the stage, during the stage's first share `until`.

    With `rounds` above 0, that many rounds (not necessarily an integer) replace the share.
    """

    interval: int = 10
    first: int = 0
    until: float = 0.5
    rounds: float = 0.0

    def __post_init__(self) -> None:
        for key, value, least in (("interval", self.interval, 1), ("first", self.first, 0), ("rounds", self.rounds, 0)):
            if value < least:
                raise ValueError(f"Expected `schedule.{key}` to be at least {least}, but got {value}")
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"Expected `schedule.until`, a share of the stage, in (0, 1], but got {self.until}")

    def end(self, stage: Stage) -> float:
        """The share of the stage's length, or the rounds that replace it."""
        return min(float(self.rounds), stage.length) if self.rounds else self.until * stage.length

    def due(self, stage: Stage, t: int) -> bool:
        """(t - first) % Delta R == 0 and first <= t < T_end, t counted from the stage's start."""
        since = t - stage.start
        return self.first <= since < self.end(stage) and (since - self.first) % self.interval == 0
