"""The learning rate over the rounds of a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

__all__ = ["Constant", "Cosine", "Exponential", "LearningRateSchedule", "Step"]


class LearningRateSchedule(ABC):
    """Clients of one round share one learning rate."""

    @abstractmethod
    def at(self, lr: float, t: int, rounds: int) -> float:
        """The learning rate of round t = 0 .. rounds - 1 of a run that starts with `lr`."""


@final
@dataclass(frozen=True)
class Constant(LearningRateSchedule):
    """The same in all rounds."""

    def at(self, lr: float, t: int, rounds: int) -> float:
        """lr."""
        return lr


@final
@dataclass(frozen=True)
class Exponential(LearningRateSchedule):
    """lr factor^t or, with `end`, lr end^(t / horizon), which is `end` times the first rate in round `horizon`.

    `horizon` null is the run's length.
    """

    factor: float = 0.998
    end: float | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        for key, value in (("factor", self.factor), ("end", self.end)):
            if value is not None and not 0.0 < value <= 1.0:
                raise ValueError(f"Expected `lr_schedule.{key}` to be in (0, 1], but got {value}")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"Expected `lr_schedule.horizon` to be at least 1 round, but got {self.horizon}")

    def at(self, lr: float, t: int, rounds: int) -> float:
        """lr factor^t, or lr end^(t / horizon)."""
        factor: float = self.factor**t if self.end is None else self.end ** (t / (self.horizon or rounds))
        return lr * factor


@final
@dataclass(frozen=True)
class Step(LearningRateSchedule):
    """Times `factor` after every `every` rounds."""

    every: int = 100
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"Expected `lr_schedule.every` to be at least 1 round, but got {self.every}")
        if not 0.0 < self.factor <= 1.0:
            raise ValueError(f"Expected `lr_schedule.factor` to be in (0, 1], but got {self.factor}")

    def at(self, lr: float, t: int, rounds: int) -> float:
        """lr factor^(t // every)."""
        return lr * self.factor ** (t // self.every)


@final
@dataclass(frozen=True)
class Cosine(LearningRateSchedule):
    """After a linear `warm_up` of so many rounds, half a cosine from lr to lr times `end`."""

    end: float = 0.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.end <= 1.0:
            raise ValueError(f"Expected `lr_schedule.end` to be in [0, 1], but got {self.end}")
        if self.warm_up < 0:
            raise ValueError(f"Expected `lr_schedule.warm_up` to be 0 rounds or more, but got {self.warm_up}")

    def at(self, lr: float, t: int, rounds: int) -> float:
        """lr (t + 1) / (warm_up + 1) at first, then lr (end + (1 - end) (1 + cos(pi share)) / 2)."""
        if t < self.warm_up:
            return lr * (t + 1) / (self.warm_up + 1)
        share = (t - self.warm_up) / max(rounds - self.warm_up, 1)
        return lr * (self.end + (1 - self.end) * (1 + math.cos(math.pi * share)) / 2)
