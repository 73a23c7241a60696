"""Who takes part in a round: who can be asked, who is asked, who is lost on the way, and when the round closes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from pffdst.core.errors import UserError
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.seeding import generator_for, without_replacement
from pffdst.data.csv_table import content_of, file_of
from pffdst.methods.windows import Windows

__all__ = ["Loss", "Participation", "Population", "Proportional", "Uniform"]

Loss = Literal["before", "after"]
"""When a client is lost: once it has its message, or once it has trained; its update never arrives."""


@final
@dataclass(frozen=True)
class Population:
    """All clients there are: their number C, and the training samples n_k of each."""

    clients: int
    samples: Callable[[int], int]

    @cached_property
    def sizes(self) -> Tensor:
        """n_k of all clients, float64 [C]; each is asked for once."""
        return torch.tensor([self.samples(client) for client in range(self.clients)], dtype=torch.float64)

    def among(self, those: Tensor) -> Population:
        """The population of `those` clients, int64 [c] and ascending, numbered from 0."""
        return Population(len(those), lambda client: self.samples(int(those[client])))


@dataclass(frozen=True, kw_only=True)
class Participation(ABC):
    """Draws the cohorts; what befalls the clients that are asked is the same for every way to draw.

    A client is lost with probability `dropout_before` once it has its message, else with `dropout_after` once it has
    trained, each round and client a draw of its own. `trace` names a CSV of who can be asked when (`Windows`): nobody
    else ever is. `extra` clients are asked beside the K wanted, and the round closes when K updates are in. It closes
    after `deadline` seconds at the latest, by the model of time; null or infinity is no deadline. `fixed`: no cohort
    has more than K clients and the `extra` ones; else K is their number on average.
    """

    fixed: ClassVar[bool] = True
    dropout_before: float = 0.0
    dropout_after: float = 0.0
    trace: str | None = None
    extra: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name in ("dropout_before", "dropout_after"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected `participation.{name}` to be in [0, 1], but got {getattr(self, name)}")
        if self.extra < 0:
            raise ValueError(f"Expected `participation.extra` to be 0 or more clients, but got {self.extra}")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(
                f"Expected `participation.deadline` to be seconds above 0, or null, but got {self.deadline}"
            )

    @abstractmethod
    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """`size` (K) different clients of the population for round t, in ascending order.

        Where a trace says who can be asked, the population is those who can, numbered from 0.
        """

    def asked(self, t: int, population: Population, size: int, seed: int) -> tuple[int, ...]:
        """Those asked in round t, where K = `size` are wanted: up to `size` + `extra`, of those who can be."""
        generator = generator_for(seed, "cohort", t)
        if self.windows is None:
            return self.cohort(t, population, min(size + self.extra, population.clients), generator)
        there = self.windows.open_in(max(t, 0), population.clients)
        drawn = self.cohort(t, population.among(there), min(size + self.extra, len(there)), generator)
        return tuple(int(there[client]) for client in drawn)

    def loss(self, t: int, client: int, seed: int) -> Loss | None:
        """Whether a client that was asked in round t is lost, and when."""
        if self.dropout_before == 0 and self.dropout_after == 0:
            return None
        draw = torch.rand(2, dtype=torch.float64, generator=generator_for(seed, "dropout", t, client)).tolist()
        if draw[0] < self.dropout_before:
            return "before"
        return "after" if draw[1] < self.dropout_after else None

    @property
    def closes(self) -> float | None:
        """Seconds after which a round closes; None for never."""
        return None if self.deadline is None or math.isinf(self.deadline) else self.deadline

    @cached_property
    def windows(self) -> Windows | None:
        """What the trace says. UserError where its file cannot be read."""
        return None if self.trace is None else Windows.read(file_of(self.trace))

    @property
    def content(self) -> str:
        """What it reads beside the configuration, by digest; empty where it reads nothing."""
        return "" if self.trace is None else content_of(file_of(self.trace))

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """A trace that cannot be read or fits other clients, and what needs a model of time or a simulation."""
        return [*self._trace_problems(facts), *self._number_problems(facts), *self._kind_problems(facts)]

    def _trace_problems(self, facts: Facts) -> list[str]:
        try:
            windows = self.windows
        except UserError as error:
            return [str(error)]
        if windows is None or facts.clients is None or windows.last < facts.clients:
            return []
        return [
            f"participation.trace: {self.trace} names client {windows.last}, but they are 0 to {facts.clients - 1}: "
            f"write clients={windows.last + 1}, or another file"
        ]

    def _number_problems(self, facts: Facts) -> list[str]:
        if self.extra == 0 or facts.cohort is None or facts.clients is None:
            return []
        most = facts.clients - facts.cohort
        if self.extra <= most:
            return []
        return [
            f"participation.extra={self.extra}: cohort={facts.cohort} and extra are more than the {facts.clients} "
            f"clients there are; write participation.extra={max(most, 0)}"
        ]

    def _kind_problems(self, facts: Facts) -> list[str]:
        timed = [name for name in ("extra", "deadline") if getattr(self, name)]
        lossy = [name for name in ("dropout_before", "dropout_after") if getattr(self, name) > 0]
        lines = []
        if facts.timed is False and timed:
            lines.append(
                f"participation.{' and participation.'.join(timed)}: rounds close by a model of time; write time=links "
                "or time=csv"
            )
        if facts.simulated is False and (timed or lossy):
            named = ", ".join(f"participation.{name}" for name in (*lossy, *timed))
            lines.append(
                f"{named}: clients on machines of their own drop out and lag by themselves; leave it out, and set "
                "engine.deadline"
            )
        return lines


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Participation):
    """Every client with the same chance, without replacement."""

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C, uniformly; ascending, since the order of averaging is the cohort's. It costs what takes part."""
        draws = iter(torch.rand(size, dtype=torch.float64, generator=generator).tolist())
        return tuple(sorted(without_replacement(size, population.clients, lambda n: int(next(draws) * n))))


@final
@dataclass(frozen=True, kw_only=True)
class Proportional(Participation):
    """One after another, each in proportion to its samples n_k among those not drawn yet (successive sampling).

    The first client of a draw is k with probability n_k / n; the chance to be among K is not K n_k / n, which can be
    above 1. All n_k are asked for once, before the first draw, and a draw is one pass over them.
    """

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C. Clients that come again are drawn anew; after many of those, among the others alone."""
        weights, chosen = population.sizes.clone(), set[int]()
        while len(chosen) < size:
            upto = weights.cumsum(0)
            draws = torch.rand(4 * size, dtype=torch.float64, generator=generator) * upto[-1]
            for client in torch.searchsorted(upto, draws, right=True).clamp(max=len(upto) - 1).tolist():
                if len(chosen) < size:
                    chosen.add(client)
            weights[list(chosen)] = 0
        return tuple(sorted(chosen))
