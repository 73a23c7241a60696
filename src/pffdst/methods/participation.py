"""Who takes part in a round: who is available, who is asked, who is lost on the way, and when the round closes."""

from __future__ import annotations

import itertools
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
    """All clients: their number C, and the number of training samples n_k of each.

    A subpopulation has the one it is `part_of`, with the numbers its clients have there.
    """

    clients: int
    samples: Callable[[int], int]
    part_of: tuple[Population, Tensor] | None = None

    @cached_property
    def sizes(self) -> Tensor:
        """n_k of all clients, float64 [C]; each is looked up once, whatever the subpopulations of the rounds."""
        if self.part_of is not None:
            whole, those = self.part_of
            return whole.sizes[those]
        return torch.tensor([self.samples(client) for client in range(self.clients)], dtype=torch.float64)

    def among(self, those: Tensor) -> Population:
        """The subpopulation of the clients `those`, int64 [c] and ascending, renumbered from 0."""
        return Population(len(those), lambda client: self.samples(int(those[client])), (self, those))


@dataclass(frozen=True, kw_only=True)
class Participation(ABC):
    """Draws the cohorts; what happens to the clients that are asked is the same however they are drawn.

    A client is lost with probability `dropout_before` once it has its message, else with probability `dropout_after`
    once it has trained; every round and client has its own draw. `trace` names a CSV of who is available when
    (`Windows`): nobody else is ever asked. `extra` clients are asked in addition to the K wanted, and the round closes
    when K updates are in. It closes after `deadline` seconds at the latest, according to the model of time; null or
    infinity means no deadline. `fixed`: no cohort has more than K clients plus `extra`; otherwise K is the average.
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

        With a trace, the population is those available, numbered from 0.
        """

    def asked(self, t: int, population: Population, size: int, seed: int) -> tuple[int, ...]:
        """Those asked in round t if K = `size` are wanted: up to `size` + `extra` of those available.

        UserError if `cohort` gives what is no cohort.
        """
        generator = generator_for(seed, "cohort", t)
        if self.windows is None:
            return self._drawn(t, population, min(size + self.extra, population.clients), generator)
        there = self.windows.open_in(max(t, 0), population.clients)
        drawn = self._drawn(t, population.among(there), min(size + self.extra, len(there)), generator)
        return tuple(int(there[client]) for client in drawn)

    def _drawn(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        drawn = self.cohort(t, population, size, generator)
        most = size if self.fixed else population.clients
        if isinstance(drawn, tuple) and len(drawn) <= most and all(type(client) is int for client in drawn):
            ascending = all(low < high for low, high in itertools.pairwise(drawn))
            if ascending and (not drawn or (drawn[0] >= 0 and drawn[-1] < population.clients)):
                return drawn
        raise UserError(
            f"participation: {type(self).__name__}.cohort({t}, ...) returned {drawn!r:.80}: expected a tuple of at "
            f"most {most} different client numbers (int) from 0 to {population.clients - 1}, in ascending order"
        )

    def loss(self, t: int, client: int, seed: int) -> Loss | None:
        """Whether, and when, a client that was asked in round t is lost."""
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
        """The trace. UserError if its file cannot be read."""
        return None if self.trace is None else Windows.read(file_of(self.trace))

    @property
    def content(self) -> str:
        """A digest of what it reads besides the configuration; empty if it reads nothing."""
        return "" if self.trace is None else content_of(file_of(self.trace))

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """A trace that cannot be read or names other clients; settings that need a model of time or a simulation."""
        return [*self._trace_problems(facts), *self._number_problems(facts), *self._kind_problems(facts)]

    def _trace_problems(self, facts: Facts) -> list[str]:
        try:
            windows = self.windows
        except UserError as error:
            return [str(error)]
        if windows is None or facts.clients is None or windows.last < facts.clients:
            return []
        return [
            f"participation.trace: {self.trace} names client {windows.last}, but clients are 0 to {facts.clients - 1}: "
            f"write clients={windows.last + 1}, or another file"
        ]

    def _number_problems(self, facts: Facts) -> list[str]:
        if self.extra == 0 or facts.cohort is None or facts.clients is None:
            return []
        most = facts.clients - facts.cohort
        if self.extra <= most:
            return []
        return [
            f"participation.extra={self.extra}: cohort={facts.cohort} plus extra is more than the {facts.clients} "
            f"clients; write participation.extra={max(most, 0)}"
        ]

    def _kind_problems(self, facts: Facts) -> list[str]:
        timed = [name for name in ("extra", "deadline") if getattr(self, name)]
        lossy = [name for name in ("dropout_before", "dropout_after") if getattr(self, name) > 0]
        lines = []
        if facts.timed is False and timed:
            lines.append(
                f"participation.{' and participation.'.join(timed)}: closing rounds early needs a model of time; write "
                "time=links or time=csv"
            )
        if facts.simulated is False and (timed or lossy):
            named = ", ".join(f"participation.{name}" for name in (*lossy, *timed))
            lines.append(
                f"{named}: clients on real machines drop out and lag on their own; leave it out, and set "
                "engine.deadline"
            )
        return lines


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Participation):
    """Every client with the same probability, without replacement."""

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C, uniformly; ascending, since averaging follows the cohort's order. O(clients that take part)."""
        draws = iter(torch.rand(size, dtype=torch.float64, generator=generator).tolist())
        return tuple(sorted(without_replacement(size, population.clients, lambda n: int(next(draws) * n))))


@final
@dataclass(frozen=True, kw_only=True)
class Proportional(Participation):
    """One after another, each in proportion to its samples n_k among those not drawn yet (successive sampling).

    The first client of a draw is k with probability n_k / n; the probability of being among K is not K n_k / n, which
    can exceed 1. All n_k are looked up once, before the first draw, and a draw is one pass over them.
    """

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C. Clients drawn twice are redrawn; after many of those, only from the others."""
        weights, chosen = population.sizes.clone(), set[int]()
        while len(chosen) < size:
            upto = weights.cumsum(0)
            draws = torch.rand(4 * size, dtype=torch.float64, generator=generator) * upto[-1]
            for client in torch.searchsorted(upto, draws, right=True).clamp(max=len(upto) - 1).tolist():
                if len(chosen) < size:
                    chosen.add(client)
            weights[list(chosen)] = 0
        return tuple(sorted(chosen))
